"""A text as tokens, and tokens as a text.

Cleaning comes first. ``letters`` turns whatever is not a Latin letter into one blank and
lower-cases the rest. ``letters_by_line`` does so line by line, strips each line and joins
them with nothing between, as the chapter of d2l.ai does: "... it was" + "of ..." gives
"it wasof". Characters are tokens as they are; words are what blanks separate, and where
lines were kept each ends in ``<eos>``.
"""

import re
from collections.abc import Iterable

from lstm_lm.config import Cleaning, Level

END_OF_LINE = "<eos>"


def tokenize(text: str, level: Level, cleaning: Cleaning) -> list[str]:
    if cleaning is Cleaning.letters_by_line:
        lines = [letters_only(line).strip() for line in split_lines(text)]
        if level is Level.character:
            return list("".join(lines))
        return [word for line in lines for word in line.split()]
    if cleaning is Cleaning.letters:
        text = letters_only(text)
    if level is Level.character:
        return list(text)
    if cleaning is Cleaning.letters:
        return text.split()
    return [token for line in split_lines(text) for token in (*line.split(), END_OF_LINE)]


def tokenize_prompt(prompt: str, level: Level, cleaning: Cleaning) -> list[str]:
    """The tokens of a text that is to be continued: no line of it has ended yet."""
    text = prompt if cleaning is Cleaning.none else letters_only(prompt)
    if level is Level.character:
        return list(text)
    return tokenize(text, level, cleaning)[: -1 if cleaning is Cleaning.none else None]


def spell(tokens: Iterable[str], level: Level) -> str:
    """The text that tokens stand for; words have one blank between them."""
    if level is Level.character:
        return "".join(tokens)
    return re.sub(f" ?{END_OF_LINE} ?", "\n", " ".join(tokens))


def split_lines(text: str) -> list[str]:
    # Not str.splitlines, which breaks lines at form feeds and other characters as well.
    return text.removesuffix("\n").split("\n") if text else []


def letters_only(text: str) -> str:
    return re.sub("[^A-Za-z]+", " ", text).lower()
