"""Compare the runs of a sweep, or of any folders: a table, the best settings, pictures.

The same program as ``lstm-lm compare``: :mod:`lstm_lm.commands.compare`.
"""

from lstm_lm.commands.compare import main
from lstm_lm.process import run_program

if __name__ == "__main__":
    run_program(main)
