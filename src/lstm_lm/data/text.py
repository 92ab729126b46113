"""Tokenize a text, and turn tokens back into a text.

Cleaning comes first. ``letters`` replaces each run of other characters than Latin letters by
one blank, and lower-cases the rest. ``letters_by_line`` does so line by line, strips each line
and joins lines without a separator, as the chapter of d2l.ai does: "... it was" + "of ..."
gives "it wasof". Tokens are then single characters, or words separated by blanks; without
cleaning, each line of words ends in ``<eos>``.
"""

import re
from collections.abc import Iterable
from itertools import chain
from string import ascii_letters
from typing import assert_never

from lstm_lm.config import Cleaning, Level

END_OF_LINE = "<eos>"
# Translation of each byte: letters become lower case, all else a blank.
LETTERS = bytes(
    ord(chr(byte).lower() if chr(byte) in ascii_letters else " ") for byte in range(256)
)


def tokenize(text: str, level: Level, cleaning: Cleaning) -> Iterable[str]:
    """The tokens of a text in order: characters as one string, words one by one."""
    if level is Level.character:
        return characters(text, cleaning)
    return chain.from_iterable(words(line, cleaning) for line in split_lines(text))


def characters(text: str, cleaning: Cleaning) -> str:
    match cleaning:
        case Cleaning.none:
            return text
        case Cleaning.letters:
            return letters_only(text)
        case Cleaning.letters_by_line:
            return "".join(letters_only(line).strip() for line in split_lines(text))
        case unhandled:
            assert_never(unhandled)


def words(line: str, cleaning: Cleaning) -> list[str]:
    if cleaning is Cleaning.none:
        return [*line.split(), END_OF_LINE]
    return letters_only(line).split()


def tokenize_prompt(prompt: str, level: Level, cleaning: Cleaning) -> list[str]:
    """The tokens of a prompt, without ``<eos>`` at its end: its last line is not complete."""
    if level is Level.character:
        return list(prompt if cleaning is Cleaning.none else letters_only(prompt))
    tokens = list(tokenize(prompt, level, cleaning))
    return tokens[:-1] if cleaning is Cleaning.none else tokens


def spell(tokens: Iterable[str], level: Level) -> str:
    """The text that tokens stand for; words have one blank between them."""
    if level is Level.character:
        return "".join(tokens)
    return re.sub(f" ?{END_OF_LINE} ?", "\n", " ".join(tokens))


def split_lines(text: str) -> list[str]:
    # str.splitlines would also break lines at form feeds and other characters.
    return text.removesuffix("\n").split("\n") if text else []


def letters_only(text: str) -> str:
    # Equals re.sub("[^A-Za-z]+", " ", text).lower(), in a third of the time.
    return re.sub(b"  +", b" ", text.encode("ascii", "replace").translate(LETTERS)).decode()
