import math

import pytest
import torch

from lstm_lm.config import Cell, CoreName, Initialization, ModelConfig
from lstm_lm.errors import SettingsError
from lstm_lm.model.language_model import LanguageModel

SIZE = 400


def cores(**settings):
    torch.manual_seed(0)
    return LanguageModel(ModelConfig(hidden_size=SIZE, **settings), 7).cores


def biases(core):
    """The sum of both, gate by gate."""
    return (core.bias_ih_l0 + core.bias_hh_l0).detach().view(-1, SIZE)


@pytest.mark.parametrize("core", list(CoreName))
@pytest.mark.parametrize("second_bias", [True, False])
def test_the_forget_bias_is_what_was_asked_for(core, second_bias):
    for layer in cores(core=core, second_bias=second_bias, num_layers=2, forget_bias=1.5):
        i, f, g, o = biases(layer)
        assert (f == 1.5).all()
        assert all(gate.std() > 0 and gate.abs().max() <= 2 / math.sqrt(SIZE) for gate in (i, g, o))


def test_the_chapters_initialization_may_have_a_forget_bias():
    i, f, g, o = biases(cores(init=Initialization.d2l, forget_bias=-2)[0])
    assert (f == -2).all() and not torch.stack([i, g, o]).any()


@pytest.mark.parametrize("core", list(CoreName))
def test_chrono_units_of_an_lstm_forget_at_rates_of_their_own(core):
    i, f, *_ = biases(cores(core=core, init=Initialization.chrono, longest_memory=50)[0])
    steps = f.exp()  # uniform
    assert 1 <= steps.min() < 3 and 47 < steps.max() <= 49
    assert steps.mean() == pytest.approx(25, abs=2)
    assert torch.equal(i, -f)


def test_chrono_units_of_a_gru_keep_by_their_update_gate():
    r, z, n = biases(cores(cell=Cell.gru, init=Initialization.chrono, longest_memory=50)[0])
    assert z.exp().mean() == pytest.approx(25, abs=2)
    assert max(r.abs().max(), n.abs().max()) <= 2 / math.sqrt(SIZE)


def test_a_unit_keeps_its_cell_about_as_long_as_it_was_drawn_for():
    [core] = cores(init=Initialization.chrono, longest_memory=200)
    for parameter in (core.weight_ih_l0, core.weight_hh_l0):
        parameter.data.zero_()
    keeps = biases(core)[1].sigmoid()
    assert 1 / (1 - keeps.max()) == pytest.approx(200, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cell": Cell.rnn, "init": Initialization.chrono}, "model.cell=lstm or gru, not rnn"),
        ({"cell": Cell.gru, "forget_bias": 1}, "model.forget_bias needs model.cell=lstm"),
        ({"init": Initialization.chrono, "forget_bias": 1}, "not model.init=chrono"),
        ({"longest_memory": 2}, "must be at least 3 steps, not 2"),
        ({"forget_bias": math.nan}, "must be finite, not nan"),
    ],
)
def test_initializations_that_cannot_be_are_refused(settings, says):
    with pytest.raises(SettingsError, match=says):
        ModelConfig(**settings)
