"""What programs print, whatever becomes of it.

    a stream that is closed from the start    is /dev/null
    an encoding that lacks a character        has it as an escape
    a reader that has gone                    is no error
    a disk that is full                       is one; of a run, which is done, only a warning

No stream ends a program half way, or spoils its files.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper

from lstm_lm.atomic_file import ESCAPE
from lstm_lm.errors import RunFailed, SettingsError


def run_program(main: Callable[[], int | None]) -> None:
    """Call a program's main function, and end with the exit code that it returns or stands for."""
    prepare_streams()
    logging.basicConfig(format="%(message)s")
    code: int | str | None
    try:
        code = main()
        sys.stdout.flush()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = 130
    except SettingsError as error:
        code = complain(error, 2)
    except RunFailed as error:
        code = complain(error, 1)
    except BrokenPipeError:
        code = 0
    except OSError as error:
        lacks_name = error.filename is None  # as for what is printed
        code = complain(f"cannot write: {error.strerror}" if lacks_name else error, 1)
    give_up_what_is_lost()
    sys.exit(code or 0)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """What is printed may be lost: the reader has gone, or a disk is full; what was done is not."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            complain(f"cannot print: {error.strerror}", 0, "warning")
        give_up_what_is_lost()


def prepare_streams() -> None:
    logging.raiseExceptions = False
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file to be opened gets its number, and all that is printed.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=ESCAPE)


def give_up_what_is_lost() -> None:
    """Else Python would complain at its end of what could not be printed."""
    for stream in sys.stdout, sys.stderr:
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def complain(error: object, code: int, kind: str = "error") -> int:
    """Say what is wrong, if anybody listens; the exit code to leave with."""
    with contextlib.suppress(OSError):
        print(f"{kind}: {error}", file=sys.stderr)
    return code
