"""What the first rank starts: ``python -m lstm_lm.training.follower_process 1 2 <port> cpu``."""

import os
import sys

from lstm_lm.child_process import when_parent_is_gone
from lstm_lm.slow_imports import slow_imports


def main() -> int:
    when_parent_is_gone(lambda: os._exit(1))
    with slow_imports():  # here, so that the parent's end is noticed meanwhile
        from lstm_lm.training.follower import follow_here

    number, count, port, accelerator = sys.argv[1:]
    return follow_here(int(number), int(count), int(port), accelerator)


if __name__ == "__main__":
    sys.exit(main())
