"""Files that are whole or not there, whenever the machine stops."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
