"""Which device a run or a command works on."""

import platform

import torch

from lstm_lm.config import Accelerator
from lstm_lm.errors import SettingsError


def choose_device(accelerator: Accelerator) -> torch.device:
    """The GPU or the CPU.

    Raises:
        SettingsError: if a GPU is asked for where there is none.
    """
    has_gpu = torch.cuda.is_available()
    if accelerator is Accelerator.gpu and not has_gpu:
        raise SettingsError(
            "a GPU was asked for, but PyTorch finds none here: choose the device cpu or auto"
        )
    use_gpu = has_gpu and accelerator is not Accelerator.cpu
    return torch.device("cuda" if use_gpu else "cpu")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()})"
