"""Names of Lightning's loggers, callbacks and ``Trainer`` arguments, without importing Lightning.

``trainer.*`` passes arguments to the ``Trainer`` under Lightning's own names. A setting of this
project already governs some of them; others make no sense in its runs.
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
    "barebones": "without checkpoints no run could resume; debug=fast tries everything once",
    "enable_checkpointing": "a run always saves; debug=fast tries everything once",
    "model_registry": "a run's weights stay in its folder",
    "plugins": "a run has its own, for its checkpoints and processes",
    "reload_dataloaders_every_n_epochs": "the batches change with the epoch by themselves",
    "use_distributed_sampler": "the data module divides the rows among the ranks",
}
# Arguments that change the speed, output or length of a run, but not what is trained.
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
    "sync_batchnorm",  # no model here has batch normalization
}


TARGET = "_target_"  # the key of a logger's or callback's class in the settings
# Modules that may be imported even if only a run folder, perhaps a stranger's, names them.
TRUSTED = "lightning.pytorch.callbacks.", "lightning.pytorch.loggers.", "lstm_lm.training."
# Lightning's callbacks that only watch a run, and those that end it like a budget.
OBSERVING_CALLBACKS = {
    "DeviceStatsMonitor",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelSummary",
    "RichModelSummary",
    "RichProgressBar",
    "ThroughputMonitor",
    "TQDMProgressBar",
}
STOPPING_CALLBACKS = {"EarlyStopping", "Timer"}
# The module that each of Lightning's loggers imports, and the package to install for it.
PACKAGES = {
    "CometLogger": ("comet_ml", "comet-ml"),
    "LitLogger": ("litlogger", "litlogger"),
    "MLFlowLogger": ("mlflow", "mlflow"),
    "WandbLogger": ("wandb", "wandb"),
}


@functools.cache
def names() -> tuple[str, ...]:
    """All arguments of ``Trainer``, read from its source: importing Lightning takes seconds."""
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


def allowed_trainer_arguments() -> list[str]:
    """The arguments that a user can set."""
    return [name for name in names() if name not in GOVERNED and name not in REFUSED]


def check_trainer_arguments(given: dict[str, Any]) -> None:
    """Raise SettingsError if one of these arguments cannot be set."""
    for name in given:
        if name in GOVERNED:
            raise SettingsError(f"trainer.{name} is set by {GOVERNED[name]}: use that instead")
        if name in REFUSED:
            raise SettingsError(f"trainer.{name} cannot be set: {REFUSED[name]}")
        if name == "limit_train_batches" and given[name] == 0:
            raise SettingsError("trainer.limit_train_batches=0 leaves nothing to train on")
        if name not in names():
            raise SettingsError(f"trainer.{name}: Lightning's Trainer has no such argument")


def is_trusted(entry: dict[str, Any]) -> bool:
    """True for a logger or callback of Lightning's or ours that has plain arguments only."""
    arguments = {name: value for name, value in entry.items() if name != TARGET}
    return entry[TARGET].startswith(TRUSTED) and not calls(arguments)


def calls(value: Any) -> bool:
    """True if Hydra would find something to call in the value, or to call in another way."""
    if isinstance(value, dict):
        return any(name.startswith("_") or calls(item) for name, item in value.items())
    return isinstance(value, list) and any(calls(item) for item in value)


def is_one_of(names: set[str], entry: dict[str, Any]) -> bool:
    """True for one of Lightning's callbacks with these names."""
    package, _, name = entry[TARGET].rpartition(".")
    return name in names and f"{package}.".startswith("lightning.pytorch.callbacks.")


def check_packages(name: str, entry: dict[str, Any], on_cpu: bool) -> None:
    """Raise SettingsError if a logger or callback needs a package that is not installed.

    Args:
        name: the setting, such as ``logger.wandb``.
        on_cpu: True if the run is known to train on the CPU.
    """
    kind = entry[TARGET].rpartition(".")[2]
    module, package = PACKAGES.get(kind, (None, ""))
    statistics = entry.get("cpu_stats")
    if kind == "DeviceStatsMonitor" and (statistics or (statistics is None and on_cpu)):
        module = package = "psutil"
    if module is not None and importlib.util.find_spec(module) is None:
        raise SettingsError(f"{name} needs another package: pip install {package}")
