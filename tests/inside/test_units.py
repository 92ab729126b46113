"""Gates and cells, beside the equations written out step by step; and units that can be read."""

import pytest
import torch

from lstm_lm.config import Cell, CoreName, Level, ModelConfig, ResetGate
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.inside.units import (
    features,
    inside_brackets,
    inside_quotes,
    position_in_line,
    position_in_word,
    readable_alone,
    readable_tokens,
    readable_units,
    trace,
)
from lstm_lm.model.language_model import LanguageModel

IDS = torch.randint(7, (9, 3), generator=torch.Generator().manual_seed(1))
TEXT = 'He said "no way" (or "no" [at least])\nand left.\n' * 5


def model_of(**settings):
    sizes = {"hidden_size": 6, "embedding_size": 4, "num_layers": 2}
    config = ModelConfig(**(sizes | settings))
    return LanguageModel(config, 7).double().eval()


def same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("core", list(CoreName))
def test_an_lstms_gates_make_its_outputs(core):
    model = model_of(core=core)
    seen = trace(model, Cell.lstm, IDS)
    below = model.embedding(IDS)
    for layer, module in zip(seen.layers, model.cores, strict=True):
        assert list(layer.gates) == ["input gate", "forget gate", "output gate"]
        outputs, end = module(below)
        same(layer.memory[-1], end.cell)
        same(layer.gates["output gate"] * layer.activity, outputs)
        kept = layer.gates["forget gate"][1:] * layer.memory[:-1]
        written = layer.memory[1:] - kept
        assert (written.abs() <= layer.gates["input gate"][1:] + 1e-12).all()
        below = outputs
    same(seen.outputs, below)


@pytest.mark.parametrize("reset_gate", list(ResetGate))
def test_a_grus_update_gate_is_what_it_keeps_with(reset_gate):
    model = model_of(cell=Cell.gru, core=CoreName.scratch, reset_gate=reset_gate)
    layer = trace(model, Cell.gru, IDS).layers[0]
    assert list(layer.gates) == ["reset gate", "update gate"]
    before = torch.cat([torch.zeros(1, 3, 6).double(), layer.memory[:-1]])
    z = layer.gates["update gate"]
    candidate = (layer.memory - z * before) / (1 - z)
    core = model.cores[0]
    n_x = (model.embedding(IDS) @ core.weight_ih_l0.T + core.bias_ih_l0)[..., 12:]
    weight, bias, r = core.weight_hh_l0[12:], core.bias_hh_l0[12:], layer.gates["reset gate"]
    if reset_gate is ResetGate.before:
        same(candidate, (n_x + (r * before) @ weight.T + bias).tanh())
    else:
        same(candidate, (n_x + r * (before @ weight.T + bias)).tanh())


def test_without_gates_there_are_outputs():
    (layer,) = trace(model := model_of(cell=Cell.rnn, num_layers=1), Cell.rnn, IDS).layers
    assert layer.gates == {}
    state, core = torch.zeros(3, 6).double(), model.cores[0]
    for inputs, outputs in zip(model.embedding(IDS), layer.memory, strict=True):
        into = inputs @ core.weight_ih_l0.T + core.bias_ih_l0 + core.bias_hh_l0
        state = (into + state @ core.weight_hh_l0.T).tanh()
        same(outputs, state)
    same(layer.activity, layer.memory)


def test_what_has_no_bounds_is_active_within_some():
    config = ModelConfig(cell=Cell.transformer, hidden_size=8, heads=2, context=4)
    model = LanguageModel(config, 7)
    with torch.no_grad():
        model.cores[0].project.weight.mul_(10)
    (layer,) = trace(model, Cell.transformer, IDS).layers
    assert layer.memory.abs().max() > 1.5 and layer.activity.abs().max() <= 1
    assert torch.equal(layer.memory.sign(), layer.activity.sign())


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
