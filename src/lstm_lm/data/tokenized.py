"""A text as numbers: its distinct tokens, and the number of the token at each position.

"to be or not to be" in words:    to be or not    0 1 2 3 0 1

Distinct tokens are in order of first occurrence, so the numbers depend only on text, level and
cleaning. Splits, and the ids of any vocabulary, follow from them by counting and table look-up.
That needs no Python object for each token: a text takes about its own size in memory.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Integer, Shaped

from lstm_lm.config import Cleaning, Level
from lstm_lm.data.text import END_OF_LINE, characters, tokenize

BLOCK = 2**18  # tokens looked up at a time; NumPy needs eight bytes for each
CODE_POINTS = 0x110000  # in Unicode


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
