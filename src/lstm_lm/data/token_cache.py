"""Large texts cut into words before, kept on disk: the next run need not do that again.

    <where texts are kept>/tokens/<SHA-256 of the text>.<level>.<cleaning>

    first line     SHA-256 of all that follows
    second line    JSON: by which rules, the different tokens, the type of their numbers
    then           the numbers, which are read as they lie there

Any of these files may be deleted at any time. One that is damaged or was made by other rules, those
of another version of this package, is made anew; where none can be written, none is.
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
from lstm_lm.files import cache_folder, whole_or_absent

# Characters. Cutting WikiText-2 into words takes 0.3 s, and reading them back 0.02 s; below this
# less than 0.05 s could be saved. Single characters are numbered about as fast as they are read.
WORTH_KEEPING = 2_000_000


def read_or_tokenize(text: str, level: Level, cleaning: Cleaning, root: Path) -> Tokenized:
    """
    Args:
        root: the folder texts are kept in. Where that cannot be written, the user's cache folder
            is used; nothing is ever put beside a text of the user's own.
    """
    if level is not Level.word or len(text) < WORTH_KEEPING:
        return Tokenized.of(text, level, cleaning)
    name = f"{hashlib.sha256(text.encode()).hexdigest()}.{level}.{cleaning}"
    files = [folder / "tokens" / name for folder in folders(root)]
    for file in files:
        try:
            return read(file)
        except (OSError, ValueError):  # it is not there, or not what it should be
            continue
    tokens = Tokenized.of(text, level, cleaning)
    for file in files:
        try:
            write(file, tokens)
            break
        except OSError:  # no such folder, it is not ours, or the disk is full
            continue
    return tokens


def folders(root: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):  # it is not made for this
        if root.stat().st_mode & stat.S_IWUSR:  # which the superuser could pass over
            yield root
    with contextlib.suppress(SettingsError):  # of a user without a home
        yield cache_folder()


def read(file: Path) -> Tokenized:
    """
    Raises:
        OSError, ValueError: if it is not there or not whole, or was made by other rules.
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
    """
    Raises:
        OSError: if that is not possible.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    numbers = tokens.numbers.astype(tokens.numbers.dtype.newbyteorder("<"), copy=False)
    header = {"rules": rules(), "distinct": tokens.distinct, "type": numbers.dtype.str}
    content = json.dumps(header).encode() + b"\n" + numbers.tobytes()
    with whole_or_absent(file) as temporary, open(temporary, "wb") as stream:
        stream.writelines([checksum(content), content])


def checksum(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def rules() -> str:
    """What the numbers of a text depend on besides the text: this code and Unicode's blanks.

    Raises:
        OSError: if this code cannot be read.
    """
    files = (
        Path(__file__).with_name(name) for name in ("text.py", "tokenized.py", "token_cache.py")
    )
    code = b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(code + unicodedata.unidata_version.encode()).hexdigest()
