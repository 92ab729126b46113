from itertools import product

import numpy as np
import pytest
import torch

from lstm_lm.config import Cleaning, Level
from lstm_lm.data import tokenized
from lstm_lm.data.splits import Split
from lstm_lm.data.text import spell, tokenize
from lstm_lm.data.tokenized import Tokenized
from lstm_lm.data.vocabulary import Vocabulary

TEXT = "To be, or\nnot to bé:\n\n<eos> 'tis <eos>a b<eos>\nthe question " * 3
LEVELS = Level.character, Level.byte, Level.word
every_way = pytest.mark.parametrize(("level", "cleaning"), list(product(LEVELS, Cleaning)))


def test_different_tokens_are_numbered_as_they_first_occur():
    tokens = Tokenized.of("to be or not to be", Level.word, Cleaning.letters)
    assert tokens.distinct == ("to", "be", "or", "not")
    assert tokens.numbers.tolist() == [0, 1, 2, 3, 0, 1]
    assert tokens[2:5].counts().tolist() == [1, 0, 1, 1]


@every_way
@pytest.mark.parametrize("block", [1, 7, 2**18])
def test_numbers_stand_for_the_tokens_however_many_are_looked_up_at_a_time(
    level, cleaning, block, monkeypatch
):
    monkeypatch.setattr(tokenized, "BLOCK", block)
    expected = list(tokenize(TEXT, level, cleaning))
    tokens = Tokenized.of(TEXT, level, cleaning)
    assert [tokens.distinct[number] for number in tokens.numbers] == expected
    assert tokens.counts().tolist() == [expected.count(token) for token in tokens.distinct]
    assert tokens.look_up(np.array(tokens.distinct)).tolist() == expected


@every_way
def test_a_part_is_as_long_as_its_tokens_spelled_out(level, cleaning):
    tokens = list(tokenize(TEXT, level, cleaning))
    numbered = Tokenized.of(TEXT, level, cleaning)
    for part in (slice(start, stop) for start in range(8) for stop in range(start, 24)):
        spelled = spell(tokens[part], level)
        expected = len(spelled), len(spelled.encode())
        if level is Level.byte:  # a part can begin or end within a character
            expected = sum(token not in "©" for token in tokens[part]), len(tokens[part])
        assert numbered[part].spelled_lengths(level) == expected


@pytest.mark.parametrize(("distinct", "size"), [(256, 1), (257, 2), (65536, 2), (65537, 4)])
def test_numbers_take_as_few_bytes_as_will_do(distinct, size):
    words = [a + b for a, b in product(map(chr, range(0x100, 0x300)), repeat=2)]
    in_words = tokenized.numbered(words[:distinct])
    in_characters = Tokenized.of(
        "".join(map(chr, range(0x10000, 0x10000 + distinct))), Level.character, Cleaning.none
    )
    for tokens in in_words, in_characters:
        assert tokens.numbers.itemsize == size
        assert tokens.numbers.tolist() == list(range(distinct))


@pytest.mark.parametrize(("listed", "kind"), [(255, torch.uint8), (256, torch.int16)])
def test_ids_that_fit_into_a_byte_are_kept_in_one(listed, kind):
    text = "".join(map(chr, range(0x100, 0x100 + listed)))
    tokens = Tokenized.of(text, Level.character, Cleaning.none)
    split = Split.of(tokens, Vocabulary(["<unk>", *text]), Level.character)
    assert split.ids.dtype is kind
    assert split.ids.tolist() == list(range(1, listed + 1))


@every_way
def test_a_text_without_tokens_has_none(level, cleaning):
    assert len(Tokenized.of("", level, cleaning)) == 0
