"""Train one model, or with ``-m`` many in parallel. ``--help`` lists every setting.

The same program as ``lstm-lm train``: :mod:`lstm_lm.commands.train`.
"""

from lstm_lm.commands.train import main
from lstm_lm.process import run_program

if __name__ == "__main__":
    run_program(main)
