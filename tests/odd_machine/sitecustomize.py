"""A machine whose file system refuses what others grant, for a program and all that it starts:

    PYTHONPATH=tests/odd_machine REFUSE=flock:ENOLCK,fsync_directory:EINVAL python scripts/train.py

What can be refused are the names below, each with any errno. Python imports this by itself.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from typing import Any

REFUSABLE = {
    "flock": (fcntl, "flock"),
    "fsync": (os, "fsync"),  # of files
    "fsync_directory": (os, "fsync"),
    "open_directory": (os, "open"),
    "replace": (os, "replace"),
    "rename": (os, "rename"),
    "link": (os, "link"),
    "symlink": (os, "symlink"),
    "chmod": (os, "chmod"),
    "truncate": (os, "truncate"),
}


def is_directory(file: Any) -> bool:
    try:
        return stat.S_ISDIR(os.stat(file).st_mode)
    except OSError:
        return False


def refusing(name: str, call: Callable[..., Any], number: int) -> Callable[..., Any]:
    def refused(*arguments: Any, **settings: Any) -> Any:
        of_directories = name.endswith("_directory")
        if of_directories and not is_directory(arguments[0]):
            return call(*arguments, **settings)
        if name == "fsync" and is_directory(arguments[0]):
            return call(*arguments, **settings)
        where = [part for part in arguments[:1] if isinstance(part, (str, bytes, os.PathLike))]
        raise OSError(number, os.strerror(number), *where)

    return refused


def refuse(wanted: str, replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """
    Args:
        wanted: what is refused and with which errno, as in ``REFUSE``.
        replace: what puts the refusing functions in place.
    """
    for one in filter(None, wanted.split(",")):
        name, _, code = one.partition(":")
        module, function = REFUSABLE[name]
        call = getattr(module, function)
        replace(module, function, refusing(name, call, getattr(errno, code)))


refuse(os.environ.get("REFUSE", ""))
