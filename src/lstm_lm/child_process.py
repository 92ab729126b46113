"""Processes that never outlive the one that started them, however that ends.

The parent keeps the other end of the child's standard input. Nothing is ever written there; its
end means that the parent is gone.
"""

import os
import signal
import threading
import time

GRACE = 60.0  # seconds for saving


def end_with_parent() -> None:
    """Stop this process, as SIGTERM does, when its parent is gone."""
    threading.Thread(target=wait_for_end, daemon=True).start()


def wait_for_end() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
