"""Settings that suit the machine: what ``auto`` stands for in precision and backend.

A new run is trained, and its folder and fingerprint are made, with what was chosen. A run that
goes on keeps that.
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
    model = config.model
    if model.backend is Backend.auto:
        is_fused = model.core is CoreName.fused  # to other cores it means nothing, and is torch
        backend = backend_here(device) if is_fused else Backend.torch
        model = dataclasses.replace(model, backend=backend)
    on = dataclasses.replace(config.device, precision=precision)
    return dataclasses.replace(config, model=model, device=on), why


def without_auto(changes: dict[str, Any]) -> dict[str, Any]:
    """Of the settings typed for a run that goes on, those that do not say: as the run has it."""
    return {n: value for n, value in changes.items() if n not in NAMES or value != AUTO}
