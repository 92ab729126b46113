"""A text cut by position into training, validation and test ids.

The ids of large texts are cached on disk, so that the next run need not tokenize again:

    <data folder>/tokens/<checksum of text and settings>.<level>

    first line     SHA-256 of all that follows
    second line    JSON: checksum of the rules, the vocabulary, the lengths of the splits
    then           the ids, which are memory-mapped

Any of these files may be deleted at any time. A damaged file, or one from another version of this
package, is written again. If no folder is writable, nothing is cached.
"""

import contextlib
import hashlib
import json
import math
import mmap
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from lstm_lm.config import GENERATED, DataConfig, Level, VocabularySource
from lstm_lm.data.corpora import (
    MOVED,
    Corpus,
    Piece,
    find_corpus,
    not_utf8_error,
    out_of_memory_error,
    pieces,
)
from lstm_lm.data.download import data_root
from lstm_lm.data.generated import Floor, generate_text
from lstm_lm.data.subwords import learn_subwords, tokenize_subwords
from lstm_lm.data.text import characters
from lstm_lm.data.tokenized import Tokenized
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import SettingsError
from lstm_lm.files import atomic_file, cache_folder

MIN_CACHED_BYTES = 2_000_000  # of a text; smaller ones are tokenized in 0.1 s
IDS_DEPEND_ON = (
    "level",
    "cleaning",
    "validation_size",
    "test_size",
    "max_tokens",
    "vocabulary_from",
    "minimum_count",
    "vocabulary_size",
)
SHA256_LINE, ALIGNMENT = 65, 64  # bytes

Text = TypeVar("Text", str, Tokenized)


class Length(NamedTuple):
    """The mean length of a token."""

    characters: float
    bytes: float  # in UTF-8


@dataclass(frozen=True)
class Split:
    """A part of a text as ids, with its length in characters and bytes.

    The first token is given, not predicted, so its characters do not count. Words are joined by
    single blanks; other blanks between them do not count, either.
    """

    ids: Integer[Tensor, " tokens"] = field(repr=False)
    characters: int
    bytes: int  # in UTF-8
    floor: Floor | None = field(default=None, repr=False)  # of a generated text

    @classmethod
    def of(
        cls, tokens: Tokenized, vocabulary: Vocabulary, level: Level, floor: Floor | None = None
    ) -> "Split":
        ids = tokens.look_up(id_table(tokens, vocabulary))
        return cls(torch.from_numpy(ids), *tokens[1:].spelled_lengths(level), floor)

    @property
    def predictions(self) -> int:
        return len(self.ids) - 1

    @property
    def token_length(self) -> Length:
        """The mean length of the predicted tokens."""
        return Length(self.characters / self.predictions, self.bytes / self.predictions)

    @cached_property
    def unknown(self) -> float:
        """Share of the predicted tokens that are ``<unk>``, since not in the vocabulary."""
        listed = int(np.count_nonzero(self.ids[1:].numpy()))
        return (self.predictions - listed) / max(1, self.predictions)


@dataclass(frozen=True)
class Splits:
    training: Split
    validation: Split
    test: Split
    test_is_validation: bool
    vocabulary: Vocabulary
    text_sha256: str
    text_note: str | None

    @property
    def unknown(self) -> dict[str, float]:
        """Share of unknown tokens in each split, by its name in a run's summary."""
        parts = {"train": self.training, "validation": self.validation, "test": self.test}
        return {f"{name}/unknown": part.unknown for name, part in parts.items()}


def read_splits(
    config: DataConfig, vocabulary: Vocabulary | None = None, text_sha256: str | None = None
) -> Splits:
    """The three splits of the text that ``config`` names, as ids of ``vocabulary``.

    Args:
        vocabulary: if None, built as the config says.
        text_sha256: the checksum that the text must have; None for a new run.

    Raises:
        SettingsError: if the text cannot be found, has changed or is too short to split.
    """
    corpus, name = find_text(config, text_sha256), str(config.path or config.text)
    if text_sha256 not in (None, corpus.sha256):
        of_named = "use the data.root (for python_docs: the Python version) it was trained with"
        raise SettingsError(
            f"the text {name} is not the one this run was trained on "
            f"(SHA-256 {corpus.sha256}, not {text_sha256}): "
            f"{MOVED if config.path else of_named}"
        )
    size = sum(len(piece.content) for piece in corpus.pieces)
    is_large = size >= MIN_CACHED_BYTES and not corpus.floors
    try:
        return (read_or_tokenize if is_large else in_memory)(corpus, config, vocabulary)
    except MemoryError as error:
        raise out_of_memory_error(name, size) from error


