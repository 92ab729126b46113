"""Slots on this machine's GPUs, one for each job that runs there.

A slot is a lock on a file that all sweeps of the machine share. The job's own process holds the
lock, so the slot is free again as soon as that process ends, for any reason.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from lstm_lm.config import Accelerator
from lstm_lm.errors import SettingsError
from lstm_lm.files import acquire, is_locked


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
