"""Lightning's ``Trainer`` for a run: budgets, output, files, and the user's own arguments."""

import logging
import sys
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lstm_lm.config import RunConfig
from lstm_lm.errors import SettingsError
from lstm_lm.process import check_environment
from lstm_lm.saved.run_folder import RunFolder
from lstm_lm.training.callbacks import ProgressBar
from lstm_lm.training.checkpoint import ChecksummedCheckpointIO
from lstm_lm.training.failures import first_line
from lstm_lm.training.process_group import cluster_environment, strategy

# About loaders of other projects, short epochs, Lightning's own use of PyTorch, and averages of
# models that are divided among ranks, as none is here.
EXPECTED_WARNINGS = (
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*LeafSpec.*is deprecated.*",
    "Experiment logs directory .* exists and is not empty.*",
    ".*WeightAveraging callback with a model that overrides the configure_model.*",
    # Ours only scales the rate of a step, and steps stay steps while gradients accumulate.
    "When using `Trainer.accumulate_grad_batches != 1.` and overriding.*",
)
STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def build_trainer(
    config: RunConfig,
    device: torch.device,
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
    folder: RunFolder,
) -> Trainer:
    """The trainer of a run; raise SettingsError if Lightning rejects a ``trainer.*`` argument."""
    check_environment()
    quiet_lightning()
    training, several = config.training, config.device.ranks > 1
    one_gpu = device.index is not None and not several
    given = dict(config.trainer)
    if given.get("strategy", "ddp" if several else "auto") == "ddp":
        given["strategy"] = strategy()
    has_terminal = folder.is_ours and (sys.stderr.isatty() or hasattr(sys, "ps1"))  # a notebook
    given.setdefault("enable_progress_bar", has_terminal)
    arguments: dict[str, Any] = {
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "devices": [device.index] if one_gpu else config.device.devices,
        "num_nodes": config.device.nodes,
        "precision": config.device.precision,
        "plugins": [ChecksummedCheckpointIO(folder), cluster_environment(config.device)],
        "max_epochs": -1 if training.epochs is None else training.epochs,
        "max_steps": -1 if training.steps is None else training.steps,
        "max_time": None if training.minutes is None else timedelta(minutes=training.minutes),
        "check_val_every_n_epoch": training.validate_every,
        "log_every_n_steps": training.log_every,
        "num_sanity_val_steps": 0,
        "logger": list(loggers),
        "callbacks": with_usual_callbacks(callbacks, given, training.log_every),
        "default_root_dir": folder.path,
    }
    try:
        trainer = Trainer(**arguments | given)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise SettingsError(f"trainer: {first_line(error)}") from error
    disable_empty_hooks(trainer.callbacks)  # type: ignore[attr-defined]
    return trainer


def with_usual_callbacks(
    callbacks: Sequence[Callback], given: dict[str, Any], refresh_rate: int
) -> list[Callback]:
    """The callbacks, plus a progress bar and a model summary if they are enabled and missing."""
    usual: list[Callback] = []
    if given["enable_progress_bar"] and not has_one(AnyProgressBar, callbacks):
        usual.append(ProgressBar(refresh_rate=refresh_rate))
    if given.get("enable_model_summary", True) and not has_one(ModelSummary, callbacks):
        usual.append(ModelSummary(max_depth=3))
    return [*callbacks, *usual]


def has_one(kind: type[Callback], callbacks: Sequence[Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


def disable_empty_hooks(callbacks: Sequence[Callback]) -> None:
    """Set empty hooks of a step to None: Lightning calls empty hooks, but skips None."""
    for callback in callbacks:
        for name in STEP_HOOKS:
            is_empty = getattr(type(callback), name) is getattr(Callback, name)
            if is_empty and name not in vars(callback):
                setattr(callback, name, None)


def quiet_lightning() -> None:
    """Limit Lightning's output to what the user asked for and to warnings about the run."""
    for name in "lightning", "lightning.pytorch", "lightning.fabric":
        logger = logging.getLogger(name)
        logger.handlers.clear()  # Lightning's own handlers write to stderr
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    for name in "callbacks.model_summary", "profilers":
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    for expected in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", expected)
