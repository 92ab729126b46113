"""What Hydra runs a sweep with; it looks for such plugins in the package ``hydra_plugins`` only.

settings.py   what Hydra composed and what was typed → the config of a run
launcher.py   all jobs of a sweep at once → lstm_lm.sweep
"""
