"""Inspect a trained model: a text colored by its units, and its guesses for each next token.

The same program as ``lstm-lm inspect``: :mod:`lstm_lm.commands.inspect`.
"""

from lstm_lm.commands.inspect import main
from lstm_lm.process import run_program

if __name__ == "__main__":
    run_program(main)