def id_table(tokens: Tokenized, vocabulary: Vocabulary) -> Integer[np.ndarray, " distinct"]:
    """The id of each distinct token, in the smallest type that PyTorch has for all ids."""
    size = len(vocabulary)
    kind = np.uint8 if size <= 2**8 else np.int16 if size <= 2**15 else np.int32
    return np.array(vocabulary.encode(tokens.distinct), kind)


def find_text(config: DataConfig, known_sha256: str | None = None) -> Corpus:
    """The text that ``config`` names: generated, or found as :func:`find_corpus` does."""
    return generated(config) if config.text in GENERATED else find_corpus(config, known_sha256)


def generated(config: DataConfig) -> Corpus:
    """The generated text in three pieces; each begins with a whole string."""
    parts = sizes(int(config.max_tokens or 0), config)._asdict()
    texts = [generate_text(config, part, size) for part, size in parts.items() if size]
    corpus = pieces([text.text.encode() for text in texts], config.text.value)
    return replace(corpus, floors=[text.floor for text in texts])


def tokenize_splits(
    corpus: Corpus, config: DataConfig, vocabulary: Vocabulary | None
) -> tuple[list[Tokenized], Vocabulary]:
    """Training, validation and perhaps test tokens of a text, whose pieces are used up.

    Raises:
        SettingsError: if a part has no token to predict.
    """
    by_level = cut_into_subwords if config.level is Level.subword else count_tokens
    parts, listed = by_level(corpus, config, vocabulary)
    for name, tokens in zip(("validation", "test"), parts[1:], strict=False):
        if len(tokens) < 2:
            raise SettingsError(
                f"the {name} text is one token, which leaves nothing to predict: use a longer one"
            )
    return parts, listed


def count_tokens(
    corpus: Corpus, config: DataConfig, vocabulary: Vocabulary | None
) -> tuple[list[Tokenized], Vocabulary]:
    """Parts of the text in tokens of another level; the vocabulary lists the most frequent."""
    listed, parts = cut(corpus, config, tokenize_piece)
    if vocabulary is None:
        counts = Counter[str]()
        for text in listed:
            counts.update(dict(zip(text.distinct, text.counts().tolist(), strict=True)))
        vocabulary = Vocabulary.from_counts(counts, config.minimum_count)
    return parts, vocabulary


def cut_into_subwords(
    corpus: Corpus, config: DataConfig, vocabulary: Vocabulary | None
) -> tuple[list[Tokenized], Vocabulary]:
    """Subwords as tokens; the text is cut by characters, as the subwords are not known before."""
    listed, parts = cut(corpus, config, read_characters)
    if vocabulary is None:
        vocabulary = learn_subwords(listed, config.vocabulary_size or 0)
    return [tokenize_subwords(part, vocabulary) for part in parts], vocabulary


def cut(
    corpus: Corpus, config: DataConfig, read: Callable[[Piece, DataConfig], Text]
) -> tuple[list[Text], list[Text]]:
    """The texts that a vocabulary lists, and the training, validation and perhaps test text."""
    whole = read_piece(corpus.pieces.pop(0), config, read)
    training, everything = whole[: config.max_tokens], [whole]
    if corpus.pieces:
        parts = [training]
        while corpus.pieces:
            parts.append(read_piece(corpus.pieces.pop(0), config, read))
        everything += parts[1:]
    else:
        first, second, _ = sizes(len(training), config)
        rest = training[first:]
        parts = [part for part in (training[:first], rest[:second], rest[second:]) if len(part)]
    of_all = config.vocabulary_from is VocabularySource.whole_text
    return everything if of_all else parts[:1], parts


def read_piece(piece: Piece, config: DataConfig, read: Callable[[Piece, DataConfig], Text]) -> Text:
    """A piece of text, as ``read`` reads it; SettingsError if it is empty or not UTF-8."""
    try:
        tokens = read(piece, config)
    except UnicodeDecodeError as error:
        raise not_utf8_error(piece.name, error) from error
    if len(tokens) == 0:
        without = f" with data.cleaning={config.cleaning}" if piece.content.strip() else ""
        raise SettingsError(f"{piece.name} is empty{without}: there is nothing to learn from")
    return tokens


