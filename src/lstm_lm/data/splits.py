"""A text cut by position into training, validation and test ids."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from lstm_lm.config import GENERATED, DataConfig, Level, VocabularySource
from lstm_lm.data.corpora import MOVED, Corpus, find_corpus, out_of_memory_error, three_pieces
from lstm_lm.data.download import data_root
from lstm_lm.data.generated import Floor, generate_text
from lstm_lm.data.tokenized import Tokenized, read_or_tokenize
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import SettingsError


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
        # One byte per id if possible; batches convert them to the type that PyTorch needs.
        kind = np.uint8 if len(vocabulary) <= 256 else np.int32
        ids = tokens.look_up(np.array(vocabulary.encode(tokens.distinct), kind))
        return cls(torch.from_numpy(ids), *tokens[1:].spelled_lengths(level), floor)

    @property
    def predictions(self) -> int:
        return len(self.ids) - 1

    @cached_property
    def unknown(self) -> float:
        """Share of the predicted tokens that are ``<unk>``, since not in the vocabulary."""
        return int((self.ids[1:] == 0).sum()) / max(1, self.predictions)


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
    try:
        return split(corpus, config, vocabulary, name)
    except MemoryError as error:
        raise out_of_memory_error(name, corpus.training) from error


def find_text(config: DataConfig, known_sha256: str | None = None) -> Corpus:
    """The text that ``config`` names: generated, or found as :func:`find_corpus` does."""
    return generated(config) if config.text in GENERATED else find_corpus(config, known_sha256)


def generated(config: DataConfig) -> Corpus:
    """The generated text in three pieces; each begins with a whole string."""
    parts = sizes(int(config.max_tokens or 0), config)._asdict()
    pieces = [generate_text(config, part, size) for part, size in parts.items()]
    corpus = three_pieces([piece.text.encode() for piece in pieces], config.text.value)
    training, validation, test = (piece.floor for piece in pieces)
    return replace(corpus, floors=(training, validation, test))


def split(corpus: Corpus, config: DataConfig, vocabulary: Vocabulary | None, name: str) -> Splits:
    training = tokenized(corpus.training, config)
    if len(training) == 0:
        without = corpus.training.strip() and f" with data.cleaning={config.cleaning}"
        raise SettingsError(f"{name} is empty{without}: there is nothing to learn from")
    whole = training
    training = training[: config.max_tokens]
    if corpus.validation is None:
        training, validation, test = cut(training, config)
    else:
        validation, test = own_splits(corpus, config)
    if vocabulary is None:
        source = training if config.vocabulary_from is VocabularySource.training else whole
        counts = dict(zip(source.distinct, source.counts().tolist(), strict=True))
        vocabulary = Vocabulary.from_counts(counts, config.minimum_count)
    parts, floors = (training, validation, test), corpus.floors or (None, None, None)
    splits = [
        Split.of(tokens, vocabulary, config.level, floor)
        for tokens, floor in zip(parts, floors, strict=True)
    ]
    return Splits(
        training=splits[0],
        validation=splits[1],
        test=splits[2] if test else splits[1],
        test_is_validation=not test,
        vocabulary=vocabulary,
        text_sha256=corpus.sha256,
        text_note=corpus.note,
    )


def cut(tokens: Tokenized, config: DataConfig) -> tuple[Tokenized, Tokenized, Tokenized]:
    """Training, validation and test tokens, in this order in the text."""
    training, validation, _ = sizes(len(tokens), config)
    rest = tokens[training:]
    return tokens[:training], rest[:validation], rest[validation:]


def own_splits(corpus: Corpus, config: DataConfig) -> tuple[Tokenized, Tokenized]:
    return tokenized(corpus.validation or "", config), tokenized(corpus.test or "", config)


def tokenized(text: str, config: DataConfig) -> Tokenized:
    return read_or_tokenize(text, config.level, config.cleaning, data_root(config.root))


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
    if training < 1:
        shares = sum(size for size in (config.validation_size, config.test_size) if size < 1)
        less = "hold out less, with a smaller data.validation_size or data.test_size"
        # No shares of three tokens suffice; shares that add up to 1 leave nothing of any text.
        ways = [longer] * (shares < 1) + [less] * (tokens > 3) or [f"{longer} and {less}"]
        raise SettingsError(
            f"a text of {tokens:,} tokens is too short to hold out "
            f"data.validation_size={config.validation_size:g} and "
            f"data.test_size={config.test_size:g}: {' or '.join(ways)}"
        )
    if validation < 2:
        raise too_small_error("validation", config.validation_size, tokens, longer)
    if test == 1:
        raise too_small_error("test", config.test_size, tokens, longer, " or 0")
    return Sizes(training, validation, test)


def too_small_error(
    part: str, size: float, tokens: int, longer: str, none: str = ""
) -> SettingsError:
    """The error for a split of one token, which has no next token to predict."""
    larger = f"set a larger data.{part}_size{none}"
    if size >= 1:
        return SettingsError(
            f"data.{part}_size={size:g} holds out one token, which leaves nothing to predict: "
            f"{larger}; a value from 1 on is a number of tokens, below 1 a share of the text"
        )
    return SettingsError(
        f"a text of {tokens:,} tokens is too short to hold out data.{part}_size={size:g}, which "
        f"leaves nothing to predict: {longer} or {larger}"
    )


def count(size: float, tokens: int) -> int:
    # Rounded up, as in nanoGPT. 1e-9 absorbs rounding errors of products such as 0.07 x 100.
    return math.ceil(size * tokens - 1e-9) if size < 1 else round(size)
