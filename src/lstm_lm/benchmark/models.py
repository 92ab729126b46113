"""The same model on every core that can run here."""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from lstm_lm import config
from lstm_lm.benchmark.naive import NaiveModel
from lstm_lm.benchmark.shapes import Shape
from lstm_lm.config import Cell, CoreName, ModelConfig
from lstm_lm.errors import SettingsError
from lstm_lm.model.language_model import LanguageModel

BUILTIN, SCRATCH, NAIVE = "builtin", "scratch", "naive"

log = logging.getLogger(__name__)


def builders(shape: Shape, cell: Cell, device: torch.device) -> dict[str, Callable[[], nn.Module]]:
    """What makes each of them, all with the same weights; the first is the reference."""
    torch.manual_seed(0)
    builtin = LanguageModel(shape.model(cell), shape.vocabulary_size)

    def build(settings: ModelConfig) -> nn.Module:
        model = LanguageModel(settings, shape.vocabulary_size)
        model.load_state_dict(builtin.state_dict())
        return model.to(device)

    settings = {core: shape.model(cell, CoreName(core)) for core in (BUILTIN, SCRATCH)}
    settings |= fused(settings[SCRATCH])
    every = {name: partial(build, of) for name, of in settings.items()}
    runnable: dict[str, Callable[[], nn.Module]] = {
        name: build for name, build in every.items() if can_run(name, build, device)
    }
    if cell is Cell.lstm:
        runnable[NAIVE] = lambda: NaiveModel(builtin).to(device)
    return runnable


# To be finished when model.core=fused is merged: until then there is no Backend, so no fused core.
def fused(scratch: ModelConfig) -> dict[str, ModelConfig]:
    """Settings of the fused core with each of its backends."""
    return {
        f"fused {backend}": dataclasses.replace(
            scratch,
            core=CoreName("fused"),
            **{"backend": backend},
        )
        for backend in getattr(config, "Backend", ())
    }


def can_run(name: str, build: Callable[[], nn.Module], device: torch.device) -> bool:
    try:
        logits, _ = build()(torch.zeros(2, 2, dtype=torch.long, device=device))
        logits.sum().backward()
    except (SettingsError, ImportError, RuntimeError) as error:
        log.warning("%s is left out, as it does not run here: %s", name, str(error).split("\n")[0])
        return False
    return True