def tokenize_piece(piece: Piece, config: DataConfig) -> Tokenized:
    return Tokenized.of(piece.content, config.level, config.cleaning)


def read_characters(piece: Piece, config: DataConfig) -> str:
    return characters(piece.content.decode(), config.cleaning)


def in_memory(corpus: Corpus, config: DataConfig, vocabulary: Vocabulary | None) -> Splits:
    parts, listed = tokenize_splits(corpus, config, vocabulary)
    floors: Sequence[Floor | None] = corpus.floors or [None] * len(parts)
    splits = [
        Split.of(tokens, listed, config.level, floor)
        for tokens, floor in zip(parts, floors, strict=True)
    ]
    return as_splits(splits, listed, corpus)


def as_splits(splits: Sequence[Split], vocabulary: Vocabulary, corpus: Corpus) -> Splits:
    return Splits(
        training=splits[0],
        validation=splits[1],
        test=splits[-1],
        test_is_validation=len(splits) == 2,
        vocabulary=vocabulary,
        text_sha256=corpus.sha256,
        text_note=corpus.note,
    )


def read_or_tokenize(corpus: Corpus, config: DataConfig, vocabulary: Vocabulary | None) -> Splits:
    """The splits of a large text, read from the cache if they are there."""
    known = [cache_name(corpus, config, some) for some in dict.fromkeys((None, vocabulary))]
    folders = list(cache_folders(data_root(config.root)))
    for file in (folder / name for name in known for folder in folders):
        with contextlib.suppress(OSError, ValueError):  # absent, damaged or from another version
            return read_cached(file, corpus, vocabulary)
    parts, listed = tokenize_splits(corpus, config, vocabulary)
    for file in (folder / known[-1] for folder in folders):
        with contextlib.suppress(OSError, ValueError):  # no permission, or the disk is full
            write_cached(file, parts, listed, config.level)
            return read_cached(file, corpus, vocabulary)
    splits = [Split.of(tokens, listed, config.level) for tokens in parts]
    return as_splits(splits, listed, corpus)


def cache_name(corpus: Corpus, config: DataConfig, vocabulary: Vocabulary | None) -> str:
    """The name of a cache file: a checksum of the text and all that decides the ids.

    Args:
        vocabulary: None if the settings decide it.
    """
    lengths = [len(piece.content) for piece in corpus.pieces]
    settings = [str(getattr(config, name)) for name in IDS_DEPEND_ON]
    listed = vocabulary and vocabulary.for_json()
    content = json.dumps([corpus.sha256, lengths, settings, listed]).encode()
    return f"{hashlib.sha256(content).hexdigest()[:32]}.{config.level}"


def cache_folders(root: Path) -> Iterator[Path]:
    """Folders to cache ids in: that of the data, else the user's cache folder.

    Nothing is ever written beside the user's own text.
    """
    with contextlib.suppress(OSError):  # the data folder is not created for a cache
        if root.stat().st_mode & stat.S_IWUSR:  # os.access is always true for the superuser
            yield root / "tokens"
    with contextlib.suppress(SettingsError):  # this user has no home
        yield cache_folder() / "tokens"


def read_cached(file: Path, corpus: Corpus, vocabulary: Vocabulary | None) -> Splits:
    """The splits in a cache file, with memory-mapped ids.

    Raises:
        OSError, ValueError: if it is absent, damaged, of another version or another vocabulary.
    """
    if not file.is_file():
        raise FileNotFoundError(file)
    with open(file, "rb") as stream:
        # A copy on writing, which nobody does: PyTorch warns of memory that is read-only.
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    start = content.find(b"\n") + 1
    if content[:start] != sha256_line(hashlib.sha256(memoryview(content)[start:])):
        raise ValueError(f"{file} is damaged")
    end = content.find(b"\n", start) + 1
    header = json.loads(content[start:end])
    if header.get("rules") != rules():
        raise ValueError(f"{file} was made by another version")
    listed = Vocabulary.from_json(header["vocabulary"])
    if vocabulary is not None and vocabulary.for_json() != listed.for_json():
        raise ValueError(f"{file} has another vocabulary")
    ids = torch.from_numpy(np.frombuffer(content, header["type"], offset=end))
    tokens, *lengths = header["tokens"], header["characters"], header["bytes"]
    return as_splits(list(map(Split, ids.split(tokens), *lengths)), listed, corpus)


