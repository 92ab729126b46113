"""Build the same model on every core that can run here."""

import dataclasses
import logging
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import nn

from benchmarks.naive import NaiveModel
from benchmarks.shapes import Shape
from lstm_lm.config import BACKENDS, Backend, Cell, CoreName, ModelConfig
from lstm_lm.errors import SettingsError
from lstm_lm.model.fused.kernels import check_backend
from lstm_lm.model.language_model import LanguageModel

BUILTIN, SCRATCH, NAIVE = "builtin", "scratch", "naive"

log = logging.getLogger(__name__)


def builders(shape: Shape, cell: Cell, device: torch.device) -> dict[str, Callable[[], nn.Module]]:
    """Functions that build the models, all with the same weights; the first is the reference."""
    torch.manual_seed(0)
    builtin = LanguageModel(shape.model(cell), shape.vocabulary_size)

    def build(settings: ModelConfig) -> nn.Module:
        model = LanguageModel(settings, shape.vocabulary_size)
        model.load_state_dict(builtin.state_dict())
        return model.to(device)

    settings = {core: shape.model(cell, CoreName(core)) for core in (BUILTIN, SCRATCH)}
    settings |= fused(settings[SCRATCH], device)
    every: dict[str, Callable[[], nn.Module]] = {
        name: partial(build, of) for name, of in settings.items()
    }
    if cell is Cell.lstm:
        every[NAIVE] = lambda: NaiveModel(builtin).to(device)
    return every


def fused(scratch: ModelConfig, device: torch.device) -> dict[str, ModelConfig]:
    """Settings of the fused core with each backend that can run here."""
    return {
        f"fused {backend}": dataclasses.replace(scratch, core=CoreName.fused, backend=backend)
        for backend in possible_backends(device)
    }


@cache
def possible_backends(device: torch.device) -> list[Backend]:
    possible = []
    for backend in BACKENDS:
        try:
            check_backend(backend, device)
            possible.append(backend)
        except SettingsError as error:
            log.warning("fused %s is left out: %s", backend, error)
    return possible
