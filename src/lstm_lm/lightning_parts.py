"""Lightning's loggers, callbacks and ``Trainer`` arguments by name, before Lightning is imported.

``trainer.*`` hands arguments to the ``Trainer`` under Lightning's own names. A setting of this
project already governs some of them; others have no place in its runs.
"""

import ast
import functools
import importlib.util
from pathlib import Path
from typing import Any

from lstm_lm.errors import SettingsError

GOVERNED = {
    "accelerator": "device.accelerator",
    "callbacks": "callbacks=",
    "check_val_every_n_epoch": "training.validate_every",
    "default_root_dir": "hydra.run.dir",
    "devices": "device.devices",
    "gradient_clip_algorithm": "optimizer.clip_norm, which clips the norm",
    "gradient_clip_val": "optimizer.clip_norm",
    "log_every_n_steps": "training.log_every",
    "logger": "logger=",
    "max_epochs": "training.epochs",
    "max_steps": "training.steps",
    "max_time": "training.minutes",
    "num_nodes": "device.nodes",
    "precision": "device.precision",
}
REFUSED = {
    "barebones": "without checkpoints no run could go on; debug=fast tries everything once",
    "enable_checkpointing": "a run always saves; debug=fast tries everything once",
    "model_registry": "a run's weights stay in its folder",
    "plugins": "a run brings those that it saves and starts with",
    "reload_dataloaders_every_n_epochs": "the batches follow the epoch by themselves",
    "use_distributed_sampler": "rows are shared out among processes by the data itself",
}
# They change how fast a run is, what it shows or how long it trains, but not what is trained.
WITHOUT_EFFECT = {
    "benchmark",
    "detect_anomaly",
    "deterministic",
    "enable_autolog_hparams",
    "enable_model_summary",
    "enable_progress_bar",
    "inference_mode",
    "limit_predict_batches",
    "limit_test_batches",
    "min_epochs",
    "min_steps",
    "num_sanity_val_steps",
    "profiler",
    "strategy",
    "sync_batchnorm",  # of which no model here has one
}


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


@functools.cache
def names() -> tuple[str, ...]:
    """All arguments of ``Trainer``, read from its source, as Lightning takes seconds to import."""
    package = importlib.util.find_spec("lightning")
    if package is None or package.submodule_search_locations is None:
        raise SettingsError("Lightning is not installed: pip install lightning")
    source = Path(package.submodule_search_locations[0], "pytorch", "trainer", "trainer.py")
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == "Trainer":
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    arguments = [*method.args.args[1:], *method.args.kwonlyargs]
                    return tuple(argument.arg for argument in arguments)
    raise SettingsError(f"{source} has no Trainer: another version of Lightning is needed")


def passed_on() -> list[str]:
    """Those that a user can give."""
    return [name for name in names() if name not in GOVERNED and name not in REFUSED]


def refuse_impossible(given: dict[str, Any]) -> None:
    """
    Raises:
        SettingsError: if one of these arguments cannot be given.
    """
    for name in given:
        if name in GOVERNED:
            raise SettingsError(f"trainer.{name} is set by {GOVERNED[name]}: use that instead")
        if name in REFUSED:
            raise SettingsError(f"trainer.{name} cannot be given: {REFUSED[name]}")
        if name == "limit_train_batches" and given[name] == 0:
            raise SettingsError("trainer.limit_train_batches=0 leaves nothing to train on")
        if name not in names():
            raise SettingsError(f"trainer.{name}: Lightning's Trainer has no such argument")


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
