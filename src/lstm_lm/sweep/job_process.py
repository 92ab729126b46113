"""A job of a sweep as a child process: start, progress, stop and outcome."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

from lstm_lm.errors import DamagedFile
from lstm_lm.files import read_json
from lstm_lm.process import environment_without_ranks
from lstm_lm.saved.run_folder import Status
from lstm_lm.saved.sweep_folder import Job, SweepFolder
from lstm_lm.sweep.gpu_slots import release

COMMAND = (
    sys.executable,
    "-P",
    "-m",
    "lstm_lm.commands.sweep_job",
)  # -P: no modules of the current folder
BAD_SETTINGS = 2  # exit code
LOG_TAIL = 4096  # bytes at the end of a log that are searched for the error


class CpuSlots(NamedTuple):
    """Slots on the CPU that jobs take."""

    processes: int
    cores: int

    def plus(self, other: "CpuSlots") -> "CpuSlots":
        return CpuSlots(self.processes + other.processes, self.cores + other.cores)

    def fits_into(self, limits: "CpuSlots") -> bool:
        return self.processes <= limits.processes and self.cores <= limits.cores


NO_SLOTS = CpuSlots(0, 0)


class JobProcess:
    """The child process of a job.

    Args:
        slots: the slots it takes on the CPU; none for a job on a GPU.
        gpus: the GPUs it runs on, each with the lock that it inherits.
    """

    def __init__(
        self, folder: SweepFolder, job: Job, slots: CpuSlots, gpus: dict[str, int]
    ) -> None:
        self.run_folder = folder.run_folder(job)
        self.job = job
        self.slots = slots
        self.started = time.monotonic()
        self.share_at_start: float | None = None
        self.is_stopping = False
        environment = environment_without_ranks() | {
            "OMP_NUM_THREADS": str(job.threads),
            "MKL_NUM_THREADS": str(job.threads),
            "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        }
        try:
            self.run_folder.path.mkdir(exist_ok=True)
            self.run_folder.progress.unlink(missing_ok=True)  # left by a killed process
            with open(self.run_folder.log, "ab") as log:
                self.log_start = log.tell()
                self.process = subprocess.Popen(
                    [*COMMAND, str(folder.path), str(job.number)],
                    stdin=subprocess.PIPE,  # its end tells the job that the sweep is gone
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    pass_fds=list(gpus.values()),
                    start_new_session=True,  # Ctrl-C reaches only the sweep; it stops its jobs
                )
        finally:
            release(gpus)

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> None:
        """Ask the job to save and end."""
        if not self.is_stopping:
            self.is_stopping = True
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process now; its run keeps the last checkpoint."""
        self.is_stopping = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def progress(self) -> dict[str, Any]:
        """Content of the run's progress file; empty before its first step."""
        try:
            progress = read_json(self.run_folder.progress)
        except (OSError, ValueError):
            return {}
        if self.share_at_start is None:
            self.share_at_start = progress["share"]
        return progress

    def outcome(self) -> tuple[Status, str | None]:
        """Wait for the process to end; return the job's status and, if it failed, the reason."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        code = self.process.wait()
        with contextlib.suppress(OSError):
            self.run_folder.progress.unlink(missing_ok=True)
        if code == 0:
            return Status.completed, None
        if code > 128 or (code < 0 and self.is_stopping):
            return Status.interrupted, None
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", perhaps out of memory" if name == "SIGKILL" else ""
            return Status.failed, f"ended by {name}{hint}"
        with contextlib.suppress(DamagedFile):
            if self.run_folder.read_summary()["status"] == Status.diverged:
                return Status.diverged, self.last_log_line()
        return Status.failed, self.last_log_line()

    @property
    def should_retry(self) -> bool:
        """True if it failed for a reason that may be temporary."""
        return self.job.status == Status.failed and self.process.returncode != BAD_SETTINGS

    def last_log_line(self) -> str:
        try:
            with open(self.run_folder.log, "rb") as log:
                log.seek(max(self.log_start, os.path.getsize(self.run_folder.log) - LOG_TAIL))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError as error:
            lines = [f"{self.run_folder.log} cannot be read: {error.strerror}"]
        nothing = f"it ended with code {self.process.returncode} and printed nothing"
        last = next((line for line in reversed(lines) if line.strip()), nothing)
        return last.strip().removeprefix("error: ")
