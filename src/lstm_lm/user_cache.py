"""Where files go that are kept for the user and may be deleted at any time."""

import os
from pathlib import Path

from lstm_lm.errors import SettingsError


def cache_folder() -> Path:
    """
    Raises:
        SettingsError: if this user has no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lstm_lm"
    except RuntimeError as error:
        raise SettingsError(
            "this user has no home folder to keep files in: set XDG_CACHE_HOME to a folder"
        ) from error
