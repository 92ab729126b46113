"""A file of a known hash: found in the data folder, or fetched, checked and kept."""

import hashlib
import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from lstm_lm.errors import SettingsError
from lstm_lm.files import cache_folder, read_regular, write_whole

# Some mirrors refuse clients that do not look like a browser.
USER_AGENT = "Mozilla/5.0 (compatible; lstm_lm)"
TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class KnownFile:
    """A file that is the same everywhere."""

    path: str  # below the data folder
    sha256: str
    mirrors: Sequence[str] = ()


def data_root(root: str | None) -> Path:
    """The folder texts are kept in: as set, else $LSTM_LM_DATA, else below the user's cache."""
    if chosen := root or os.environ.get("LSTM_LM_DATA"):
        return Path(os.path.expanduser(chosen))
    return cache_folder()


def read_known(file: KnownFile, root: Path) -> bytes | None:
    """The file's bytes, or None where it is absent.

    Raises:
        SettingsError: if it cannot be read, or another file lies in its place.
    """
    path = root / file.path
    try:
        if not path.exists():
            return None
        content = read_regular(path)
    except OSError as error:
        raise SettingsError(
            f"cannot read {path}: {error.strerror}; choose another data.root"
        ) from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise SettingsError(
            f"{path} is not the file it should be (its SHA-256 is not {file.sha256}): "
            "move it away, then it is downloaded, or choose another data.root"
        )
    return content


def fetch(file: KnownFile, root: Path) -> bytes:
    """The file's bytes, from disk or from the first mirror that has them.

    What is downloaded gets its name only when complete and checked, so that neither a cut
    connection nor two runs at once can leave half a file behind.

    Raises:
        SettingsError: if it is neither on disk nor to be had; says where to put it.
    """
    content = read_known(file, root)
    if content is not None:
        return content
    failures = []
    for address in file.mirrors:
        try:
            content = download(address)
        except (OSError, HTTPException) as error:
            failures.append(f"{address}: {error or type(error).__name__}")
            continue
        if hashlib.sha256(content).hexdigest() != file.sha256:
            failures.append(f"{address}: sent {len(content):,} bytes that are not this file")
            continue
        keep(content, root / file.path)
        return content
    raise SettingsError(
        f"cannot get {file.path} ({'; '.join(failures)}): put the file with SHA-256 {file.sha256} "
        f"at {root / file.path}, or point data.root or LSTM_LM_DATA to a folder that has it"
    )


def download(address: str) -> bytes:
    request = urllib.request.Request(address, headers={"User-Agent": USER_AGENT})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        content: bytes = response.read()
    return content


def keep(content: bytes, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise SettingsError(
            f"cannot write {path}: {error.strerror}; choose another data.root"
        ) from error
