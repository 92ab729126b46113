"""Settings that suit the machine: what ``auto`` stands for in precision and backend.

A new run is trained with what was chosen, and its ``config.yaml`` has that instead of ``auto``. A
resumed run keeps it, and so does a job of a sweep that is run again.
"""

import dataclasses
from typing import Any

from lstm_lm.config import AUTO, Backend, CoreName, RunConfig
from lstm_lm.machine import precision_here
from lstm_lm.model.fused.kernels import backend_here

NAMES = "device.precision", "model.backend"


def settle(config: RunConfig, device: str, apart: bool = False) -> tuple[RunConfig, str | None]:
    """The config without ``auto``, and a line that says why this precision, if that was open.

    Args:
        device: ``cpu`` or ``cuda``, whichever the run will train on.
        apart: whether to leave a GPU's memory alone; takes seconds longer.

    Raises:
        SettingsError: if the device has not the precision that is asked for.
    """
    precision, why = precision_here(config.device.precision, device, apart)
    on = dataclasses.replace(config.device, precision=precision)
    return dataclasses.replace(with_backend(config, device), device=on), why


def with_backend(config: RunConfig, device: str) -> RunConfig:
    if config.model.backend is not Backend.auto:
        return config
    is_fused = config.model.core is CoreName.fused  # to other cores it means nothing, and is torch
    backend = backend_here(device) if is_fused else Backend.torch
    return dataclasses.replace(config, model=dataclasses.replace(config.model, backend=backend))


def without_auto(changes: dict[str, Any]) -> dict[str, Any]:
    """The settings typed for a resumed run, but for ``auto``, which changes nothing there."""
    return {n: value for n, value in changes.items() if n not in NAMES or value != AUTO}
