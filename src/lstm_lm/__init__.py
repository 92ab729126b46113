"""Recurrent language models with interchangeable cores.

    compose, train, load_run, runs        what scripts and notebooks use
    LanguageModelModule, TextDataModule   for Lightning's Trainer

    api              runs in Python: train, load_run, Run
    commands         the programs: parse, call, print
    command_line     typed arguments → config, and the loggers and callbacks it names
    experiment       config → a run's folder
    resume           check what a resumed run may change, and resume it
    sweep            grid → jobs, each a run in its own process
    training         the LightningModule, its callbacks, loggers and Trainer
    evaluation       score models on a text, also in modes such as dynamic evaluation
    generation       continue a prompt
    inside           activity of units and gates
    report           results of many runs; report.pictures draws them
    saved            write and read the files of runs and sweeps
    data             text → tokens → ids → batches
    model            ids → embedding → cores → logits; model.fused: the same equations, fast
    config           every setting, typed and checked
    lightning_parts  Lightning's loggers, callbacks and Trainer arguments, by name
    machine          devices, precisions, cores, memory
    process          streams, exit codes, signals, parents
    files            atomic files, locks, the cache folder
    errors           exceptions that end a run

A part imports only from those below it; ``pyproject.toml`` has the layers. ``data`` and ``model``
never import each other.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lstm_lm.process import drop_malformed_rank_variables

if TYPE_CHECKING:
    from lstm_lm.api import Run, load_run, train
    from lstm_lm.command_line.compose import compose
    from lstm_lm.data.data_module import TextDataModule
    from lstm_lm.report.report import runs
    from lstm_lm.training.module import LanguageModelModule

drop_malformed_rank_variables()  # before Lightning is imported

__all__ = [
    "LanguageModelModule",
    "Run",
    "TextDataModule",
    "compose",
    "load_run",
    "runs",
    "train",
]

# Imported on first use, because PyTorch and Lightning take seconds.
MODULES = {
    "LanguageModelModule": "lstm_lm.training.module",
    "Run": "lstm_lm.api",
    "TextDataModule": "lstm_lm.data.data_module",
    "compose": "lstm_lm.command_line.compose",
    "load_run": "lstm_lm.api",
    "runs": "lstm_lm.report.report",
    "train": "lstm_lm.api",
}


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
