"""A text as numbers: its distinct tokens, and the number of the token at each position.

"to be or not to be" in words:    to be or not    0 1 2 3 0 1

Distinct tokens are in order of first occurrence, so the numbers depend only on text, level and
cleaning. Splits, and the ids of any vocabulary, follow from them by counting and table look-up.
That needs no Python object for each token, nor the text as a whole as characters: numbers take
about as much memory as the text's bytes, or less.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from jaxtyping import Integer, Shaped
from tqdm import tqdm

from lstm_lm.config import Cleaning, Level
from lstm_lm.data.text import END_OF_LINE, OF_BYTE, bytes_of, characters, words

BLOCK = 2**18  # tokens looked up, and bytes read, at a time; NumPy needs eight bytes for each
CODE_POINTS = 0x110000  # in Unicode
PROGRESS_AFTER = 2  # seconds

Block = TypeVar("Block", str, bytes)


@dataclass(frozen=True)
class Tokenized:
    distinct: tuple[str, ...]
    numbers: Integer[np.ndarray, " tokens"] = field(repr=False)  # in the smallest type

    @classmethod
    def of(cls, text: bytes | str, level: Level, cleaning: Cleaning) -> "Tokenized":
        """The tokens of a text, in UTF-8 if it is bytes.

        Raises:
            UnicodeError: if it is not UTF-8, unless its tokens are its bytes.
        """
        content = text.encode() if isinstance(text, str) else text
        if level is Level.word:
            return numbered(words(decoded_blocks(content), cleaning))
        if cleaning is not Cleaning.none:
            content = characters("".join(decoded_blocks(content)), cleaning).encode()
        if level is Level.byte:
            codes = (np.frombuffer(block, np.uint8) for block in blocks(content))
            return numbered_codes(codes, len(content), OF_BYTE.__getitem__)
        decoded = decoded_blocks(content)
        codes = (np.frombuffer(block.encode("utf-32-le"), "<u4") for block in decoded)
        return numbered_codes(codes, len(content), chr)

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
        found, start = np.empty(len(self), values.dtype), 0
        for block in self.look_up_blocks(values):
            found[start : start + len(block)] = block
            start += len(block)
        return found

    def look_up_blocks(
        self, values: Shaped[np.ndarray, " distinct"]
    ) -> Iterator[Shaped[np.ndarray, " block"]]:
        """Blocks of what :meth:`look_up` returns, in blocks."""
        for start in range(0, len(self), BLOCK):
            yield values.take(self.numbers[start : start + BLOCK])

    def spelled_lengths(self, level: Level) -> tuple[int, int]:
        """Characters and bytes of the text that :func:`lstm_lm.data.text.spell` returns.

        Of bytes that are not UTF-8, each that can begin a character counts as one.
        """
        blanks = self.blanks_between_words() if level is Level.word else 0
        lengths = [spelled_length(token, level) for token in self.distinct]
        totals = self.counts() @ np.array(lengths, np.int64).reshape(-1, 2)
        in_characters, in_bytes = totals.tolist()
        return in_characters + blanks, in_bytes + blanks

    def blanks_between_words(self) -> int:
        """Number of blanks: one between two words, none beside the end of a line."""
        starts = np.array([token.startswith(END_OF_LINE) for token in self.distinct], bool)
        ends = np.array([token.endswith(END_OF_LINE) for token in self.distinct], bool)
        return int(np.sum(~(self.look_up(ends)[:-1] | self.look_up(starts)[1:])))


def spelled_length(token: str, level: Level) -> tuple[int, int]:
    """Characters and bytes that a token adds to a text, without blanks between words."""
    match level:
        case Level.byte | Level.subword:
            spelled = bytes_of(token)
            return sum(not is_continuation(byte) for byte in spelled), len(spelled)
        case Level.word:
            token = token.replace(END_OF_LINE, "\n")
    return len(token), len(token.encode())


def is_continuation(byte: int) -> bool:
    """True if the byte does not begin a character of UTF-8."""
    return byte & 0b1100_0000 == 0b1000_0000


def blocks(content: bytes) -> Iterator[bytes]:
    """A text in blocks that end where a character does, with a progress bar."""

    def cut() -> Iterator[bytes]:
        start = 0
        while start < len(content):
            end = start + BLOCK
            while end < len(content) and is_continuation(content[end]) and end < start + BLOCK + 3:
                end += 1
            yield content[start:end]
            start = end

    return with_progress(cut(), len(content))


def with_progress(blocks: Iterable[Block], total: int) -> Iterator[Block]:
    """The blocks of a text, with a progress bar if it takes longer."""
    with tqdm(
        total=total,
        desc="reading the text",
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None,
        delay=PROGRESS_AFTER,
    ) as progress:
        for block in blocks:
            yield block
            progress.update(len(block))


def decoded_blocks(content: bytes) -> Iterator[str]:
    """The characters of a text in blocks; UnicodeDecodeError if it is not UTF-8."""
    start = 0
    for block in blocks(content):
        try:
            yield block.decode()
        except UnicodeDecodeError as error:
            place = start + error.start, start + error.end
            raise UnicodeDecodeError(error.encoding, content, *place, error.reason) from error
        start += len(block)


def numbered(tokens: Iterable[str]) -> Tokenized:
    number_of: defaultdict[str, int] = defaultdict()
    number_of.default_factory = number_of.__len__  # a new token gets the next number
    numbers = np.fromiter(map(number_of.__getitem__, tokens), np.int32)
    return Tokenized(tuple(number_of), numbers.astype(smallest_type(len(number_of)), copy=False))


def numbered_codes(
    blocks: Iterable[Integer[np.ndarray, " tokens"]], most: int, token: Callable[[int], str]
) -> Tokenized:
    """Number the code points or bytes of a text; thirty times as fast as :func:`numbered`.

    Args:
        most: at least the number of all of them.
        token: the token of a code.
    """
    number_of = np.full(CODE_POINTS, -1, np.int32)
    codes_found: list[int] = []
    numbers, length = np.empty(most, np.uint8), 0  # what is not used takes no memory
    for codes in blocks:
        found = number_of[codes]
        if found.min(initial=0) < 0:
            new = list(dict.fromkeys(codes[found < 0].tolist()))
            number_of[new] = range(len(codes_found), len(codes_found) + len(new))
            codes_found += new
            found = number_of[codes]
            if numbers.dtype != (kind := smallest_type(len(codes_found))):
                wider = np.empty(most, kind)
                wider[:length] = numbers[:length]
                numbers = wider
        numbers[length : length + len(codes)] = found
        length += len(codes)
    return Tokenized(tuple(map(token, codes_found)), numbers[:length])


def smallest_type(count: int) -> np.dtype:
    """The smallest type that holds the numbers from 0 to ``count - 1``."""
    return np.min_scalar_type(max(0, count - 1))
