"""Gradients through time, beside those of a text that is cut in two."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lstm_lm.config import Cell, CoreName, ModelConfig
from lstm_lm.data.generated import Floor
from lstm_lm.data.splits import Split
from lstm_lm.inside.gradient_flow import gradient_flow, gradient_flow_windows
from lstm_lm.model.core import detach
from lstm_lm.model.language_model import LanguageModel

STEPS, ROWS = 8, 3
IDS = torch.randint(7, (STEPS + 1, ROWS), generator=torch.Generator().manual_seed(1))


def model_of(**settings):
    config = ModelConfig(hidden_size=6, embedding_size=4, **settings)
    return LanguageModel(config, 7).double()


@pytest.mark.parametrize("cell", [Cell.lstm, Cell.gru, Cell.rnn])
@pytest.mark.parametrize("core", list(CoreName))
def test_it_is_the_gradient_of_what_follows_a_cut(cell, core):
    model = model_of(cell=cell, core=core)
    flow = gradient_flow(model, IDS[:-1], IDS[-1])
    for back in range(1, STEPS):
        _, (state,) = detach_ends(model, IDS[: STEPS - back])
        start = type(state)(*(part.requires_grad_() for part in state))
        logits, _ = model(IDS[STEPS - back : STEPS], (start,))
        cross_entropy(logits[-1], IDS[-1], reduction="sum").backward()
        for name, part in start._asdict().items():
            expected = part.grad.norm(dim=-1).mean()
            torch.testing.assert_close(flow[f"layer 1 {name}"][back], expected)


def detach_ends(model, ids):
    logits, state = model(ids)
    return logits, detach(state)


def test_at_the_last_step_it_is_that_of_the_output_layer():
    model = model_of(num_layers=2)
    flow = gradient_flow(model, IDS[:-1], IDS[-1])
    with torch.no_grad():
        logits, _ = model(IDS[:-1])
    wrong = logits[-1].softmax(-1) - torch.nn.functional.one_hot(IDS[-1], 7)
    expected = (wrong @ model.output.weight).norm(dim=-1).mean()
    torch.testing.assert_close(flow["layer 2 hidden"][0], expected.detach())
    assert list(flow) == [f"layer {n} {part}" for n in (1, 2) for part in ("hidden", "cell")]
    assert flow["layer 1 hidden"][0] > 0  # by way of the second layer
    assert flow["layer 1 cell"][0] == flow["layer 2 cell"][0] == 0  # handed on to nobody


def test_each_layer_has_a_gradient_of_its_own():
    model = model_of(num_layers=2)
    flow = gradient_flow(model, IDS[:-1], IDS[-1])
    _, states = detach_ends(model, IDS[: STEPS - 3])
    starts = [type(state)(*(part.requires_grad_() for part in state)) for state in states]
    logits, _ = model(IDS[STEPS - 3 : STEPS], tuple(starts))
    cross_entropy(logits[-1], IDS[-1], reduction="sum").backward()
    for layer, start in enumerate(starts, start=1):
        expected = start.cell.grad.norm(dim=-1).mean()
        torch.testing.assert_close(flow[f"layer {layer} cell"][3], expected)


def test_a_forget_gate_that_is_open_lets_gradients_through():
    kept = {
        bias: gradient_flow(model_of(forget_bias=bias), IDS[:-1], IDS[-1])["layer 1 cell"]
        for bias in (-4.0, 6.0)
    }
    assert kept[6.0][-1] > 0.5 * kept[6.0][1]
    assert kept[-4.0][-1] < 1e-4 * kept[-4.0][1]


def test_nothing_is_left_behind():
    model = model_of().eval()
    gradient_flow(model, IDS[:-1], IDS[-1])
    assert all(weights.grad is None for weights in model.parameters())
    assert not model.training


def split_of(size, remembered=None, begins_every=40):
    ids = torch.arange(size, dtype=torch.int32)
    floor = None
    if remembered is not None:
        from_memory = np.zeros(size, bool)
        from_memory[remembered] = True
        floor = Floor(np.zeros(size), from_memory, np.arange(size) % begins_every == 0)
    return Split(ids, size, size, floor)


def test_places_are_spread_over_the_text():
    inputs, targets = gradient_flow_windows(split_of(1000))
    assert inputs.shape == (100, 16)
    assert targets[0] == 100 and targets[-1] == 999
    assert torch.equal(inputs[-1], targets - 1) and torch.equal(inputs[0], targets - 100)


def test_places_are_where_a_generated_text_needs_memory():
    _, targets = gradient_flow_windows(split_of(1000, [50, 200, 300]))
    assert targets.tolist() == [200, 300]
    _, targets = gradient_flow_windows(split_of(1000, [50]))  # too early for a hundred steps
    assert len(targets) == 16


def test_what_is_remembered_lies_within_the_steps_back():
    inputs, targets = gradient_flow_windows(split_of(2000, [450, 950, 1450], begins_every=500))
    assert targets.tolist() == [450, 950, 1450]
    assert inputs[0].tolist() == [0, 500, 1000]  # where the strings begin


def test_a_short_text_gives_fewer_steps():
    inputs, targets = gradient_flow_windows(split_of(3))
    assert inputs.tolist() == [[0], [1]] and targets.tolist() == [2]
