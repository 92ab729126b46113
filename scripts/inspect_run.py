"""Look inside a trained model: a text colored by its units, and what it expects next.

The program is :mod:`lstm_lm.commands.inspect`; ``lstm-lm inspect`` is the same.
"""

from lstm_lm.commands.inspect import main
from lstm_lm.process import run_program

if __name__ == "__main__":
    run_program(main)
