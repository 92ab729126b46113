"""What is asked of the Transformer beyond the contract of every core."""

import pytest
import torch
from torch.testing import assert_close

from lstm_lm.config import Cell, CoreName, Initialization, ModelConfig
from lstm_lm.errors import SettingsError
from lstm_lm.model.core import WindowState
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.model.transformer import CausalTransformer, rotate

exactly = {"rtol": 1e-10, "atol": 1e-10}


def make(context=5, heads=2, input_size=3, hidden_size=8):
    return CausalTransformer(input_size, hidden_size, heads, context).double()


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("context", [1, 2, 5, 40])
def test_a_step_sees_as_many_steps_as_the_context_has(context):
    core, inputs = make(context), draw(30, 2, 3)
    before = core(inputs)[0]
    inputs[10] += 1
    changed = (core(inputs)[0] - before).abs().amax(dim=(1, 2)) > 1e-9
    assert changed.nonzero().flatten().tolist() == list(range(10, min(30, 10 + context)))


def test_what_lies_before_the_window_does_not_matter():
    core, inputs = make(5), draw(12, 2, 3)
    alone = core(inputs[-9:])[0]
    assert_close(core(inputs)[0][-5:], alone[-5:], **exactly)


@pytest.mark.parametrize("steps", [1, 4, 5, 6, 13])
def test_in_pieces_of_any_length_it_computes_the_same(steps):
    core, inputs = make(5), draw(26, 3, 3)
    whole, end = core(inputs)
    outputs, state = [], None
    for piece in inputs.split(steps):
        some, state = core(piece, state)
        outputs.append(some)
    assert_close(torch.cat(outputs), whole, **exactly)
    assert_close(tuple(state), tuple(end), **exactly)


def test_only_distances_matter():
    core, inputs = make(6), draw(1, 1, 3).expand(20, 1, 3)
    outputs = core(inputs)[0]
    assert_close(outputs[6:], outputs[5:6].expand(14, 1, 8), **exactly)
    queries, keys = draw(2, 1, 1, 1, 8)
    near = [
        rotate(queries, torch.tensor([7 + k])) @ rotate(keys, torch.tensor([3 + k])).mT
        for k in (0, 90)
    ]
    far = rotate(queries, torch.tensor([9])) @ rotate(keys, torch.tensor([3])).mT
    assert_close(near[0], near[1], **exactly)
    assert not torch.allclose(near[0], far)


def test_it_is_the_transformer_of_its_equations():
    core, x = make(context=50, heads=2, input_size=8), draw(7, 1, 8)
    read = core.attention_norm(x[:, 0])
    queries, keys, values = core.queries_keys_values(read).chunk(3, -1)
    positions, attended = torch.arange(7), []
    for head in (slice(0, 4), slice(4, 8)):
        q, k = (rotate(part[None, None, :, head], positions)[0, 0] for part in (queries, keys))
        scores = (q @ k.T / 2).masked_fill(positions[:, None] < positions, -torch.inf)
        attended.append(scores.softmax(-1) @ values[:, head])
    a = x[:, 0] + core.attended(torch.cat(attended, -1))
    y = a + core.narrow(torch.nn.functional.gelu(core.widen(core.feed_forward_norm(a))))
    assert_close(core(x)[0][:, 0], y, **exactly)


def test_a_state_kept_does_not_keep_the_sequence():
    _, state = make()(draw(100, 3, 3))
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in state)


def test_rows_may_have_begun_at_different_times():
    core, inputs = make(5), draw(9, 2, 3)
    _, early = core(inputs[:4])
    none = WindowState(*(torch.zeros_like(part[1:]) for part in early))
    mixed = WindowState(*(torch.cat([a[:1], b]) for a, b in zip(early, none, strict=True)))
    outputs = core(inputs[4:], mixed)[0]
    assert_close(outputs[:, 0], core(inputs)[0][4:, 0], **exactly)
    assert_close(outputs[:, 1], core(inputs[4:])[0][:, 1], **exactly)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"core": CoreName.scratch}, "needs model.core=builtin, not scratch"),
        ({"hidden_size": 12}, "a multiple of 8"),
        ({"init": Initialization.d2l}, "needs a recurrent cell"),
        ({"second_bias": False}, "needs a recurrent cell"),
        ({"context": 0}, "model.context must be positive"),
    ],
)
def test_what_cannot_be_is_refused(settings, says):
    with pytest.raises(SettingsError, match=says):
        ModelConfig(cell=Cell.transformer, **settings)


def test_layers_see_further_than_one():
    config = ModelConfig(cell=Cell.transformer, hidden_size=8, num_layers=3, context=4)
    model, ids = LanguageModel(config, 7).double(), torch.randint(7, (20, 1))
    before = model(ids)[0]
    ids[5] = (ids[5] + 1) % 7
    changed = (model(ids)[0] - before).abs().amax(dim=(1, 2)) > 1e-9
    assert changed.nonzero().flatten().tolist() == list(range(5, 5 + 3 * 3 + 1))
