"""Atomic files, locks between processes, and the cache folder.

A file is written under another name, flushed to disk and renamed, so a crash never leaves half of
it. Locks are the operating system's (flock), so a lock always ends with its process.
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
# Error codes of file systems that lack an operation, such as SMB and FAT.
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
PATIENCE = 1.0  # seconds; a process that only checks the lock holds it for an instant
log = logging.getLogger(__name__)
COPIES = 2  # in memory, at least: the bytes of a file, and the text made from them
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Context manager: a temporary name to write to, flushed to disk and renamed at the end.

    The folder must exist. If the block raises, the old file stays and the new one is removed.
    """
    # Cut, because a name may have the file system's maximum length already.
    prefix = f".{path.name[:32]}."
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=UNFINISHED)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        fsync_path(temporary)
        with ignore_unsupported():
            os.chmod(temporary, 0o666 & ~current_umask())  # mkstemp gives its owner access only
        os.replace(temporary, path)
        with ignore_unsupported():
            fsync_path(path.parent)  # the folder contains the new name
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file atomically. Text becomes UTF-8; surrogates, from file names, become escapes."""
    if isinstance(content, str):
        content = content.encode(errors=ESCAPE)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def copy_atomically(path: Path, original: Path) -> None:
    with atomic_file(path) as temporary:
        shutil.copyfile(original, temporary)


def link_atomically(path: Path, original: Path) -> None:
    """Make ``path`` a hard link to ``original``; for files that are replaced, never changed."""
    with atomic_file(path) as temporary:
        temporary.unlink()
        try:
            os.link(original, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(original, temporary)


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files of processes that were killed while writing."""
    for temporary in folder.glob(f".*{UNFINISHED}"):
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def ignore_unsupported() -> Iterator[None]:
    """Context manager: ignore operations that this file system lacks; raise other errors."""
    try:
        yield
    except OSError as error:
        if error.errno not in LACKING:
            raise


def fsync_path(path: Path) -> None:
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
    """Context manager: True if this process got the lock, which it holds until the block ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield acquire(handle, time.monotonic() + PATIENCE)
    finally:
        os.close(handle)


@contextlib.contextmanager
def wait_for_lock(path: Path, meanwhile: str) -> Iterator[None]:
    """Context manager: wait for the lock, and hold it until the block ends.

    Args:
        meanwhile: logged if another process has the lock.
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
        "warning: this file system has no locks: make sure that no other process trains there"
    )


def is_locked(path: Path) -> bool | None:
    """True if a process holds the lock now; None if that cannot be known."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would block
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
    """The content of a file; pipes and devices are rejected, since opening a pipe would block.

    Raises:
        OSError: if it cannot be read: ENXIO if it is no file, ENOMEM if it is too large.
    """
    from lstm_lm.machine import format_bytes, memory  # imports torch, too slow for --help

    found = os.stat(path)
    kind = stat.S_IFMT(found.st_mode)
    if kind in KINDS and not (may_be_pipe and kind == stat.S_IFIFO):
        raise OSError(errno.ENXIO, f"it is {KINDS[kind]}, not a file", str(path))
    size, there_is = found.st_size, memory()
    what = f"its {format_bytes(size)} do" if size else "it does"
    reason = f"{what} not fit into the memory that is left"
    try:
        if kind == stat.S_IFIFO:
            return read_pipe(path, there_is / COPIES)
        if COPIES * size <= there_is:
            return path.read_bytes()
        reason = (
            f"reading its {format_bytes(size)} needs {format_bytes(COPIES * size)} of memory, but "
            f"there are only {format_bytes(there_is)}"
        )
    except MemoryError:
        pass
    raise OSError(errno.ENOMEM, reason, str(path))


def read_pipe(path: Path, most: float) -> bytes:
    """The content of a pipe; MemoryError beyond ``most`` bytes, since some pipes never end."""
    content = bytearray()
    with open(path, "rb") as stream:
        while piece := stream.read(2**20):
            content += piece
            if len(content) > most:
                raise MemoryError
    return bytes(content)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: as :func:`read_regular` does.
        ValueError: if it is not JSON.
    """
    try:
        return json.loads(read_regular(path))
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def cache_folder() -> Path:
    """The user's cache folder, which may not exist yet; SettingsError if there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lstm_lm"
    except RuntimeError as error:
        raise SettingsError(
            "this user has no home folder to keep files in: set XDG_CACHE_HOME to a folder"
        ) from error
