"""What every core must do. A new core joins by one line in ``CORES``."""

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from lstm_lm.config import BACKENDS, ResetGate
from lstm_lm.model.builtin import BuiltinGRU, BuiltinLSTM, BuiltinRNN
from lstm_lm.model.core import Core, HiddenState, LSTMState, WindowState
from lstm_lm.model.fused.cores import FusedGRU, FusedLSTM, FusedRNN
from lstm_lm.model.scratch_gru import ScratchGRU
from lstm_lm.model.scratch_lstm import ScratchLSTM, lstm_step
from lstm_lm.model.scratch_rnn import ScratchRNN
from lstm_lm.model.transformer import CausalTransformer

# name → (how to make it, its twin in torch.nn or None, the parts of its state)
CORES = {
    "scratch lstm": (ScratchLSTM, torch.nn.LSTM, LSTMState),
    "builtin lstm": (BuiltinLSTM, torch.nn.LSTM, LSTMState),
    "scratch gru": (ScratchGRU, torch.nn.GRU, HiddenState),
    "scratch gru, reset before": (
        partial(ScratchGRU, reset_gate=ResetGate.before),
        None,
        HiddenState,
    ),
    "builtin gru": (BuiltinGRU, torch.nn.GRU, HiddenState),
    "scratch rnn": (ScratchRNN, torch.nn.RNN, HiddenState),
    "builtin rnn": (BuiltinRNN, torch.nn.RNN, HiddenState),
    "transformer": (partial(CausalTransformer, heads=1, context=4), None, WindowState),
}
for backend in BACKENDS:
    CORES |= {
        f"fused lstm, {backend}": (
            partial(FusedLSTM, backend=backend),
            torch.nn.LSTM,
            LSTMState,
        ),
        f"fused gru, {backend}": (partial(FusedGRU, backend=backend), torch.nn.GRU, HiddenState),
        f"fused rnn, {backend}": (partial(FusedRNN, backend=backend), torch.nn.RNN, HiddenState),
    }
SIZES = (6, 3, 5, 4), (1, 1, 1, 1), (9, 2, 3, 65), (40, 1, 7, 7), (1, 3, 16, 16), (2, 27, 2, 1150)
RECURRENT = [name for name in CORES if name != "transformer"]
WITH_ONE_BIAS = [name for name in RECURRENT if "gru" not in name or name.endswith("before")]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TIME, BATCH, INPUT, HIDDEN = 6, 3, 5, 4
PARAMETERS = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]

every_core = pytest.mark.parametrize("name", CORES)
every_device = pytest.mark.parametrize("device", DEVICES)
exactly = partial(assert_close, rtol=1e-10, atol=1e-10)


def make(name, device="cpu", input_size=INPUT, hidden_size=HIDDEN, **settings):
    if name.endswith("cpp") and device != "cpu":
        pytest.skip("runs on a CPU only")
    if name.endswith("triton") and device == "cpu" and torch.cuda.is_available():
        pytest.skip("is not interpreted where there is a GPU")
    return CORES[name][0](input_size, hidden_size, **settings).double().to(device)


def draw_inputs(device="cpu", time=TIME, batch=BATCH, input_size=INPUT):
    return torch.randn(time, batch, input_size, dtype=torch.float64, device=device)


def draw_state(name, device="cpu", batch=BATCH, hidden_size=HIDDEN):
    kind = CORES[name][2]
    if kind is WindowState:
        keys, values = torch.randn(2, batch, 3, hidden_size, dtype=torch.float64, device=device)
        filled = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64, device=device)
        return WindowState(keys, values, filled.repeat(batch, 1))
    shape = len(kind._fields), batch, hidden_size
    return kind(*torch.randn(shape, dtype=torch.float64, device=device))


@every_core
def test_shapes_names_and_states(name):
    core, kind = make(name), CORES[name][2]
    outputs, state = core(draw_inputs())
    assert isinstance(core, Core)
    assert type(state) is kind
    assert outputs.shape == (TIME, BATCH, HIDDEN)
    assert [part.shape for part in state] == [part.shape for part in draw_state(name)]
    if name in RECURRENT:
        assert all(part.shape == (BATCH, HIDDEN) for part in state)
        assert [parameter for parameter, _ in core.named_parameters()] == PARAMETERS
    assert (core.input_size, core.hidden_size) == (INPUT, HIDDEN)


