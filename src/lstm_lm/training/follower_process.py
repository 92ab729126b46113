"""What the first rank starts: ``python -m lstm_lm.training.follower_process 1 2 <port> cpu``."""

import os
import sys
import threading


def main() -> int:
    threading.Thread(target=end_with_first_rank, daemon=True).start()
    from lstm_lm.training.follower import follow_here  # here, as it takes seconds

    number, count, port, accelerator = sys.argv[1:]
    return follow_here(int(number), int(count), int(port), accelerator)


def end_with_first_rank() -> None:
    os.read(sys.stdin.fileno(), 1)  # ends when nobody holds the pipe's other end any more
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
