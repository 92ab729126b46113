"""Signals that end a run: Ctrl-C, SIGTERM, and SIGUSR1 by which SLURM warns before its time is up.

Training heeds them after the step that is being made, so that what is saved is whole. A second
Ctrl-C ends it at once, without saving; it waits only for a file that is being written.
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
    """While this context lasts, the signals raise :class:`Stopped`: at once, or where it suits."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.interrupted = False  # by Ctrl-C
        self.training = False
        self.saving = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        numbers = [signal.SIGINT, signal.SIGTERM]
        if slurm_job() is not None:
            numbers.append(signal.SIGUSR1)
        if threading.current_thread() is threading.main_thread():  # others cannot listen
            self.before = {number: signal.signal(number, self) for number in numbers}
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if isinstance(error, Stopped) and error.signal is signal.SIGUSR1:
            requeue()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        insists = number == signal.SIGINT and self.interrupted
        self.interrupted |= number == signal.SIGINT
        self.received = self.received or number  # what came first decides how it ends
        if not self.saving and (insists or not self.training):
            raise Stopped(self.received)
        log.info("%s: stopping after this step", signal.Signals(number).name)

    def heed(self) -> None:
        """Stop here, if a signal has come."""
        if self.received is not None:
            raise Stopped(self.received)

    @contextmanager
    def while_training(self) -> Iterator[None]:
        """Let signals wait until :meth:`heed`."""
        self.training = True
        try:
            yield
        finally:
            self.training = False
        self.heed()

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
