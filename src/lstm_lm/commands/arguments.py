"""Arguments that several commands have in common."""

import argparse
from pathlib import Path

from lstm_lm.config import Backend, CoreName


def parser_for_run(description: str | None) -> argparse.ArgumentParser:
    """A parser with the run's folder and the checkpoint to load.

    Args:
        description: the docstring of the command; its first line is shown.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best")
    return parser


def add_core(parser: argparse.ArgumentParser) -> None:
    """Add the core and the backend that compute the model."""
    cores = [f"model.core={name}" for name in CoreName]
    backends = [f"model.backend={name}" for name in Backend]
    core = "use another core than the one of the training"
    parser.add_argument("core", nargs="?", choices=cores, help=core)
    backend = "backend of model.core=fused (default: auto)"
    parser.add_argument("backend", nargs="?", choices=backends, help=backend)


def add_text(parser: argparse.ArgumentParser) -> None:
    """Add the text to read, and where the run's own text is."""
    text = parser.add_mutually_exclusive_group()
    splits = ["training", "validation", "test"]
    split = "which part of the run's own text (default: test)"
    text.add_argument("--split", choices=splits, default="test", help=split)
    text.add_argument("--text", metavar="FILE", help="a UTF-8 text of your own instead")
    parser.add_argument("--data-root", metavar="FOLDER", help="where the run's text is")
    parser.add_argument("--text-path", metavar="FILE", help="where the run's own file is now")
