"""Files that are read whole, as far as they are files and memory holds them."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from lstm_lm.memory import in_units, memory

COPIES = 2  # at least: a file's bytes, and what is made of them
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_regular(path: Path, may_be_pipe: bool = False) -> bytes:
    """The content of a file; whoever opened a pipe would wait for somebody to write to it.

    Raises:
        OSError: if it cannot be read: ENXIO if it is no file, ENOMEM if it is too large.
    """
    found = os.stat(path)
    kind = stat.S_IFMT(found.st_mode)
    if kind in KINDS and not (may_be_pipe and kind == stat.S_IFIFO):
        raise OSError(errno.ENXIO, f"it is {KINDS[kind]}, not a file", str(path))
    size, there_is = found.st_size, memory()
    what = f"its {in_units(size)} do" if size else "it does"
    reason = f"{what} not fit into the memory that is left"
    try:
        if kind == stat.S_IFIFO:
            return read_pipe(path, there_is / COPIES)
        if COPIES * size <= there_is:
            return path.read_bytes()
        reason = (
            f"its {in_units(size)} need {in_units(COPIES * size)} of memory while they are read, "
            f"but there are only {in_units(there_is)}"
        )
    except MemoryError:
        pass
    raise OSError(errno.ENOMEM, reason, str(path))


def read_pipe(path: Path, most: float) -> bytes:
    """
    Raises:
        MemoryError: if there are more bytes than that; some pipes never end.
    """
    content = bytearray()
    with open(path, "rb") as stream:
        while piece := stream.read(2**20):
            content += piece
            if len(content) > most:
                raise MemoryError
    return bytes(content)


def read_json(path: Path) -> Any:
    """
    Raises:
        OSError: as :func:`read_regular` does.
        ValueError: if it is no JSON.
    """
    try:
        return json.loads(read_regular(path))
    except RecursionError as error:
        raise ValueError("it has too many brackets within brackets") from error
