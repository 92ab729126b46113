"""A text cut by position into training, validation and test ids."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from lstm_lm.config import DataConfig, Level, VocabularySource
from lstm_lm.data.corpora import MOVED, Corpus, find_corpus, out_of_memory_error
from lstm_lm.data.download import data_root
from lstm_lm.data.generated import Floor
from lstm_lm.data.held_out import sizes
from lstm_lm.data.token_cache import read_or_tokenize
from lstm_lm.data.tokenized import Tokenized
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
    corpus, name = find_corpus(config, text_sha256), str(config.path or config.text)
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
