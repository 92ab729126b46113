"""Replace ``auto`` in precision and backend by values that suit the machine.

A new run is trained with the chosen values, and its ``config.yaml`` has them instead of ``auto``.
A resumed run keeps them; so does a sweep's job that is run again.
"""

import dataclasses
from typing import Any

from lstm_lm.config import AUTO, Backend, CoreName, RunConfig
from lstm_lm.machine import resolve_precision
from lstm_lm.model.fused.kernels import backend_here

NAMES = "device.precision", "model.backend"


def resolve_auto(
    config: RunConfig, device: str, apart: bool = False
) -> tuple[RunConfig, str | None]:
    """The config without ``auto``, and for an ``auto`` precision a line that says why this one.

    Args:
        device: the run's device, ``cpu`` or ``cuda``.
        apart: ask the GPU in a separate process: takes no GPU memory, but seconds longer.

    Raises:
        SettingsError: if the requested precision is not native to the device.
    """
    precision, why = resolve_precision(config.device.precision, device, apart)
    on = dataclasses.replace(config.device, precision=precision)
    return dataclasses.replace(resolve_backend(config, device), device=on), why


def resolve_backend(config: RunConfig, device: str) -> RunConfig:
    if config.model.backend is not Backend.auto:
        return config
    is_fused = (
        config.model.core is CoreName.fused
    )  # other cores ignore the backend: theirs is torch
    backend = backend_here(device) if is_fused else Backend.torch
    return dataclasses.replace(config, model=dataclasses.replace(config.model, backend=backend))


def without_auto(changes: dict[str, Any]) -> dict[str, Any]:
    """The changes to a resumed run, without ``auto``, which keeps the values it has."""
    return {n: value for n, value in changes.items() if n not in NAMES or value != AUTO}
