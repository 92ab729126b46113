"""Recurrent language models whose core can be swapped.

    compose, train, load_run, runs        what scripts and notebooks use
    LanguageModelModule, TextDataModule   for a Trainer of Lightning's

    config        every setting of a run, typed and checked
    data          a text → tokens → ids → batches
    model         ids → embedding → cores → logits; the cores live here
    evaluation    how well a model predicts a text
    generation    continue a prompt
    inside        what gates and units do
    training      loss, carried state, optimizer, and what is watched meanwhile
    run_folder    what a run leaves behind, and how it is read back
    experiment    config → run
    run           runs as Python sees them
    sweep         grid → jobs, each a run in a process of its own
    comparison    folders of runs → table, best run, pictures
    command_line  what was typed → config, and the loggers and callbacks it names; one-line errors
    benchmark     speed, as ratios

``data`` and ``model`` never import each other.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lstm_lm.rank_variables import forget_what_is_no_number

if TYPE_CHECKING:
    from lstm_lm.command_line.compose import compose
    from lstm_lm.comparison.records import runs
    from lstm_lm.data.data_module import TextDataModule
    from lstm_lm.run import Run, load_run, train
    from lstm_lm.training.module import LanguageModelModule

forget_what_is_no_number()  # before Lightning is imported

__all__ = [
    "LanguageModelModule",
    "Run",
    "TextDataModule",
    "compose",
    "load_run",
    "runs",
    "train",
]

# Imported when first asked for, as PyTorch and Lightning take seconds.
HOMES = {
    "LanguageModelModule": "lstm_lm.training.module",
    "Run": "lstm_lm.run",
    "TextDataModule": "lstm_lm.data.data_module",
    "compose": "lstm_lm.command_line.compose",
    "load_run": "lstm_lm.run",
    "runs": "lstm_lm.comparison.records",
    "train": "lstm_lm.run",
}


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
