"""Tokenize a text, and turn tokens back into a text.

Cleaning comes first. ``letters`` replaces each run of other characters than Latin letters by
one blank, and lower-cases the rest. ``letters_by_line`` does so line by line, strips each line
and joins lines without a separator, as the chapter of d2l.ai does: "... it was" + "of ..."
gives "it wasof". Tokens are then single characters, bytes of UTF-8, or words separated by blanks;
without cleaning, each line of words ends in ``<eos>``. Subword tokens are those of a vocabulary,
see :mod:`lstm_lm.data.vocabulary`.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from string import ascii_letters
from typing import assert_never

from lstm_lm.config import Cleaning, Level

END_OF_LINE, LINE_FEED = "<eos>", "\n"
# Translation of each byte: letters become lower case, all else a blank.
LETTERS = bytes(
    ord(chr(byte).lower() if chr(byte) in ascii_letters else " ") for byte in range(256)
)
PIECE = re.compile(r"\s*\S+|\s+")
PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
OTHERS = sorted(set(range(256)) - PRINTABLE)
# Tokens of bytes are written with one visible character for each byte, as in GPT-2 (Radford et al.
# 2019): "Ġ" is a blank, "Ċ" ends a line.
OF_BYTE = [chr(b) if b in PRINTABLE else chr(256 + OTHERS.index(b)) for b in range(256)]
BYTE_OF = {character: byte for byte, character in enumerate(OF_BYTE)}


def tokenize(text: str, level: Level, cleaning: Cleaning) -> Iterable[str]:
    """The tokens of a text in order: characters and bytes as one string, words one by one."""
    match level:
        case Level.character:
            return characters(text, cleaning)
        case Level.byte:
            return "".join(OF_BYTE[byte] for byte in characters(text, cleaning).encode())
        case Level.word:
            return words([text], cleaning)
        case Level.subword:
            raise ValueError("subwords are those of a vocabulary")
        case unhandled:
            assert_never(unhandled)


def characters(text: str, cleaning: Cleaning) -> str:
    match cleaning:
        case Cleaning.none:
            return text
        case Cleaning.letters:
            return letters_only(text)
        case Cleaning.letters_by_line:
            return "".join(letters_only(line).strip() for line in text.split(LINE_FEED))
        case unhandled:
            assert_never(unhandled)


def words(blocks: Iterable[str], cleaning: Cleaning) -> Iterator[str]:
    """The words of a text that comes in blocks, which may end within a word."""
    is_plain, unfinished, last = cleaning is Cleaning.none, list[str](), LINE_FEED
    for block in blocks:
        last = block[-1:] or last
        # Words end here; other blanks are slower to find.
        end = 1 + max(block.rfind(" "), block.rfind(LINE_FEED))
        if end:
            yield from words_of("".join([*unfinished, block[:end]]), is_plain)
            unfinished = []
        unfinished.append(block[end:])
    yield from words_of("".join(unfinished), is_plain)
    if is_plain and last != LINE_FEED:
        yield END_OF_LINE


def pieces_of_words(blocks: Iterable[str]) -> Iterator[str]:
    """A text cut before blanks: each piece is a word, with the blanks before it."""
    for block in whole_words(blocks):
        yield from PIECE.findall(block)


def whole_words(blocks: Iterable[str]) -> Iterator[str]:
    """A text that comes in blocks, in blocks that end before a blank, but for the last."""
    unfinished: list[str] = []
    for block in blocks:
        end = len(block[: 1 + max(block.rfind(" "), block.rfind(LINE_FEED))].rstrip())
        if end:
            yield "".join([*unfinished, block[:end]])
            unfinished = []
        unfinished.append(block[end:])
    yield "".join(unfinished)


def words_of(text: str, is_plain: bool) -> list[str]:
    # Only line feeds end lines; str.splitlines would also break them at form feeds and others.
    marked = text.replace(LINE_FEED, f" {END_OF_LINE} ") if is_plain else letters_only(text)
    return marked.split()


def tokenize_prompt(prompt: str, level: Level, cleaning: Cleaning) -> list[str]:
    """The tokens of a prompt; a last line of words has ``<eos>`` only if a line feed ends it."""
    if level is not Level.word:
        prompt = (
            prompt if cleaning is Cleaning.none else letters_only(prompt)
        )  # with its last blank
        return list(tokenize(prompt, level, Cleaning.none))
    tokens = list(tokenize(prompt, level, cleaning))
    is_open = cleaning is Cleaning.none and not prompt.endswith(LINE_FEED)
    return tokens[:-1] if is_open else tokens


def spell(tokens: Iterable[str], level: Level) -> str:
    """The text that tokens stand for; words have one blank between them."""
    match level:
        case Level.character:
            return "".join(tokens)
        case Level.byte | Level.subword:
            return b"".join(map(bytes_of, tokens)).decode(errors="replace")
        case Level.word:
            return re.sub(f" ?{END_OF_LINE} ?", "\n", " ".join(tokens))
        case unhandled:
            assert_never(unhandled)


class Speller:
    """Spells tokens as they come, for a text that grows."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.last: list[str] = []
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: str) -> str:
        """The text that the token adds; empty until all bytes of a character are there."""
        if self.level in (Level.byte, Level.subword):
            return self.decoder.decode(bytes_of(token))
        before, self.last = self.last, [token]
        return spell([*before, token], self.level)[len(spell(before, self.level)) :]

    def finish(self) -> str:
        """The text of what is left: � for a character whose last bytes are missing."""
        return self.decoder.decode(b"", final=True)


def bytes_of(token: str) -> bytes:
    """The bytes that a token of bytes stands for."""
    return bytes(BYTE_OF[character] for character in token)


def letters_only(text: str) -> str:
    # Equals re.sub("[^A-Za-z]+", " ", text).lower(), in a third of the time.
    return re.sub(b"  +", b" ", text.encode("ascii", "replace").translate(LETTERS)).decode()
