"""This process: its streams and exit code, the signals that end it, its parent, its environment.

    a stream that is closed at the start    becomes /dev/null
    a character outside the encoding        is printed as an escape
    a reader that has gone                  is no error
    a full disk                             is an error; after a run is done, only a warning

Signals that end a run are Ctrl-C, SIGTERM, SIGHUP (the terminal was closed) and SIGUSR1 (SLURM's
warning before a job's time is up). They are deferred until the current step or file is finished.
A second Ctrl-C stops at once, without saving; only a file that is being written is finished.

A child process does not outlive its parent: the parent holds the other end of the child's standard
input. When the input ends, the parent is gone.
"""

import atexit
import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from types import FrameType
from typing import Any

from lstm_lm.errors import RunFailed, SettingsError, Stopped
from lstm_lm.files import ESCAPE

# The command that messages show for training; ``lstm-lm`` sets its own.
train_command = "python scripts/train.py"


STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
NUMBERS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"),
    "JSM_NAMESPACE_RANK",
)
log = logging.getLogger(__name__)


def on_parent_exit(act: Callable[[], None]) -> None:
    """Call ``act`` in a thread of its own once the parent process is gone."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        act()

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def slow_imports() -> Iterator[None]:
    """Context manager: block signals and disable garbage collection during slow imports.

    A signal could break an import, or be lost in it. Nearly all of the million new objects stay,
    yet Python would search them for garbage again and again, now and while the run is prepared.
    Without these searches the first step of a run comes after 2.3 instead of 3.1 seconds.
    """
    # Otherwise each rank warns that all parameters are used; see training.process_group.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # otherwise all of them would be searched now
        atexit.register(gc.unfreeze)  # otherwise Triton reports leaked objects at exit
        gc.enable()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def drop_malformed_rank_variables() -> None:
    for name in NUMBERS:
        value = os.environ.get(name, "0")
        if not value.isdecimal():
            del os.environ[name]
            if value:
                log.warning("warning: %s=%s in the environment is no number: ignored", name, value)


def environment_without_ranks() -> dict[str, str]:
    """The environment without the variables of ranks, for an independent process."""
    return {name: value for name, value in os.environ.items() if name not in NUMBERS}


def check_environment() -> None:
    """Raise SettingsError if Lightning would take arguments from the environment, unrecorded."""
    for name in sorted(os.environ):
        if name.startswith("PL_TRAINER_"):
            argument = name.removeprefix("PL_TRAINER_").lower()
            raise SettingsError(
                f"{name} in the environment would change the run without a record: unset it, and "
                f"type trainer.{argument}={os.environ[name]}"
            )


def run_program(main: Callable[[], int | None]) -> None:
    """Call a program's main function; print its error in one line and exit with its exit code."""
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
        code = print_error(error, 2)
    except RunFailed as error:
        code = print_error(error, 1)
    except BrokenPipeError:
        code = 0
    except OSError as error:
        lacks_name = error.filename is None  # it was printing
        code = print_error(f"cannot write: {error.strerror}" if lacks_name else error, 1)
    discard_lost_output()
    sys.exit(code or 0)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Context manager for printing results: a lost reader or a full disk is not an error."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            print_error(f"cannot print: {error.strerror}", 0, "warning")
        discard_lost_output()


def prepare_streams() -> None:
    logging.raiseExceptions = False
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next file to be opened gets its number, and everything printed.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=ESCAPE)


def discard_lost_output() -> None:
    """Discard output that cannot be printed; otherwise Python reports it at exit."""
    for stream in sys.stdout, sys.stderr:
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_error(error: object, code: int, kind: str = "error") -> int:
    """Print what is wrong, if that is possible; return the exit code."""
    with contextlib.suppress(OSError):
        print(f"{kind}: {error}", file=sys.stderr)
    return code


class StopSignals:
    """Context manager: signals wait until :meth:`raise_if_stopped` raises :class:`Stopped`."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.shared = False  # with other ranks, which stop after the same step
        self.agreed: int | None = None
        self.interrupted = False  # by Ctrl-C
        self.waiting = True
        self.saving = False
        self.before: dict[int, Any] = {}

    @property
    def pending(self) -> int | None:
        return self.agreed if self.shared else self.received

    def __enter__(self) -> "StopSignals":
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
            numbers.append(signal.SIGHUP)
        if slurm_job() is not None:
            numbers.append(signal.SIGUSR1)
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers
            self.before = {number: signal.getsignal(number) for number in numbers}
        self.listen()
        return self

    def listen(self) -> None:
        for number in self.before:
            signal.signal(number, self)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if isinstance(error, Stopped) and error.signal is signal.SIGUSR1:
            requeue()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        is_repeated = number == signal.SIGINT and self.interrupted
        self.interrupted |= number == signal.SIGINT
        self.received = self.received or number  # the first signal decides the exit code
        if not self.saving and (is_repeated or not self.waiting):
            raise Stopped(self.received)
        again = "; again to stop at once" if number == signal.SIGINT else ""
        log.info("%s: stopping after this step%s", signal.Signals(number).name, again)

    def raise_if_stopped(self) -> None:
        """Raise :class:`Stopped` if a signal has arrived."""
        if self.pending is not None:
            raise Stopped(self.pending)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Context manager: signals stop long work at once, if it leaves nothing half done."""
        self.raise_if_stopped()
        self.waiting = False
        try:
            yield
        finally:
            self.waiting = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Context manager: signals are deferred, even a second Ctrl-C."""
        self.saving = True
        try:
            yield
        finally:
            self.saving = False


def slurm_job() -> str | None:
    """Id of this process's SLURM job, as ``scontrol`` takes it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', 0)}"
    return os.environ.get("SLURM_JOB_ID")


def requeue() -> None:
    """Ask SLURM to run this job again."""
    command = ["scontrol", "requeue", str(slurm_job())]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("%s failed, so the job is not requeued: %s", " ".join(command), error)
