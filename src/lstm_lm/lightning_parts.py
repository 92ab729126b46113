"""What is known of loggers and callbacks by the names of their classes, before any is imported."""

import importlib.util
from typing import Any

from lstm_lm.errors import SettingsError

TARGET = "_target_"  # of a logger or callback in the settings: its class
# What may be imported although only a run's folder names it, which can be a stranger's.
TRUSTED = "lightning.pytorch.callbacks.", "lightning.pytorch.loggers.", "lstm_lm.training."
# Lightning's callbacks that only watch, and those that, like a budget, end a run.
WATCHING = {
    "DeviceStatsMonitor",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelSummary",
    "RichModelSummary",
    "RichProgressBar",
    "ThroughputMonitor",
    "TQDMProgressBar",
}
ENDING = {"EarlyStopping", "Timer"}
# What Lightning's loggers import, and how it is installed.
PACKAGES = {
    "CometLogger": ("comet_ml", "comet-ml"),
    "LitLogger": ("litlogger", "litlogger"),
    "MLFlowLogger": ("mlflow", "mlflow"),
    "WandbLogger": ("wandb", "wandb"),
}


def is_trusted(entry: dict[str, Any]) -> bool:
    """Whether a logger or callback is named as one of Lightning's or ours, with plain arguments."""
    arguments = {name: value for name, value in entry.items() if name != TARGET}
    return entry[TARGET].startswith(TRUSTED) and not calls(arguments)


def calls(value: Any) -> bool:
    """Whether Hydra would find something to call in it, or to call in another way."""
    if isinstance(value, dict):
        return any(name.startswith("_") or calls(item) for name, item in value.items())
    return isinstance(value, list) and any(calls(item) for item in value)


def is_one_of(names: set[str], entry: dict[str, Any]) -> bool:
    """Whether a callback is one of Lightning's with these names."""
    package, _, name = entry[TARGET].rpartition(".")
    return name in names and f"{package}.".startswith("lightning.pytorch.callbacks.")


def refuse_missing_packages(name: str, entry: dict[str, Any], on_cpu: bool) -> None:
    """
    Args:
        name: as it is set, such as ``logger.wandb``.
        on_cpu: whether the run is known to train there.

    Raises:
        SettingsError: if a package that one of Lightning's needs is not installed.
    """
    kind = entry[TARGET].rpartition(".")[2]
    module, package = PACKAGES.get(kind, (None, ""))
    statistics = entry.get("cpu_stats")
    if kind == "DeviceStatsMonitor" and (statistics or (statistics is None and on_cpu)):
        module = package = "psutil"
    if module is not None and importlib.util.find_spec(module) is None:
        raise SettingsError(f"{name} needs another package: pip install {package}")
