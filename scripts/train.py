"""Train one model, or with ``-m`` many side by side. ``--help`` lists every setting.

The program is :mod:`lstm_lm.commands.train`; ``lstm-lm train`` is the same.
"""

from lstm_lm.commands.train import main
from lstm_lm.process import run_program

if __name__ == "__main__":
    run_program(main)
