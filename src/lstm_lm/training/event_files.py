"""TensorBoard's files of a run, as they were when a checkpoint was written.

What a run wrote after its last checkpoint it writes again when it goes on from there. Without
cutting it off, whoever reads the files would see those points twice.
"""

import logging
import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from lstm_lm.atomic_file import flush_to_disk
from lstm_lm.errors import DamagedFile

PATTERN = "events.out.tfevents.*"

log = logging.getLogger(__name__)


def flushed_sizes(folder: Path, writer: SummaryWriter | None) -> dict[str, int]:
    """The files' sizes in bytes, once everything is on disk."""
    if writer is not None:
        writer.flush()
    files = sorted(event_files(folder))
    for file in files:
        flush_to_disk(file)
    return {file.name: file.stat().st_size for file in files}


def event_files(folder: Path) -> set[Path]:
    return {file for file in folder.glob(PATTERN) if file.is_file()}  # a pipe would be waited for


def sizes_at(checkpoint: dict[str, Any] | None) -> dict[str, int]:
    """The files' sizes when a checkpoint was written; without one there are none.

    Raises:
        DamagedFile: if a checkpoint, which can be a stranger's, names any but TensorBoard's files.
    """
    sizes = {} if checkpoint is None else checkpoint["callbacks"]["RunCheckpoint"]["event_files"]
    for name, size in sizes.items():
        if Path(name).name != name or not fnmatch(name, PATTERN) or size < 0:
            raise DamagedFile(f"the checkpoint names {name}, which is no file of TensorBoard's")
    return sizes


def cut_back(files: set[Path], sizes: dict[str, int], folder: Path) -> None:
    """Remove from these files all that is beyond their sizes."""
    for file in files:
        if file.name not in sizes:
            file.unlink()
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size < size:
            log.warning("%s is not whole: the curves have a gap", file)
        else:
            os.truncate(file, size)
