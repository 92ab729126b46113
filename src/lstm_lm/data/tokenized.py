"""A text as numbers: its distinct tokens, and the number of the token at each position.

"to be or not to be" in words:    to be or not    0 1 2 3 0 1

Distinct tokens are in order of first occurrence, so the numbers depend only on text, level and
cleaning. Splits, and the ids of any vocabulary, follow from them by counting and table look-up.
That needs no Python object for each token: a text takes about its own size in memory.

The words of large texts are cached on disk, so that the next run need not tokenize again:

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
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Integer, Shaped

from lstm_lm.config import Cleaning, Level
from lstm_lm.data.text import END_OF_LINE, characters, tokenize
from lstm_lm.errors import SettingsError
from lstm_lm.files import atomic_file, cache_folder

BLOCK = 2**18  # tokens looked up at a time; NumPy needs eight bytes for each
CODE_POINTS = 0x110000  # in Unicode
# Characters. Tokenizing WikiText-2 into words takes 0.3 s, reading them back 0.02 s. Smaller texts
# would save less than 0.05 s. Single characters are numbered about as fast as they are read.
MIN_CACHED_CHARACTERS = 2_000_000


@dataclass(frozen=True)
class Tokenized:
    distinct: tuple[str, ...]
    numbers: Integer[np.ndarray, " tokens"] = field(repr=False)  # in the smallest type

    @classmethod
    def of(cls, text: str, level: Level, cleaning: Cleaning) -> "Tokenized":
        if level is Level.character:
            return numbered_characters(characters(text, cleaning))
        return numbered(tokenize(text, level, cleaning))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, part: slice) -> "Tokenized":
        return Tokenized(self.distinct, self.numbers[part])

    def counts(self) -> Integer[np.ndarray, " distinct"]:
        """Number of occurrences of each distinct token."""
        counts = np.zeros(len(self.distinct), np.int64)
        for start in range(0, len(self), BLOCK):
            counts += np.bincount(self.numbers[start : start + BLOCK], minlength=len(counts))
        return counts

    def look_up(self, values: Shaped[np.ndarray, " distinct"]) -> Shaped[np.ndarray, " tokens"]:
        """The value at each position, given one value per distinct token."""
        found = np.empty(len(self), values.dtype)
        for start in range(0, len(self), BLOCK):
            found[start : start + BLOCK] = values[self.numbers[start : start + BLOCK]]
        return found

    def spelled_lengths(self, level: Level) -> tuple[int, int]:
        """Characters and UTF-8 bytes of the text that :func:`lstm_lm.data.text.spell` returns."""
        spelled, blanks = list(self.distinct), 0
        if level is Level.word:
            spelled = [token.replace(END_OF_LINE, "\n") for token in self.distinct]
            blanks = self.blanks_between_words()
        lengths = [(len(token), len(token.encode())) for token in spelled]
        in_characters, encode_activity = self.counts() @ np.array(lengths, np.int64).reshape(-1, 2)
        return int(in_characters) + blanks, int(encode_activity) + blanks

    def blanks_between_words(self) -> int:
        """Number of blanks: one between two words, none beside the end of a line."""
        starts = np.array([token.startswith(END_OF_LINE) for token in self.distinct], bool)
        ends = np.array([token.endswith(END_OF_LINE) for token in self.distinct], bool)
        return int(np.sum(~(self.look_up(ends)[:-1] | self.look_up(starts)[1:])))


def numbered(tokens: Iterable[str]) -> Tokenized:
    number_of: defaultdict[str, int] = defaultdict()
    number_of.default_factory = number_of.__len__  # a new token gets the next number
    numbers = np.fromiter(map(number_of.__getitem__, tokens), np.int32)
    return Tokenized(tuple(number_of), numbers.astype(smallest_type(len(number_of))))


def numbered_characters(text: str) -> Tokenized:
    """Number each character; thirty times as fast as :func:`numbered`."""
    number_of = np.full(CODE_POINTS, -1, np.int32)
    distinct: list[str] = []
    blocks = [np.empty(0, np.uint8)]
    for start in range(0, len(text), BLOCK):
        codes = np.frombuffer(text[start : start + BLOCK].encode("utf-32-le"), "<u4")
        for code in dict.fromkeys(codes[number_of[codes] < 0].tolist()):
            number_of[code] = len(distinct)
            distinct.append(chr(code))
        blocks.append(number_of[codes].astype(smallest_type(len(distinct))))
    return Tokenized(tuple(distinct), np.concatenate(blocks))


def smallest_type(count: int) -> np.dtype:
    """The smallest type that holds the numbers from 0 to ``count - 1``."""
    return np.min_scalar_type(max(0, count - 1))


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
    files = (Path(__file__).with_name(name) for name in ("text.py", "tokenized.py"))
    code = b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(code + unicodedata.unidata_version.encode()).hexdigest()
