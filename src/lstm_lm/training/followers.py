"""The other ranks of a run, where the first one starts them, on its own computer.

No process of these outlives the first: the system closes the pipe that it holds for each,
however it ends, and a follower whose pipe is closed ends at once.
"""

import signal
import subprocess
import sys
import threading
import time
from typing import Any

import torch
from torch import distributed

from lstm_lm.config import Accelerator
from lstm_lm.ranks import somebody

LOST_OTHERS = 3  # exit code of a follower that ends because another process of the run did
PATIENCE = 5.0  # seconds until a process that ended can be asked how
GRACE = 10.0  # seconds in which it should be noticed


class Followers:
    """While this context lasts, ranks 1 to ``count - 1`` run as processes of their own.

    Each has a session of its own, too, so that Ctrl-C at a terminal reaches the first rank alone.
    """

    def __init__(self, count: int, port: int, accelerator: Accelerator) -> None:
        command = [sys.executable, "-P", "-m", "lstm_lm.training.follower_process"]
        self.over = threading.Event()
        self.processes = {
            number: subprocess.Popen(
                [*command, str(number), str(count), str(port), accelerator],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            for number in range(1, count)
        }

    def __enter__(self) -> "Followers":
        for process in self.processes.values():
            threading.Thread(target=self.watch, args=[process], daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.over.set()
        for process in self.processes.values():  # which have nothing to lose
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """Free the GPU, which may wait for a dead process where nothing else can interrupt it."""
        was_lost = process.wait() not in (0, LOST_OTHERS) and not self.over.wait(GRACE)
        group = distributed.group.WORLD
        if was_lost and group is not None and torch.cuda.is_initialized():
            group.abort()

    def any_ended(self) -> bool:
        return any(process.poll() is not None for process in self.processes.values())

    def who_ended(self) -> str:
        """Which of them ended first, and how, as far as that can be known."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            for number, process in self.processes.items():
                if (code := process.poll()) not in (None, 0, LOST_OTHERS):
                    return f"a process of this run, rank {number}, {how_ended(code)}"
            time.sleep(0.02)
        return somebody()


def how_ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
