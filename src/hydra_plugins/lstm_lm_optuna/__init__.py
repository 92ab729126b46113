"""To search instead of a grid, ``hydra/sweeper=optuna``.

study.py     what Optuna draws from, and what it has written down
sweeper.py   Optuna proposes, the launcher trains
"""
