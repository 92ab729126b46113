"""Files that are whole or not there, whenever the machine stops."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_or_absent(path: Path) -> Iterator[Path]:
    """Another name to write to; what is there at the end is flushed to disk and renamed.

    The folder must exist. If the block raises, the old file stays and the new one goes.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~current_umask())  # a temporary file is its owner's alone
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    with whole_or_absent(path) as temporary:
        temporary.write_bytes(content)


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
