"""Checkpoint files: what ``torch.save`` writes, sealed with a checksum.

The seal, a SHA-256 in hexadecimal digits, follows the archive, where ``torch.load`` does not
look. PyTorch alone loads weights with flipped bits without any error.

Checkpoints are data: a file that would run code when loaded is rejected.
"""

import hashlib
import io
import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.files import atomic_file, fsync_path, link_atomically, read_regular

MARK = b"\nsha256 "

log = logging.getLogger(__name__)


def save_checkpoint(path: Path, checkpoint: dict[str, Any], previous: Path | None = None) -> None:
    """Write a sealed checkpoint; keep the one it replaces under the name ``previous``, if given."""
    archive = io.BytesIO()
    torch.save(checkpoint, archive)
    content = archive.getbuffer()
    with atomic_file(path) as temporary:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.write(seal(content))
        fsync_path(temporary)
        if previous is not None and path.exists():  # not before the new one is complete
            link_atomically(previous, path)


def seal(content: bytes | memoryview) -> bytes:
    return MARK + hashlib.sha256(content).hexdigest().encode()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a sealed checkpoint, on the CPU.

    Raises:
        DamagedFile: if it cannot be read, or its checksum does not match.
        SettingsError: if it is not plain data.
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror}") from error
    archive = content[: -len(seal(b""))]
    if content[len(archive) :] != seal(archive):
        raise DamagedFile(f"{path} is damaged: its checksum does not match its content")
    try:
        return torch.load(io.BytesIO(archive), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise SettingsError(
            f"{path} is rejected: it is not a checkpoint of plain data, and loading it could run "
            "any code of its author"
        ) from error
    except MemoryError as error:
        raise SettingsError(f"{path} does not fit into the memory that is left") from error
    except RuntimeError as error:
        raise DamagedFile(f"{path} is not a checkpoint: {str(error).splitlines()[0]}") from error


def load_newest(last: Path, previous: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint with its path; if it is damaged, the one before it.

    Raises:
        SettingsError: if neither can be loaded.
    """
    try:
        return last, load_checkpoint(last)
    except DamagedFile as error:
        if not previous.exists():
            raise
        try:
            checkpoint = load_checkpoint(previous)
        except DamagedFile as another:
            raise DamagedFile(f"{error}; {another}: there is nothing to resume from") from another
        log.warning("warning: %s; using the checkpoint before it, %s", error, previous)
        return previous, checkpoint
