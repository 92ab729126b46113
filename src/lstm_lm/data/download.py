"""Files of known hash: read from the data folder, or downloaded, verified and kept there."""

import hashlib
import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from pathlib import Path

from lstm_lm.data.tokenized import progress_bar
from lstm_lm.errors import SettingsError
from lstm_lm.files import cache_folder, read_regular, write_atomically

# Some mirrors refuse clients that do not look like a browser.
USER_AGENT = "Mozilla/5.0 (compatible; lstm_lm)"
TIMEOUT = 30  # seconds without receiving a byte
BLOCK = 2**20  # bytes received at a time


@dataclass(frozen=True)
class KnownFile:
    """A file identified by its checksum."""

    path: str  # below the data folder
    sha256: str
    mirrors: Sequence[str] = ()


def data_root(root: str | None) -> Path:
    """The data folder: ``root`` if set, else $LSTM_LM_DATA, else the user's cache folder."""
    if chosen := root or os.environ.get("LSTM_LM_DATA"):
        return Path(os.path.expanduser(chosen))
    return cache_folder()


def read_known(file: KnownFile, root: Path) -> bytes | None:
    """The file's bytes, or None if it is absent.

    Raises:
        SettingsError: if it cannot be read, or has another checksum.
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
            f"{path} is not the expected file (its SHA-256 is not {file.sha256}): "
            "move it away to download it again, or choose another data.root"
        )
    return content


def fetch(file: KnownFile, root: Path) -> bytes:
    """The file's bytes, from disk or from the first mirror that has them.

    A download gets its name only when complete and verified. So neither a cut connection nor two
    runs at once leave half a file behind.

    Raises:
        SettingsError: if it is neither on disk nor on a mirror; says where to put it.
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
    blocks: list[bytes] = []
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        expected = response.length
        with progress_bar("downloading", expected) as progress:
            while block := response.read(BLOCK):
                blocks.append(block)
                progress.update(len(block))
    content = b"".join(blocks)
    if expected is not None and len(content) < expected:  # read() of all would say so itself
        raise IncompleteRead(content, expected - len(content))
    return content


def keep(content: bytes, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise SettingsError(
            f"cannot write {path}: {error.strerror}; choose another data.root"
        ) from error
