"""Print the exact perplexity of a text under a trained model.

The same program as ``lstm-lm evaluate``: :mod:`lstm_lm.commands.evaluate`.
"""

from lstm_lm.commands.evaluate import main
from lstm_lm.process import run_program

if __name__ == "__main__":
    run_program(main)
