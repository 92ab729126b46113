"""What is measured on, prepared alike for all ways."""

import time
from collections.abc import Callable

import torch

from lstm_lm.config import Accelerator
from lstm_lm.machine import choose_device, keep_freed_memory


def prepare(name: str) -> torch.device:
    """The device of this name, ``cpu`` or ``cuda``.

    Raises:
        SettingsError: if there is no GPU.
    """
    keep_freed_memory()  # as training does
    if name == "cpu":
        return choose_device(Accelerator.cpu)
    device = choose_device(Accelerator.gpu)
    # cuDNN's cells use TF32 unless told not to, matrix products only if told to.
    torch.backends.cudnn.rnn.fp32_precision = "tf32"  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    return device


def finish(device: torch.device) -> None:
    """Wait until the device has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long something takes."""
    finish(device)
    began = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - began