@every_device
@pytest.mark.parametrize(
    ("name", "time", "batch", "input_size", "hidden_size"),
    # The largest is about kernels of our own; interpreted, they would take long.
    [
        (name, *sizes)
        for name in CORES
        for sizes in SIZES
        if CORES[name][1] and (sizes[-1] < 1000 or "cpp" in name or torch.cuda.is_available())
    ],
)
def test_outputs_states_and_gradients_equal_those_of_torch(
    name, device, time, batch, input_size, hidden_size
):
    core = make(name, device, input_size, hidden_size)
    twin = CORES[name][1](input_size, hidden_size).double().to(device)
    core.load_state_dict(twin.state_dict())
    inputs = draw_inputs(device, time, batch, input_size).requires_grad_()
    state = draw_state(name, device, batch, hidden_size)
    leaves = [part.requires_grad_() for part in state]

    ours, our_state = core(inputs, state)
    parts = [part.unsqueeze(0) for part in state]
    theirs, their_state = twin(inputs, tuple(parts) if len(parts) == 2 else parts[0])
    if len(parts) == 1:
        their_state = (their_state,)

    exactly(ours, theirs)
    for our_part, their_part in zip(our_state, their_state, strict=True):
        exactly(our_part, their_part[0])
    weights = torch.randn_like(ours)
    our_loss = (ours * weights).sum() + sum(part.square().sum() for part in our_state)
    their_loss = (theirs * weights).sum() + sum(part.square().sum() for part in their_state)
    our_gradients = torch.autograd.grad(our_loss, [inputs, *leaves, *core.parameters()])
    their_gradients = torch.autograd.grad(their_loss, [inputs, *leaves, *twin.parameters()])
    for our_gradient, their_gradient in zip(our_gradients, their_gradients, strict=True):
        exactly(our_gradient, their_gradient)


@every_core
@every_device
def test_handing_the_state_on_equals_one_long_run(name, device):
    core, inputs = make(name, device), draw_inputs(device)
    whole, end = core(inputs, draw_state(name, device))
    torch.manual_seed(0)
    core, inputs = make(name, device), draw_inputs(device)
    first, state = core(inputs[:2], draw_state(name, device))
    second, end_in_two = core(inputs[2:], state)
    exactly(torch.cat([first, second]), whole)
    exactly(tuple(end_in_two), tuple(end))


@every_core
def test_no_state_is_a_zero_state(name):
    core, inputs = make(name), draw_inputs()
    zeros = CORES[name][2](*(torch.zeros_like(part) for part in draw_state(name)))
    exactly(core(inputs)[0], core(inputs, zeros)[0])


@every_core
def test_a_core_remembers_nothing_between_calls(name):
    core, inputs = make(name), draw_inputs()
    first = core(inputs)[0]
    core(draw_inputs())
    assert torch.equal(core(inputs)[0], first)


@pytest.mark.parametrize("name", RECURRENT)
def test_it_computes_with_other_recurrent_weights_and_their_gradients(name):
    core, inputs, state = make(name), draw_inputs(), draw_state(name)
    other = torch.rand_like(core.weight_hh_l0).requires_grad_()
    outputs, end = core(inputs, state, other)
    of_other = torch.autograd.grad(outputs.square().sum(), [other, core.weight_ih_l0])
    from_zero = core(inputs, None, other)[0]
    with torch.no_grad():
        core.weight_hh_l0.copy_(other)
    own, own_end = core(inputs, state)
    exactly(outputs, own)
    exactly(tuple(end), tuple(own_end))
    exactly(from_zero, core(inputs)[0])
    of_own = torch.autograd.grad(own.square().sum(), [core.weight_hh_l0, core.weight_ih_l0])
    exactly(of_other, of_own)


@pytest.mark.parametrize("name", RECURRENT)
def test_last_output_is_the_hidden_state(name):
    outputs, state = make(name)(draw_inputs())
    exactly(outputs[-1], state.hidden)


@every_core
def test_rows_of_a_batch_do_not_see_each_other(name):
    core, inputs = make(name), draw_inputs()
    exactly(core(inputs)[0][:, 1:2], core(inputs[:, 1:2])[0])


@every_core
def test_later_inputs_do_not_change_earlier_outputs(name):
    core, inputs = make(name), draw_inputs()
    before = core(inputs)[0]
    inputs[3:] += 1
    after = core(inputs)[0]
    exactly(after[:3], before[:3])
    assert not torch.allclose(after[3:], before[3:])


