"""Hydra plugin that searches with Optuna instead of a grid: ``hydra/sweeper=optuna``.

sweeper.py   Optuna proposes trials, the launcher runs them; the record of all trials
"""
