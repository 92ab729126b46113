"""Texts whose process is known: what is in them, and what they cost at least."""

import math
import re

import numpy as np
import pytest

from lstm_lm.config import GENERATED, Cleaning, DataConfig, Level, TextName
from lstm_lm.data.generated import CUE, DISTRACTORS, REMEMBERED, generate_text
from lstm_lm.data.splits import find_text, read_splits
from lstm_lm.errors import SettingsError

every_text = pytest.mark.parametrize("text", sorted(GENERATED))

# The grammar's diagram, by the places it goes through.
DIAGRAM = {
    "start": {"T": "upper", "P": "lower"},
    "upper": {"S": "upper", "X": "upper right"},
    "lower": {"T": "lower", "V": "lower right"},
    "upper right": {"X": "lower", "S": "end"},
    "lower right": {"P": "upper right", "V": "end"},
}


def config(text, **settings):
    return DataConfig(text=text, **({"max_tokens": 20_000} | settings))


def generate(text, part="training", **settings):
    return generate_text(config(text, **settings), part, 20_000)


def whole_strings(generated, pattern):
    """The strings of a text, each with the nats it was drawn with; the last may be cut off."""
    end = 0
    for match in re.finditer(pattern, generated.text, re.DOTALL):
        assert match.start() == end
        end = match.end()
        yield match.group(), generated.floor.nats[match.start() : end].sum()
    assert len(generated.text) - end < 100


def test_embedded_reber_strings_end_as_they_began():
    branches = set()
    for string, nats in whole_strings(generate(TextName.embedded_reber), r"B[TP]B[^BE]+E[TP]E"):
        assert string[1] == string[-2]
        place = "start"
        for letter in string[3:-3]:
            place = DIAGRAM[place][letter]
        assert place == "end"
        # Each symbol of the inner string, and which string it is in, is one of two.
        assert nats == pytest.approx((len(string) - 6 + 1) * math.log(2))
        branches.add(string[1])
    assert branches == {"T", "P"}


def test_recall_repeats_a_symbol_after_so_many_others():
    for string, nats in whole_strings(generate(TextName.recall, lag=7), "." * 10):
        first, *between, cue, last = string
        assert first == last and first in REMEMBERED and cue == CUE
        assert set(between) <= set(DISTRACTORS)
        assert nats == pytest.approx(math.log(8) + 7 * math.log(4))


@pytest.mark.parametrize(
    ("part", "lengths"),
    [("training", range(1, 6)), ("validation", range(1, 6)), ("test", range(6, 11))],
)
def test_anbn_counts_and_tests_longer_strings(part, lengths):
    found = set()
    for string, nats in whole_strings(generate(TextName.anbn, part, longest=5), "[^\n]*\n"):
        n = len(string) // 2
        assert string == "a" * n + "b" * n + "\n"
        assert nats == pytest.approx(math.log(5))  # all lengths are equally likely
        found.add(n)
    assert found == set(lengths)


@pytest.mark.parametrize(
    ("text", "pattern", "remembered"),
    [
        (TextName.embedded_reber, r"B[TP]B[^BE]+E[TP]E", lambda string: [len(string) - 2]),
        (TextName.recall, "." * 10, lambda string: [9]),
        (TextName.anbn, "[^\n]*\n", lambda string: range(len(string) // 2 + 1, len(string))),
    ],
)
def test_it_is_known_what_must_be_remembered_and_where_strings_begin(text, pattern, remembered):
    generated = generate(text, lag=7)
    for match in re.finditer(pattern, generated.text, re.DOTALL):
        flags = generated.floor.from_memory[match.start() : match.end()]
        assert flags.nonzero()[0].tolist() == list(remembered(match.group()))
        begins = generated.floor.begins[match.start() : match.end()]
        assert begins.nonzero()[0].tolist() == [0]


def test_each_symbol_of_anbn_costs_what_is_not_known_then():
    found = set()
    generated = generate(TextName.anbn, "training", longest=3)
    for match in re.finditer("[^\n]*\n", generated.text):
        nats = generated.floor.nats[match.start() : match.end()]
        found.add((match.group(), tuple(nats.round(6))))
    first, second = round(math.log(3), 6), round(math.log(1.5), 6)  # 1 of 3; 2 of 3 go on
    assert found == {
        ("ab\n", (0, first, 0)),
        ("aabb\n", (0, second, round(math.log(2), 6), 0, 0)),
        ("aaabbb\n", (0, second, round(math.log(2), 6), 0, 0, 0, 0)),
    }


@every_text
def test_what_follows_from_memory_costs_nothing(text):
    floor = generate(text).floor
    assert 0 < floor.from_memory.mean() < 0.5
    assert (floor.nats[floor.from_memory] == 0).all()
    assert (floor.nats >= 0).all()


@every_text
def test_a_text_is_the_same_for_the_same_seed_alone(text):
    same, other = (generate(text, text_seed=seed).text for seed in (0, 1))
    assert generate(text).text == same != other
    assert generate(text, "validation").text != same


def test_texts_are_the_same_everywhere():
    # As first made, by Python 3.11: runs on another computer must learn from the same.
    assert generate(TextName.recall).text[:26] == "Eabcaabaadc?EHbcbaaddacd?H"


@every_text
def test_splits_are_as_long_as_asked_and_know_their_floors(text):
    splits = read_splits(config(text, validation_size=0.1, test_size=500))
    parts = splits.training, splits.validation, splits.test
    assert [len(part.ids) for part in parts] == [17_500, 2_000, 500]
    for part in parts:
        assert len(part.floor.nats) == len(part.floor.from_memory) == len(part.ids)
    assert not splits.test_is_validation


def test_without_test_tokens_the_validation_text_is_tested_on():
    splits = read_splits(config(TextName.recall, test_size=0))
    assert splits.test_is_validation and splits.test is splits.validation


@every_text
def test_the_floor_belongs_to_the_ids(text):
    corpus, splits = find_text(config(text)), read_splits(config(text))
    spelled = "".join(splits.vocabulary.decode(splits.validation.ids.tolist()))
    assert spelled == corpus.pieces[1].content.decode()
    assert np.array_equal(splits.validation.floor.nats, corpus.floors[1].nats)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_tokens": None}, "is endless: set data.max_tokens"),
        ({"level": Level.word}, "needs data.level=character"),
        ({"cleaning": Cleaning.letters}, "data.cleaning=none, not character and letters"),
        ({"minimum_count": 2}, "needs all its symbols: set data.minimum_count=1"),
        ({"lag": 0}, "data.lag must be positive"),
        ({"text_seed": -1}, "data.text_seed must be finite and >= 0"),
    ],
)
def test_what_cannot_be_generated_is_refused(settings, says):
    with pytest.raises(SettingsError, match=says):
        config(TextName.recall, **settings)


def test_a_text_too_short_to_be_split_is_refused():
    with pytest.raises(SettingsError, match="too short to hold out"):
        find_text(config(TextName.recall, max_tokens=3))
