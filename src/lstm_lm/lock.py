"""One process at a time. A lock of the system's, so it ends with its process, however that ends."""

import contextlib
import errno
import fcntl
import functools
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

NO_LOCKS = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
PATIENCE = 1.0  # seconds; whoever only looks whether the lock is held, holds it for an instant

log = logging.getLogger(__name__)


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
