"""Errors that end a run: the run's status, and one line for each error a user can act on."""

import os
import signal
import threading
import traceback
from pathlib import Path

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lstm_lm.errors import DamagedFile, Diverged, RunFailed, Stopped
from lstm_lm.saved.run_folder import Status
from lstm_lm.training.process_group import is_peer_exit


def status_after(error: BaseException) -> Status:
    """Status of a run that ended with this error."""
    if isinstance(error, Diverged):
        return Status.diverged
    return Status.interrupted if isinstance(error, SystemExit) else Status.failed


def explain_error(
    error: BaseException, folder: Path, saved: str, modules: set[str]
) -> BaseException:
    """The error as one of this project's, with a one-line message; unknown errors unchanged.

    Args:
        folder: the run folder.
        saved: the words for what there is to resume from.
        modules: the modules of callbacks and loggers, perhaps the user's own.
    """
    match error:
        case RunFailed() | Stopped():
            return error
        case SIGTERMException():  # Lightning saw the signal first
            return Stopped(signal.SIGTERM)
        case SystemExit() if isinstance(error.__context__, KeyboardInterrupt):
            return Stopped(signal.SIGINT)  # Lightning turns Ctrl-C into this
        case OSError():
            reason = f"{error.strerror or error} ({os.fsdecode(error.filename or folder)})"
            return RunFailed(f"the run cannot continue: {reason}; {saved} is saved")
        case DamagedFile():
            return RunFailed(f"the run cannot continue: {error}; {saved} is saved")
        case Exception() if is_peer_exit(error):
            return RunFailed(
                "another process of this run ended, so the run cannot continue; its earlier "
                "checkpoints are kept"
            )
        case Exception() if is_out_of_memory(error):
            return RunFailed(
                f"out of memory ({first_line(error)}): try a smaller data.batch_size, "
                "data.num_steps or model.hidden_size"
            )
        case Exception():
            return explain_by_traceback(error, modules)
    return error


def explain_by_traceback(error: Exception, modules: set[str]) -> Exception:
    """A one-line error if Lightning, or a user's callback or logger, raised it; else the same."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    passed = [frame.f_globals.get("__name__", "") for frame in frames]
    if passed[-1].startswith("lightning."):
        return RunFailed(first_line(error))
    for name in reversed(passed):
        if name in modules and not name.startswith(("lightning.", "lstm_lm.")):
            return RunFailed(f"{name} raised {type(error).__name__}: {first_line(error)}")
    return error


def is_out_of_memory(error: Exception) -> bool:
    is_full = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return is_full or "allocate memory" in str(error)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def ignore_thread_disk_errors(thrown: threading.ExceptHookArgs) -> None:
    """Ignore an OSError of TensorBoard's writer thread: the run raises it again on the join."""
    if not issubclass(thrown.exc_type, OSError):
        threading.__excepthook__(thrown)
