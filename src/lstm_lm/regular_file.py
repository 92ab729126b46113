"""Files that are read whole, as far as they are files and memory holds them."""

import errno
import os
import stat
from pathlib import Path

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
    needed, there_is = COPIES * found.st_size, memory()
    try:
        if needed <= there_is:
            return path.read_bytes()
    except MemoryError:
        pass
    raise OSError(
        errno.ENOMEM,
        f"its {in_units(found.st_size)} need {in_units(needed)} of memory while they are read, "
        f"but there are only {in_units(there_is)}",
        str(path),
    )