def write_cached(
    file: Path, parts: Sequence[Tokenized], vocabulary: Vocabulary, level: Level
) -> None:
    """Write ids to a file block by block, since as a whole they need not fit into memory."""
    tables = [id_table(tokens, vocabulary) for tokens in parts]
    kind = tables[0].dtype.newbyteorder("<")
    lengths = [tokens[1:].spelled_lengths(level) for tokens in parts]
    header = {
        "rules": rules(),
        "vocabulary": vocabulary.for_json(),
        "type": kind.str,
        "tokens": list(map(len, parts)),
        "characters": [in_characters for in_characters, _ in lengths],
        "bytes": [in_bytes for _, in_bytes in lengths],
    }
    first = json.dumps(header).encode()
    # Blanks after the JSON, so that ids lie at a multiple of their size.
    first += b" " * (-(SHA256_LINE + len(first) + 1) % ALIGNMENT) + b"\n"
    digest = hashlib.sha256(first)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as temporary, open(temporary, "wb") as stream:
        stream.writelines([b" " * SHA256_LINE, first])
        for tokens, table in zip(parts, tables, strict=True):
            for block in tokens.look_up_blocks(table.astype(kind)):
                stream.write(block.data)
                digest.update(block.data)
        stream.seek(0)
        stream.write(sha256_line(digest))


def sha256_line(digest: Any) -> bytes:
    return f"{digest.hexdigest()}\n".encode()


def rules() -> str:
    """Checksum of the rules of tokenizing: this code, and the Unicode version for its blanks.

    Raises:
        OSError: if the source files cannot be read.
    """
    names = "splits.py", "subwords.py", "text.py", "tokenized.py", "vocabulary.py"
    code = b"".join(Path(__file__).with_name(name).read_bytes() for name in names)
    return hashlib.sha256(code + unicodedata.unidata_version.encode()).hexdigest()


class Sizes(NamedTuple):
    """Sizes of the splits in tokens, in the order of the text."""

    training: int
    validation: int
    test: int


def sizes(tokens: int, config: DataConfig) -> Sizes:
    """The sizes of the splits of a text with ``tokens`` tokens.

    Raises:
        SettingsError: if the text is too short to split.
    """
    test = count(config.test_size, tokens)
    validation = count(config.validation_size, tokens)
    training = tokens - test - validation
    is_capped = tokens == config.max_tokens
    longer = "set a larger data.max_tokens" if is_capped else "use a longer text"
    unit = "characters" if config.level is Level.subword else "tokens"
    if training < 1:
        shares = sum(size for size in (config.validation_size, config.test_size) if size < 1)
        less = "hold out less, with a smaller data.validation_size or data.test_size"
        # No shares of three tokens suffice; shares that add up to 1 leave nothing of any text.
        ways = [longer] * (shares < 1) + [less] * (tokens > 3) or [f"{longer} and {less}"]
        raise SettingsError(
            f"a text of {tokens:,} {unit} is too short to hold out "
            f"data.validation_size={config.validation_size:g} and "
            f"data.test_size={config.test_size:g}: {' or '.join(ways)}"
        )
    if validation < 2:
        raise too_small_error("validation", config.validation_size, f"{tokens:,} {unit}", longer)
    if test == 1:
        raise too_small_error("test", config.test_size, f"{tokens:,} {unit}", longer, " or 0")
    return Sizes(training, validation, test)


def too_small_error(
    part: str, size: float, length: str, longer: str, none: str = ""
) -> SettingsError:
    """The error for a split of one token, which has no next token to predict."""
    larger = f"set a larger data.{part}_size{none}"
    if size >= 1:
        return SettingsError(
            f"data.{part}_size={size:g} holds out one token, which leaves nothing to predict: "
            f"{larger}; a value from 1 on is a number of tokens, below 1 a share of the text"
        )
    return SettingsError(
        f"a text of {length} is too short to hold out data.{part}_size={size:g}, which leaves "
        f"nothing to predict: {longer} or {larger}"
    )


def count(size: float, tokens: int) -> int:
    # Rounded up, as in nanoGPT. 1e-9 absorbs rounding errors of products such as 0.07 x 100.
    return math.ceil(size * tokens - 1e-9) if size < 1 else round(size)
