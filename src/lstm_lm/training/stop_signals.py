"""Signals that end a run: Ctrl-C, SIGTERM, the terminal's end (SIGHUP), and SIGUSR1 by which SLURM
warns before a job's time is up.

They wait until nothing is half done: a step, a file, an import. A second Ctrl-C does not, without
saving what was not saved yet; only a file that is being written is finished.
"""

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lstm_lm.errors import Stopped

log = logging.getLogger(__name__)


class StopSignals:
    """While this context lasts, signals wait until :meth:`heed` raises :class:`Stopped`."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.shared = False  # with other ranks, which stop after the same step
        self.agreed: int | None = None
        self.interrupted = False  # by Ctrl-C
        self.waiting = True
        self.saving = False
        self.before: dict[int, Any] = {}

    @property
    def to_heed(self) -> int | None:
        return self.agreed if self.shared else self.received

    def __enter__(self) -> "StopSignals":
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            numbers.append(signal.SIGHUP)
        if slurm_job() is not None:
            numbers.append(signal.SIGUSR1)
        if threading.current_thread() is threading.main_thread():  # others cannot listen
            self.before = {number: signal.getsignal(number) for number in numbers}
        self.listen()
        return self

    def listen(self) -> None:
        for number in self.before:
            signal.signal(number, self)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if isinstance(error, Stopped) and error.signal is signal.SIGUSR1:
            requeue()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        insists = number == signal.SIGINT and self.interrupted
        self.interrupted |= number == signal.SIGINT
        self.received = self.received or number  # what came first decides how it ends
        if not self.saving and (insists or not self.waiting):
            raise Stopped(self.received)
        again = "; again to stop at once" if number == signal.SIGINT else ""
        log.info("%s: stopping after this step%s", signal.Signals(number).name, again)

    def heed(self) -> None:
        """Stop here, if a signal has come."""
        if self.to_heed is not None:
            raise Stopped(self.to_heed)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let signals end what is long and leaves nothing half done."""
        self.heed()
        self.waiting = False
        try:
            yield
        finally:
            self.waiting = True

    @contextmanager
    def while_saving(self) -> Iterator[None]:
        """Let signals wait, also the second Ctrl-C."""
        self.saving = True
        try:
            yield
        finally:
            self.saving = False


def slurm_job() -> str | None:
    """The id of the SLURM job that this process is, as ``scontrol`` takes it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', 0)}"
    return os.environ.get("SLURM_JOB_ID")


def requeue() -> None:
    """Ask SLURM to run this job again."""
    command = ["scontrol", "requeue", str(slurm_job())]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("%s failed, so the job is not requeued: %s", " ".join(command), error)
