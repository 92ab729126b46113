"""A job of a sweep as a child process, and the slots that it takes on the CPU and on GPUs.

A slot on a GPU is a lock on a file that all sweeps of the machine share. The job's own process
holds the lock, so the slot is free again as soon as that process ends, for any reason.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lstm_lm.config import Accelerator
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.files import acquire, is_locked, read_json
from lstm_lm.process import environment_without_ranks
from lstm_lm.saved.run_folder import Status
from lstm_lm.saved.sweep_folder import Job, SweepFolder

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


def visible_gpus() -> list[str]:
    """Names of the visible GPUs, as ``CUDA_VISIBLE_DEVICES`` takes them."""
    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if listed is None else listed.split(",")
    return [name.strip() for name in names][:count]


def uses_gpu(accelerator: str, gpus: Sequence[str]) -> bool:
    """True if a job with this setting would run on a GPU here, or needs one."""
    return accelerator == Accelerator.gpu or (accelerator == Accelerator.auto and bool(gpus))


class GpuSlots:
    """The GPU slots of this machine; ``per_gpu`` jobs may share a GPU."""

    def __init__(self, gpus: list[str], per_gpu: int, folder: Path | None = None) -> None:
        self.gpus, self.per_gpu = gpus, per_gpu
        self.folder = folder or Path(tempfile.gettempdir()) / "lstm_lm_gpu_slots"

    def take(self, count: int) -> dict[str, int] | None:
        """Lock slots on ``count`` GPUs: a handle for each GPU, or None if too few are free.

        The job inherits the handles. The emptiest GPUs come first.

        Raises:
            SettingsError: if the folder's file system has no locks.
        """
        taken: dict[str, int] = {}
        for slot in range(self.per_gpu):
            for gpu in self.gpus:
                if len(taken) < count and gpu not in taken:
                    handle = self.lock(f"gpu_{gpu}.{slot}".replace("/", "-"))
                    if handle is not None:
                        taken[gpu] = handle
        if len(taken) == count:
            return taken
        release(taken)
        return None

    def lock(self, name: str) -> int | None:
        before = os.umask(0)  # other users' sweeps lock these files, too
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o666)
        finally:
            os.umask(before)
        if is_locked(self.folder / name) is None:
            os.close(handle)
            raise SettingsError(
                f"jobs share GPUs by file locks, but {self.folder} does not support them: set "
                "TMPDIR to a folder on a disk of this machine"
            )
        if acquire(handle, until=0.0):  # without waiting
            return handle
        os.close(handle)
        return None


def release(taken: dict[str, int]) -> None:
    """Close this process's locks; a job that was started with them keeps its own."""
    for handle in taken.values():
        os.close(handle)


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
