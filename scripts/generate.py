"""Continue a prompt with a trained model.

The program is :mod:`lstm_lm.commands.generate`; ``lstm-lm generate`` is the same.
"""

from lstm_lm.commands.generate import main
from lstm_lm.process import run_program

if __name__ == "__main__":
    run_program(main)
