"""Hydra plugin that searches with Optuna instead of a grid: ``hydra/sweeper=optuna``.

study.py     the search space, and the record of all trials
sweeper.py   Optuna proposes trials, the launcher runs them
"""
