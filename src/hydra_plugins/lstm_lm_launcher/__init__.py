"""Hydra plugin that runs a sweep; Hydra finds plugins only in the package ``hydra_plugins``.

launcher.py   passes all jobs of a sweep to lstm_lm.sweep
"""
