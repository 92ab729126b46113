"""Checkpoints as files: what PyTorch saves, sealed with a checksum.

The seal, a SHA-256 in hexadecimal digits, follows the archive, where ``torch.load`` does not
look. PyTorch by itself reads weights in which bits have flipped without a word.

Checkpoints are data: whatever would run code when it is loaded is refused.
"""

import hashlib
import io
import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.files import flush_to_disk, read_regular, replace_by_link, whole_or_absent

MARK = b"\nsha256 "

log = logging.getLogger(__name__)


def save_checkpoint(path: Path, checkpoint: dict[str, Any], previous: Path | None = None) -> None:
    """Write a sealed file; the one that was there stays, if it is given another name."""
    archive = io.BytesIO()
    torch.save(checkpoint, archive)
    content = archive.getbuffer()
    with whole_or_absent(path) as temporary:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.write(seal(content))
        flush_to_disk(temporary)
        if previous is not None and path.exists():  # only now that the new one is complete
            replace_by_link(previous, path)


def seal(content: bytes | memoryview) -> bytes:
    return MARK + hashlib.sha256(content).hexdigest().encode()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What a sealed file holds, on the CPU.

    Raises:
        DamagedFile: if it cannot be read, or is not what was sealed.
        SettingsError: if it is not data.
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror}") from error
    archive = content[: -len(seal(b""))]
    if content[len(archive) :] != seal(archive):
        raise DamagedFile(f"{path} is damaged: its checksum is not that of its content")
    try:
        return torch.load(io.BytesIO(archive), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise SettingsError(
            f"{path} is refused: it is not a checkpoint of plain data, and loading it could run "
            "code of whoever made it"
        ) from error
    except MemoryError as error:
        raise SettingsError(f"{path} does not fit into the memory that is left") from error
    except RuntimeError as error:
        raise DamagedFile(f"{path} is not a checkpoint: {str(error).splitlines()[0]}") from error


def load_newest(last: Path, previous: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint, or the one before it if that is damaged; and which it is.

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
            raise DamagedFile(f"{error}; {another}: there is nothing to go on from") from another
        log.warning("warning: %s; going back to the one before it, %s", error, previous)
        return previous, checkpoint