@every_core
def test_gradients_are_those_of_the_outputs(name):
    hidden_size = 3 if name in RECURRENT else 4
    core = make(name, input_size=2, hidden_size=hidden_size)
    names = [name for name, _ in core.named_parameters()]
    inputs = draw_inputs(time=3, batch=2, input_size=2).requires_grad_()
    state = tuple(p.requires_grad_() for p in draw_state(name, batch=2, hidden_size=hidden_size))

    def run(inputs, *state_and_parameters):
        parts, parameters = state_and_parameters[: len(state)], state_and_parameters[len(state) :]
        named = dict(zip(names, parameters, strict=True))
        start = CORES[name][2](*parts)
        outputs, end = torch.func.functional_call(core, named, (inputs, start))
        return outputs, *end

    # Kernel by kernel Triton's interpreter takes milliseconds.
    quick = name.endswith("triton")
    assert gradcheck(run, (inputs, *state, *core.parameters()), fast_mode=quick)


@every_core
def test_inputs_need_not_be_contiguous(name):
    core = make(name)
    inputs = draw_inputs().transpose(0, 1)
    exactly(core(inputs)[0], core(inputs.contiguous())[0])


@pytest.mark.parametrize("name", WITH_ONE_BIAS)
def test_without_a_second_bias_it_is_zero_and_stays_out_of_training(name):
    core = make(name, second_bias=False)
    core(draw_inputs())[0].sum().backward()
    assert not core.bias_hh_l0.any()
    assert core.bias_hh_l0.grad is None and core.bias_ih_l0.grad is not None


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_scratch_and_builtin_start_equal_given_the_same_seed(cell):
    for settings in ({}, {"second_bias": False}) if cell != "gru" else ({},):
        torch.manual_seed(7)
        scratch = make(f"scratch {cell}", **settings)
        torch.manual_seed(7)
        builtin = make(f"builtin {cell}", **settings)
        for ours, theirs in zip(scratch.parameters(), builtin.parameters(), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_weights_move_between_cores_by_their_names(cell):
    scratch, builtin = make(f"scratch {cell}"), make(f"builtin {cell}")
    builtin.load_state_dict(scratch.state_dict())
    inputs = draw_inputs()
    exactly(builtin(inputs)[0], scratch(inputs)[0])


@pytest.mark.bf16
@every_core
@every_device
def test_mixed_precision_stays_close_to_full_precision(name, device):
    core, inputs = make(name, device).float(), draw_inputs(device).float()
    expected = core(inputs)[0]
    with torch.autocast(device, torch.bfloat16):
        first, state = core(inputs[:3])
        second, _ = core(inputs[3:], state)
    assert_close(torch.cat([first, second]).float(), expected, rtol=0.05, atol=0.02)


def test_open_forget_gate_and_shut_input_gate_keep_the_cell():
    gates = torch.tensor([[-100.0, 100.0, 3.0, 100.0]])  # i, f, g, o
    hidden, cell = lstm_step(torch.tensor([[0.5]]), gates)
    assert_close(cell, torch.tensor([[0.5]]))
    assert_close(hidden, torch.tensor([[0.5]]).tanh())


def test_open_input_gate_and_shut_forget_gate_overwrite_the_cell():
    gates = torch.tensor([[100.0, -100.0, 3.0, -100.0]])
    hidden, cell = lstm_step(torch.tensor([[0.5]]), gates)
    assert_close(cell, torch.tensor([[3.0]]).tanh())
    assert_close(hidden, torch.tensor([[0.0]]))


def test_reset_gate_before_the_product_is_the_gru_of_the_chapter():
    core = make("scratch gru, reset before", second_bias=False)
    x, h = draw_inputs(time=1)[0], draw_state("scratch gru").hidden
    w_xr, w_xz, w_xh = core.weight_ih_l0.chunk(3)
    w_hr, w_hz, w_hh = core.weight_hh_l0.chunk(3)
    b_r, b_z, b_h = core.bias_ih_l0.chunk(3)
    r = torch.sigmoid(x @ w_xr.T + h @ w_hr.T + b_r)
    z = torch.sigmoid(x @ w_xz.T + h @ w_hz.T + b_z)
    candidate = torch.tanh(x @ w_xh.T + (r * h) @ w_hh.T + b_h)
    exactly(core(x.unsqueeze(0), HiddenState(h))[0][0], z * h + (1 - z) * candidate)
