"""What Hydra runs a sweep with; it looks for such plugins in the package ``hydra_plugins`` only.

launcher.py   all jobs of a sweep at once → lstm_lm.sweep
"""
