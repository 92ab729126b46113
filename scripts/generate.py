"""Continue a prompt with a trained model.

The same program as ``lstm-lm generate``: :mod:`lstm_lm.commands.generate`.
"""

from lstm_lm.commands.generate import main
from lstm_lm.process import run_program

if __name__ == "__main__":
    run_program(main)
