"""Texts that a known process writes, so that the best any model can do on them is known exactly.

    embedded_reber  a branch at the beginning decides on the last symbol but one, however long what
                    lies between (Hochreiter & Schmidhuber 1997, experiment 1)
    recall          a symbol, ``data.lag`` others, and the symbol again
    anbn            as many b as there were a (Gers & Schmidhuber 2001); those of the test text are
                    longer than those learned from

The floor of a text is what it costs in nats with the process itself as the model: the negative
logarithm of the probability with which each symbol was drawn. No model does better on average.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from lstm_lm.config import DataConfig, TextName

REMEMBERED, DISTRACTORS, CUE = "ABCDEFGH", "abcd", "?"  # of recall

# From each state of Reber's grammar one of two symbols leads to another; state 5 ends it.
REBER = (
    (("T", 1), ("P", 2)),
    (("S", 1), ("X", 3)),
    (("T", 2), ("V", 4)),
    (("X", 2), ("S", 5)),
    (("P", 3), ("V", 5)),
)
REBER_END = 5


class Symbol(NamedTuple):
    character: str
    nats: float = 0.0  # -log of the probability it was drawn with, all before it being known
    from_memory: bool = False  # whether it follows from what was long ago, not just before
    begins: bool = False  # a string, for which nothing matters that was before it


@dataclass(frozen=True)
class Floor:
    nats: Float[np.ndarray, " tokens"]
    from_memory: Bool[np.ndarray, " tokens"]
    begins: Bool[np.ndarray, " tokens"]


@dataclass(frozen=True)
class Generated:
    text: str
    floor: Floor


def generate_text(config: DataConfig, part: str, size: int) -> Generated:
    """A text of so many symbols, the same for the same settings everywhere.

    Args:
        part: training, validation or test; each is drawn by itself.
    """
    # Of Random only what Python promises not to change: seeding by bytes, and random().
    seed = hashlib.sha256(f"{part} text, seed {config.text_seed}".encode()).digest()
    symbols = list(islice(process(config, part, Random(seed)), size))
    return Generated(
        "".join(symbol.character for symbol in symbols),
        Floor(
            np.array([symbol.nats for symbol in symbols], np.float64),
            np.array([symbol.from_memory for symbol in symbols], bool),
            np.array([symbol.begins for symbol in symbols], bool),
        ),
    )


def process(config: DataConfig, part: str, random: Random) -> Iterator[Symbol]:
    """Symbols without end."""
    match config.text:
        case TextName.embedded_reber:
            return embedded_reber(random)
        case TextName.recall:
            return recall(random, config.lag)
        case TextName.anbn:
            longest = config.longest
            return anbn(random, *((longest + 1, 2 * longest) if part == "test" else (1, longest)))
        case _:
            raise ValueError(f"{config.text} is not generated")


def embedded_reber(random: Random) -> Iterator[Symbol]:
    while True:
        yield Symbol("B", begins=True)
        branch = draw(random, "TP")
        yield branch
        yield Symbol("B")
        state = 0
        while state != REBER_END:
            symbol, state = REBER[state][int(2 * random.random())]
            yield Symbol(symbol, math.log(2))
        yield Symbol("E")
        yield Symbol(branch.character, from_memory=True)
        yield Symbol("E")


def recall(random: Random, lag: int) -> Iterator[Symbol]:
    while True:
        remembered = draw(random, REMEMBERED)
        yield remembered._replace(begins=True)
        for _ in range(lag):
            yield draw(random, DISTRACTORS)
        yield Symbol(CUE)
        yield Symbol(remembered.character, from_memory=True)


def anbn(random: Random, shortest: int, longest: int) -> Iterator[Symbol]:
    """Strings of n times a and n times b, n being equally likely from shortest to longest."""
    while True:
        n = shortest + int((longest - shortest + 1) * random.random())
        for before in range(n):  # how many a stand there already
            possible = longest - max(before, shortest) + 1  # n
            goes_on = longest - max(before + 1, shortest) + 1
            yield Symbol("a", math.log(possible / goes_on), begins=before == 0)
        yield Symbol("b", math.log(longest - n + 1))
        for _ in range(n - 1):
            yield Symbol("b", from_memory=True)
        yield Symbol("\n", from_memory=True)


def draw(random: Random, symbols: str) -> Symbol:
    return Symbol(symbols[int(len(symbols) * random.random())], math.log(len(symbols)))
