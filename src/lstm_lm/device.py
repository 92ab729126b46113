"""Which device a run or a command works on."""

import ctypes
import platform

import torch

from lstm_lm.config import Accelerator
from lstm_lm.errors import SettingsError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as glibc's malloc.h has them


def choose_device(accelerator: Accelerator, devices: int = 1, local_rank: int = 0) -> torch.device:
    """The GPU or the CPU.

    Args:
        devices: how many of this computer's GPUs are needed, one for each process.
        local_rank: which of these processes asks.

    Raises:
        SettingsError: if more GPUs are asked for than there are.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator is Accelerator.gpu and gpus == 0:
        raise SettingsError(
            "a GPU was asked for, but PyTorch finds none here: choose the device cpu or auto"
        )
    if accelerator is Accelerator.cpu or gpus == 0:
        return torch.device("cpu")
    if devices > gpus:
        raise SettingsError(
            f"device.devices={devices} GPUs were asked for, but PyTorch finds {gpus} here: "
            f"choose device.devices={gpus}, or device.accelerator=cpu"
        )
    return torch.device("cuda", local_rank) if devices > 1 else torch.device("cuda")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()})"


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next step, which asks for the same again.

    Else every large tensor comes as fresh pages from the system: of a step with hidden size 512 on
    64 rows of 100 tokens that took a quarter. Without the GNU library nothing changes.
    """
    largest = 2**31 - 1
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option in M_MMAP_THRESHOLD, M_TRIM_THRESHOLD:
            set_option(option, largest)
