"""The settings of the best run, as a file that ``scripts/train.py`` takes."""

import dataclasses
import os
import shlex
from pathlib import Path

from lstm_lm import process
from lstm_lm.config import RunConfig
from lstm_lm.files import write_whole
from lstm_lm.lightning_parts import is_trusted
from lstm_lm.saved.results import LAST, Result
from lstm_lm.saved.run_folder import RunFolder, as_yaml

NAME = "best.yaml"
# As Hydra's main file it comes after all groups, so that nothing of them is left.
DEFAULTS = """\
defaults:
  - train
  - _self_
  - override logger: none
  - override callbacks: none

"""


def best_of(results: list[Result]) -> Result | None:
    """The first of the sorted results, if it came to something."""
    best = results[0]
    return best if best.perplexity is not None and best.status not in LAST else None


def write_best(best: Result, results: list[Result], folder: Path) -> str:
    """Write the file into a folder; the command that trains with it.

    Raises:
        DamagedFile: if its settings cannot be read.
    """
    config, left_out = trusted_part(RunFolder(best.path).read_config())
    typed = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    command = f"{process.train_command} -cd {shlex.quote(str(typed))} -cn {Path(NAME).stem}"
    lowest = "" if best.best is not None else "so far "
    comments = [
        command,
        f"The settings of {os.path.relpath(best.path, folder)}, which {lowest}has the lowest",
        f"validation perplexity, {best.perplexity:.6g}, of {len(results)} that were compared.",
    ]
    if best.settings.get("init_from"):
        comments.append("It started from the best weights in init_from, which must still be there.")
    for name in left_out:
        comments.append(f"Without its {name}, whose class is not Lightning's own.")
    content = "".join(f"# {line}\n" for line in comments) + DEFAULTS + as_yaml(config)
    write_whole(folder / NAME, content)
    return command


def trusted_part(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """The config without loggers and callbacks that only a run's folder names, and their names.

    The run can be a stranger's, and the file would be trusted when it is typed.
    """
    left_out = [
        f"{group}.{name}"
        for group in ("logger", "callbacks")
        for name, entry in getattr(config, group).items()
        if not is_trusted(entry)
    ]
    logger = {n: entry for n, entry in config.logger.items() if is_trusted(entry)}
    callbacks = {n: entry for n, entry in config.callbacks.items() if is_trusted(entry)}
    return dataclasses.replace(config, logger=logger, callbacks=callbacks), left_out
