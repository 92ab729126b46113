import torch

from lstm_lm.config import Level
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.inside.readable import (
    features,
    inside_brackets,
    inside_quotes,
    position_in_line,
    position_in_word,
    readable_alone,
    readable_tokens,
    readable_units,
)

TEXT = 'He said "no way" (or "no" [at least])\nand left.\n' * 5


def test_what_can_be_seen_in_a_text():
    assert inside_quotes('a"b"c“d”') == [0, 1, 1, 0, 0, 1, 1, 0]
    assert inside_quotes('"a\nb\n\nc') == [1, 1, 1, 1, 1, 0, 0]  # a paragraph's end ends it
    assert inside_brackets("a(b[c])d)e") == [0, 1, 1, 2, 2, 1, 0, 0, 0, 0]
    assert inside_brackets("(a\n\nb") == [1, 1, 1, 0, 0]
    assert position_in_line("ab\nc\n\nd") == [1, 2, 0, 1, 0, 0, 1]
    assert position_in_word("ab c.d") == [1, 2, 0, 1, 0, 1]


def test_features_that_a_text_does_not_have_are_not_looked_for():
    assert set(features(TEXT)) == {
        "inside quotes",
        "inside brackets",
        "position in line",
        "position in word",
    }
    assert set(features("no lines and no quotes " * 9)) == {"position in word"}
    assert set(features(["one", "word", "\n", "another"])) == {"position in line"}


def test_units_that_follow_something_come_first():
    noise = torch.rand(len(TEXT), 10)
    first, second = noise[:, :5].clone(), noise[:, 5:].clone()
    first[:, 3] = torch.tensor(inside_quotes(TEXT)) * -0.5
    second[:, 1] = torch.tensor(position_in_line(TEXT)) / 50 + 0.3 * noise[:, 7]
    units = readable_units([first, second], TEXT, 4)
    assert (units[0].layer, units[0].unit, units[0].what) == (0, 3, "inside quotes")
    assert units[0].title == "layer 1 unit 4: inside quotes, correlation -1.00"
    assert (units[1].layer, units[1].unit, units[1].what) == (1, 1, "position in line")
    assert len({(unit.layer, unit.unit) for unit in units}) == len(units) == 4


def test_the_slowest_fill_the_rest_and_constant_ones_do_not():
    steps = torch.arange(200)
    activities = torch.stack([steps % 2, (steps // 50) % 2, torch.ones(200), (steps // 10) % 2], 1)
    units = readable_units([activities.float()], "a" * 200, 3)
    assert [unit.unit for unit in units] == [1, 3, 0]
    assert units[0].title == "layer 1 unit 2: slow"


def test_a_unit_is_named_once():
    quotes = torch.tensor(inside_quotes(TEXT)).double()
    units = readable_units([quotes[:, None].float()], TEXT, 6)
    assert [unit.what for unit in units] == ["inside quotes"]


def test_lines_end_and_what_is_unknown_can_be_seen():
    vocabulary = Vocabulary(["<unk>", "<eos>", "a"])
    assert readable_tokens(vocabulary, [0, 1, 2], Level.word) == ["\ufffd", "\n", "a"]


def test_a_character_of_two_bytes_is_shown_at_its_second():
    vocabulary = Vocabulary(["<unk>", "Ã", "©", "Ġb"])
    ids = [1, 2, 3, 0, 1]
    assert readable_tokens(vocabulary, ids, Level.subword) == ["", "é", " b", "\ufffd", ""]
    assert [readable_alone(token, Level.subword) for token in ("Ã", "Ġb")] == ["\ufffd", " b"]
