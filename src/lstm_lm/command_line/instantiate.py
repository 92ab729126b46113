"""Instantiate the loggers and callbacks that a run's settings name.

A run folder can be a stranger's. A class that its ``config.yaml`` names is imported only if it is
Lightning's or this package's; any other class must have been typed by the user.
"""

import importlib
import inspect
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.loggers import Logger, MLFlowLogger

from lstm_lm.command_line.settings import nearest
from lstm_lm.config import Accelerator, RunConfig, as_text, flatten
from lstm_lm.errors import SettingsError
from lstm_lm.lightning_parts import TARGET, check_packages, is_trusted
from lstm_lm.training.metrics import METRICS

# Arguments that set where data is written or sent to; a stranger must not decide that.
OUTPUT_ARGUMENTS = {
    "artifact_location",
    "dir",
    "dirpath",
    "log_dir",
    "root_dir",
    "save_dir",
    "tracking_uri",
}
# Their decisions are not in a checkpoint.
INEXACT = StochasticWeightAveraging, LearningRateFinder, BatchSizeFinder
AVERAGING = WeightAveraging, StochasticWeightAveraging

log = logging.getLogger(__name__)


def typed_entries(config: RunConfig, changes: dict[str, Any] | None = None) -> set[str]:
    """Names of the loggers and callbacks that were typed in full: ``callbacks.early_stopping``.

    Args:
        changes: the settings typed for a resume; None for a new run, where all were typed.
    """
    entries = {
        f"{group}.{name}": entry
        for group in ("logger", "callbacks")
        for name, entry in getattr(config, group).items()
    }
    if changes is None:
        return set(entries)
    typed = flatten(changes).items()
    return {name for name, entry in entries.items() if flatten(entry, f"{name}.").items() <= typed}


def build_loggers(config: RunConfig, folder: Path, typed: Collection[str]) -> list[Logger]:
    """The loggers that a run's settings name.

    Args:
        folder: the run folder; loggers without a ``save_dir`` write there.
        typed: see :func:`typed_entries`.

    Raises:
        SettingsError: if a logger cannot be created.
    """
    return [
        build(f"logger.{name}", entry, Logger, typed, folder.absolute())
        for name, entry in config.logger.items()
    ]


def build_callbacks(config: RunConfig, folder: Path, typed: Collection[str]) -> list[Callback]:
    """The callbacks that a run's settings name.

    Args:
        folder: the run folder.
        typed: see :func:`typed_entries`.

    Raises:
        SettingsError: if a callback cannot be created, or would break a promise of a run.
    """
    has_gpu = config.device.accelerator is not Accelerator.cpu and torch.cuda.is_available()
    callbacks = []
    for key, entry in config.callbacks.items():
        name = f"callbacks.{key}"
        check_packages(name, entry, on_cpu=not has_gpu)
        callback = build(name, entry, Callback, typed)
        if isinstance(callback, OnExceptionCheckpoint):
            raise SettingsError(
                f"{name} saves when an error occurs, and no run can resume exactly from there: "
                "leave it out, because a run saves by itself; see checkpoint.every_minutes"
            )
        if isinstance(callback, ModelCheckpoint):
            separate_checkpoints(name, callback, folder)
        if isinstance(callback, StochasticWeightAveraging) and config.training.epochs is None:
            raise SettingsError(f"{name} averages the last epochs: set training.epochs")
        if isinstance(callback, INEXACT):
            log.warning("warning: with %s a resumed run does not end with the same bits", name)
        if isinstance(callback, (EarlyStopping, ModelCheckpoint)):
            check_metric(name, callback.monitor, config.callbacks)
        callbacks.append(callback)
    require_one_average(config, callbacks)
    return callbacks


def require_one_average(config: RunConfig, callbacks: Sequence[Callback]) -> None:
    named = zip(config.callbacks, callbacks, strict=True)
    averaging = [f"callbacks.{name}" for name, each in named if isinstance(each, AVERAGING)]
    if len(averaging) > 1:
        raise SettingsError(f"{' and '.join(averaging)} both average the weights: choose one")


def check_metric(name: str, metric: str | None, entries: dict[str, Any]) -> None:
    """Raise SettingsError now, not after an epoch, if a callback monitors an unknown metric."""
    all_known = all(is_trusted(entry) for entry in entries.values())  # others may log their own
    if metric is not None and all_known and metric not in METRICS:
        raise SettingsError(f"{name}.monitor={metric} is not a metric: {nearest(metric, METRICS)}")


def separate_checkpoints(name: str, callback: ModelCheckpoint, folder: Path) -> None:
    """Keep a user's checkpoints apart from the run's own, from which it resumes.

    Raises:
        SettingsError: if both are set to the same folder.
    """
    own = folder / "checkpoints"
    if callback.dirpath is None:
        callback.dirpath = str(folder.absolute() / f"checkpoints_{name.partition('.')[2]}")
    elif Path(callback.dirpath).resolve() == own.resolve():
        raise SettingsError(f"{name}.dirpath={own} is where the run itself saves: choose another")


def build(
    name: str,
    entry: dict[str, Any],
    kind: type,
    typed: Collection[str],
    folder: Path | None = None,
) -> Any:
    is_typed = name in typed
    if not is_typed and not is_trusted(entry):
        group, _, choice = name.partition(".")
        raise SettingsError(
            f"{name} in the run's config.yaml names code that is not Lightning's own "
            f"({entry[TARGET]}), or calls it in an unusual way: if you trust it, type "
            f"{group}={choice} again"
        )
    if not is_typed and (
        given := OUTPUT_ARGUMENTS & {key for key, value in entry.items() if value}
    ):
        group, _, choice = name.partition(".")
        raise SettingsError(
            f"{name}.{min(given)} in the run's config.yaml sets where data is written or sent to: "
            f"if you trust it, type {group}={choice} with it again"
        )
    check_packages(name, entry, on_cpu=False)
    arguments = with_integer_keys({key: value for key, value in entry.items() if key != TARGET})
    try:
        found = find(entry[TARGET])
        is_right = isinstance(found, type) and issubclass(found, kind)
        if not is_typed and not is_right:
            raise SettingsError(f"{entry[TARGET]} is not a {kind.__name__} of Lightning's")
        if folder is not None and takes(found, "save_dir") and not entry.get("save_dir"):
            arguments["save_dir"] = str(folder)
            is_mlflow = is_right and issubclass(found, MLFlowLogger)
            if is_mlflow and not entry.get("tracking_uri"):
                arguments["tracking_uri"] = f"sqlite:///{folder / 'mlflow.db'}"
        if is_typed:
            part = instantiate({TARGET: entry[TARGET], "_convert_": "all"} | as_text(arguments))
        else:
            part = found(**arguments)
    except Exception as error:  # of any kind: the class does not accept these arguments
        raise SettingsError(f"{name} cannot be created: {reason(error)}") from error
    if not isinstance(part, kind):
        raise SettingsError(f"{name} cannot be created: {entry[TARGET]} is not a {kind.__name__}")
    return part


def find(target: str) -> Any:
    """The attribute of a module, or None if it has none; never an attribute of an attribute."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError):
        return None


def takes(function: Any, argument: str) -> bool:
    return callable(function) and argument in inspect.signature(function).parameters


def with_integer_keys(value: Any) -> Any:
    """The value with integer keys restored; settings keep them as text."""
    if isinstance(value, dict):
        return {
            int(key) if key.isdecimal() else key: with_integer_keys(item)
            for key, item in value.items()
        }
    return [with_integer_keys(item) for item in value] if isinstance(value, list) else value


def reason(error: BaseException) -> str:
    """The root cause of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
