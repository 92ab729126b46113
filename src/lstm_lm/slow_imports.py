"""How commands import what takes seconds: PyTorch and Lightning."""

import atexit
import contextlib
import gc
import os
import signal
from collections.abc import Iterator

STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@contextlib.contextmanager
def slow_imports() -> Iterator[None]:
    """Nothing disturbs the imports in this context: signals wait, garbage is not looked for.

    A signal could break an import, or be lost in it. Of the million objects that come into being
    nearly all stay; Python would search them for garbage again and again, now and while the run
    gets ready. Without, the first step of a run comes after 2.3 instead of 3.1 seconds.
    """
    # Else each of several processes says that all parameters are used; see training.process_group.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # else all of them would be searched at once now
        atexit.register(gc.unfreeze)  # else Triton complains in the end that nobody let go of it
        gc.enable()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
