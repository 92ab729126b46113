"""The settings of the best run, as a file that ``scripts/train.py`` takes."""

import os
import shlex
from pathlib import Path

from lstm_lm.atomic_file import write_whole
from lstm_lm.comparison.results import LAST, Result
from lstm_lm.run_folder import RunFolder

NAME = "best.yaml"


def best_of(results: list[Result]) -> Result | None:
    """The first of the sorted results, if it came to something."""
    best = results[0]
    return best if best.perplexity is not None and best.status not in LAST else None


def write_best(best: Result, results: list[Result], folder: Path) -> str:
    """Write the file into a folder; the command that trains with it.

    Raises:
        DamagedFile: if its settings cannot be read.
    """
    RunFolder(best.path).read_config()
    typed = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    command = f"python scripts/train.py -cd {shlex.quote(str(typed))} -cn {Path(NAME).stem}"
    lowest = "" if best.best is not None else "so far "
    comments = [
        command,
        f"The settings of {os.path.relpath(best.path, folder)}, which {lowest}has the lowest",
        f"validation perplexity, {best.perplexity:.6g}, of {len(results)} that were compared.",
    ]
    if best.settings.get("init_from"):
        comments.append("It started from the best weights in init_from, which must still be there.")
    # As Hydra's main file it comes after all groups, so that nothing of them is left.
    defaults = "defaults:\n  - train\n  - _self_\n\n"
    settings = (best.path / "config.yaml").read_text()
    content = "".join(f"# {line}\n" for line in comments) + defaults + settings
    write_whole(folder / NAME, content.encode())
    return command
