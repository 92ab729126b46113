"""Processes that do not outlive the one that started them, however that ends.

The parent holds the other end of the child's standard input. Nothing is ever written there; its
end means that the parent is gone.
"""

import os
import threading
from collections.abc import Callable


def when_parent_is_gone(act: Callable[[], None]) -> None:
    """Call ``act`` then, in a thread of its own."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        act()

    threading.Thread(target=wait, daemon=True).start()
