"""Files that are whole or absent, locks between processes, and the cache folder.

A file is written under another name, flushed to disk and renamed, so a crash never leaves half of
it. A lock is the system's (flock), so it ends with its process, however that ends.
"""

import contextlib
import errno
import fcntl
import functools
import json
import logging
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lstm_lm.errors import SettingsError

UNFINISHED = ".unfinished"
ESCAPE = "backslashreplace"
# The answers of file systems that cannot do what they are asked for, such as SMB and FAT.
LACKING = {
    errno.EACCES,
    errno.EBADF,
    errno.EINVAL,
    errno.EISDIR,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EPERM,
}


NO_LOCKS = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
PATIENCE = 1.0  # seconds; whoever only looks whether the lock is held, holds it for an instant
log = logging.getLogger(__name__)
COPIES = 2  # at least: a file's bytes, and what is made of them
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextlib.contextmanager
def whole_or_absent(path: Path) -> Iterator[Path]:
    """Another name to write to; what is there at the end is flushed to disk and renamed.

    The folder must exist. If the block raises, the old file stays and the new one goes.
    """
    # A name can be as long as a file system takes, and this one shall be no longer.
    prefix = f".{path.name[:32]}."
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=UNFINISHED)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        flush_to_disk(temporary)
        with where_possible():
            os.chmod(temporary, 0o666 & ~current_umask())  # a temporary file is its owner's alone
        os.replace(temporary, path)
        with where_possible():
            flush_to_disk(path.parent)  # which holds the new name
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Text becomes UTF-8; what has no place there, from names of files, is written as an escape."""
    if isinstance(content, str):
        content = content.encode(errors=ESCAPE)
    with whole_or_absent(path) as temporary:
        temporary.write_bytes(content)


def replace_by_copy(path: Path, original: Path) -> None:
    with whole_or_absent(path) as temporary:
        shutil.copyfile(original, temporary)


def replace_by_link(path: Path, original: Path) -> None:
    """Let ``path`` name the file, too; for files that are only ever replaced, not changed."""
    with whole_or_absent(path) as temporary:
        temporary.unlink()
        try:
            os.link(original, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(original, temporary)


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed while writing has left there."""
    for temporary in folder.glob(f".*{UNFINISHED}"):
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def where_possible() -> Iterator[None]:
    """Pass over what this file system lacks; what went wrong is an error all the same."""
    try:
        yield
    except OSError as error:
        if error.errno not in LACKING:
            raise


def flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether this process got the lock; if so, it holds it until the block ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield acquire(handle, time.monotonic() + PATIENCE)
    finally:
        os.close(handle)


@contextlib.contextmanager
def waiting_for(path: Path, meanwhile: str) -> Iterator[None]:
    """Hold the lock until the block ends, however long another process has it before.

    Args:
        meanwhile: what to say if one has.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not acquire(handle, time.monotonic()):
            log.info(meanwhile)
            acquire(handle, math.inf)
        yield
    finally:
        os.close(handle)


def acquire(handle: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            warn_of_no_locks()
            return True


@functools.cache
def warn_of_no_locks() -> None:
    log.warning(
        "warning: this file system has no locks: see to it that no other process trains there"
    )


def is_locked(path: Path) -> bool | None:
    """Whether some process holds the lock now; None where nobody can know."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(handle)


def read_regular(path: Path, may_be_pipe: bool = False) -> bytes:
    """The content of a file; whoever opened a pipe would wait for somebody to write to it.

    Raises:
        OSError: if it cannot be read: ENXIO if it is no file, ENOMEM if it is too large.
    """
    from lstm_lm.machine import in_units, memory  # torch: not for --help

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


def cache_folder() -> Path:
    """
    Raises:
        SettingsError: if this user has no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lstm_lm"
    except RuntimeError as error:
        raise SettingsError(
            "this user has no home folder to keep files in: set XDG_CACHE_HOME to a folder"
        ) from error
