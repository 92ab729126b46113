"""Subwords: tokens of byte-pair encoding, learned from the training text.

At first each byte is a token; then the two tokens that most often follow each other become one,
again and again (Sennrich et al. 2016, Radford et al. 2019). Nothing is joined across letters,
digits, blanks and other signs, except for one blank before a word:

    "to be or not to be"    to Ġbe Ġor Ġno t Ġto Ġbe

Every text consists of bytes, so no token is unknown. The vocabulary has all that is needed to cut a
text: the tokens, and which two were joined in which order.
"""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Integer

from lstm_lm.data.text import OF_BYTE, pieces_of_words, whole_words
from lstm_lm.data.tokenized import BLOCK, Tokenized, numbered, with_progress
from lstm_lm.data.vocabulary import UNKNOWN, Vocabulary
from lstm_lm.errors import SettingsError

if TYPE_CHECKING:
    from tokenizers import Tokenizer, models  # imported on first use: no other level needs it


def learn_subwords(texts: Sequence[str], size: int) -> Vocabulary:
    """A vocabulary of ``size`` subwords, ``<unk>`` included; the same texts give the same.

    Raises:
        SettingsError: if the texts are too short for so many.
    """
    from tokenizers import models, trainers

    tokenizer = tokenizer_with(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[UNKNOWN],
        initial_alphabet=OF_BYTE,
        show_progress=False,
    )
    of_texts = (whole_words(blocks_of(text)) for text in texts)
    tokenizer.train_from_iterator(chain.from_iterable(of_texts), trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    if len(learned["vocab"]) < size:
        raise SettingsError(
            f"the text has only {len(learned['vocab']):,} subwords that occur twice: use "
            f"a longer text or a smaller data.vocabulary_size than {size:,}"
        )
    return Vocabulary(sorted(learned["vocab"], key=learned["vocab"].get), learned["merges"])


def subwords_of(text: str, vocabulary: Vocabulary) -> list[str]:
    """The subwords of a short text."""
    found: list[str] = tokenizer_of(vocabulary).encode(text, add_special_tokens=False).tokens
    return found


def tokenize_subwords(text: str, vocabulary: Vocabulary) -> Tokenized:
    """The subwords of a text as numbers, which are their ids; each word is cut only once."""
    words = numbered(pieces_of_words(blocks_of(text)))
    cut = tokenizer_of(vocabulary).encode_batch_fast(words.distinct, add_special_tokens=False)
    ids = np.array([id_ for word in cut for id_ in word.ids], np.int32)
    lengths = np.array([len(word.ids) for word in cut], np.int64)
    return Tokenized(vocabulary.tokens, expand(words, ids, lengths))


@lru_cache(maxsize=2)
def tokenizer_of(vocabulary: Vocabulary) -> "Tokenizer":
    from tokenizers import models

    ids = {token: id_ for id_, token in enumerate(vocabulary.tokens)}
    return tokenizer_with(models.BPE(ids, vocabulary.merges))


def tokenizer_with(model: "models.BPE") -> "Tokenizer":
    from tokenizers import Tokenizer, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def blocks_of(text: str) -> Iterator[str]:
    """A text in blocks, with a progress bar."""
    blocks = (text[start : start + BLOCK] for start in range(0, len(text), BLOCK))
    return with_progress(blocks, len(text))


def expand(
    words: Tokenized, ids: Integer[np.ndarray, " parts"], lengths: Integer[np.ndarray, " distinct"]
) -> Integer[np.ndarray, " tokens"]:
    """The ids of a text from the ids of its words.

    Args:
        ids: those of each distinct word, one word after the other.
        lengths: the number of ids of each distinct word.
    """
    starts = lengths.cumsum() - lengths
    found = [np.empty(0, ids.dtype)]
    for start in range(0, len(words), BLOCK):
        part = words.numbers[start : start + BLOCK]
        counts = lengths[part]
        first = np.repeat(starts[part] - counts.cumsum() + counts, counts)
        found.append(ids[first + np.arange(len(first))])
    return np.concatenate(found)
