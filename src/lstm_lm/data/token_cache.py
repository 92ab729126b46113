"""Cache on disk: the words of large texts, so that the next run need not tokenize again.

    <data folder>/tokens/<SHA-256 of the text>.<level>.<cleaning>

    first line     SHA-256 of all that follows
    second line    JSON: checksum of the rules, the distinct tokens, the type of their numbers
    then           the numbers, which are memory-mapped

Any of these files may be deleted at any time. A damaged file, or one from another version of this
package, is written again. If no folder is writable, nothing is cached.
"""

import contextlib
import hashlib
import json
import mmap
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lstm_lm.config import Cleaning, Level
from lstm_lm.data.tokenized import Tokenized
from lstm_lm.errors import SettingsError
from lstm_lm.files import atomic_file, cache_folder

# Characters. Tokenizing WikiText-2 into words takes 0.3 s, reading them back 0.02 s. Smaller texts
# would save less than 0.05 s. Single characters are numbered about as fast as they are read.
MIN_CACHED_CHARACTERS = 2_000_000


def read_or_tokenize(text: str, level: Level, cleaning: Cleaning, root: Path) -> Tokenized:
    """The tokens of a text, read from the cache if they are there.

    Args:
        root: the data folder. If it is not writable, the user's cache folder is used. Nothing is
            ever written beside the user's own text.
    """
    if level is not Level.word or len(text) < MIN_CACHED_CHARACTERS:
        return Tokenized.of(text, level, cleaning)
    name = f"{hashlib.sha256(text.encode()).hexdigest()}.{level}.{cleaning}"
    files = [folder / "tokens" / name for folder in folders(root)]
    for file in files:
        try:
            return read(file)
        except (OSError, ValueError):  # absent, damaged or from another version
            continue
    tokens = Tokenized.of(text, level, cleaning)
    for file in files:
        try:
            write(file, tokens)
            break
        except OSError:  # no such folder, no permission, or the disk is full
            continue
    return tokens


def folders(root: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):  # the data folder is not created for a cache
        if root.stat().st_mode & stat.S_IWUSR:  # os.access is always true for the superuser
            yield root
    with contextlib.suppress(SettingsError):  # this user has no home
        yield cache_folder()


def read(file: Path) -> Tokenized:
    """The tokens in a cache file.

    Raises:
        OSError, ValueError: if it is absent, damaged or from another version.
    """
    if not file.is_file():
        raise FileNotFoundError(file)
    with open(file, "rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    start = content.find(b"\n") + 1
    if content[:start] != checksum(memoryview(content)[start:]):
        raise ValueError(f"{file} is damaged")
    end = content.find(b"\n", start) + 1
    header = json.loads(content[start:end])
    if header.get("rules") != rules():
        raise ValueError(f"{file} was made by another version")
    return Tokenized(tuple(header["distinct"]), np.frombuffer(content, header["type"], offset=end))


def write(file: Path, tokens: Tokenized) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    numbers = tokens.numbers.astype(tokens.numbers.dtype.newbyteorder("<"), copy=False)
    header = {"rules": rules(), "distinct": tokens.distinct, "type": numbers.dtype.str}
    content = json.dumps(header).encode() + b"\n" + numbers.tobytes()
    with atomic_file(file) as temporary, open(temporary, "wb") as stream:
        stream.writelines([checksum(content), content])


def checksum(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def rules() -> str:
    """Checksum of the rules of tokenizing: this code, and the Unicode version for its blanks.

    Raises:
        OSError: if the source files cannot be read.
    """
    files = (
        Path(__file__).with_name(name) for name in ("text.py", "tokenized.py", "token_cache.py")
    )
    code = b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(code + unicodedata.unidata_version.encode()).hexdigest()
