"""The exact perplexity of a text under a trained model.

The program is :mod:`lstm_lm.commands.evaluate`; ``lstm-lm evaluate`` is the same.
"""

from lstm_lm.commands.evaluate import main
from lstm_lm.process import run_program

if __name__ == "__main__":
    run_program(main)
