from collections import Counter

import pytest

from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import SettingsError


def test_commonest_come_first_and_ties_keep_the_order_of_first_occurrence():
    vocabulary = Vocabulary.from_counts(Counter("b a c a c d".split()))
    assert vocabulary.tokens == ("<unk>", "a", "c", "b", "d")


def test_rare_tokens_are_unknown():
    vocabulary = Vocabulary.from_counts(Counter("a a b".split()), minimum_count=2)
    assert vocabulary.encode("a b".split()) == [1, 0]
    assert vocabulary.unknown("b a b".split()) == ["b"]


def test_unknown_tokens_of_the_text_itself_get_id_zero():
    assert Vocabulary.from_counts(Counter("a <unk> <unk>".split())).tokens == ("<unk>", "a")


def test_decoding_undoes_encoding():
    vocabulary = Vocabulary.from_counts(Counter("the time machine"))
    assert "".join(vocabulary.decode(vocabulary.encode("mean time"))) == "mean time"


def test_a_minimum_count_that_nothing_reaches_is_refused():
    with pytest.raises(SettingsError, match="smaller data.minimum_count"):
        Vocabulary.from_counts(Counter("abc"), minimum_count=2)


@pytest.mark.parametrize("tokens", [["a", "<unk>"], ["<unk>", "a", "a"], []])
def test_a_list_that_is_no_vocabulary_is_refused(tokens):
    with pytest.raises(ValueError, match="each token once"):
        Vocabulary(tokens)
