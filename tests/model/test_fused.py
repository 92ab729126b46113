"""What is asked of fused cores beyond the contract of every core."""

import copy
import shutil
from contextlib import nullcontext

import pytest
import torch
from torch.testing import assert_close

from lstm_lm.config import BACKENDS, Backend, Cell, CoreName, ModelConfig
from lstm_lm.errors import SettingsError
from lstm_lm.model import products
from lstm_lm.model.core import HiddenState, LSTMState
from lstm_lm.model.fused.cores import FusedGRU, FusedLSTM, FusedRNN
from lstm_lm.model.fused.cpp_kernels import compiler
from lstm_lm.model.fused.kernels import backend_here, check_backend
from lstm_lm.model.language_model import LanguageModel

CELLS = {
    "lstm": (FusedLSTM, torch.nn.LSTM, LSTMState),
    "gru": (FusedGRU, torch.nn.GRU, HiddenState),
    "rnn": (FusedRNN, torch.nn.RNN, HiddenState),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
every_cell = pytest.mark.parametrize("cell", CELLS)
every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_device = pytest.mark.parametrize("device", DEVICES)
SIZES = (1, 1, 1, 1), (5, 3, 4, 7), (9, 1, 16, 65), (4, 13, 33, 64), (2, 3, 2, 1150)
every_backend_in_odd_sizes = pytest.mark.parametrize(
    ("backend", "time", "batch", "input_size", "hidden_size"),
    # The largest is about kernels of our own; interpreted, they would take long.
    [
        (backend, *sizes)
        for backend in BACKENDS
        for sizes in SIZES
        if sizes[-1] < 1000 or backend is Backend.cpp or torch.cuda.is_available()
    ],
)


def make(cell, backend, input_size=5, hidden_size=19, device="cpu"):
    if backend is Backend.cpp and device != "cpu":
        pytest.skip("runs on a CPU only")
    if backend is Backend.triton and device == "cpu" and torch.cuda.is_available():
        pytest.skip("is not interpreted where there is a GPU")
    return CELLS[cell][0](input_size, hidden_size, backend=backend).to(device)


def run(core, inputs, autocast=None):
    """Outputs, end state and the gradients of a loss that all of them have part in."""
    inputs = inputs.detach().requires_grad_()
    with nullcontext() if autocast is None else torch.autocast(inputs.device.type, autocast):
        outputs, state = core(inputs)
    steps = torch.arange(1, len(outputs) + 1, device=inputs.device).view(-1, 1, 1)
    # The state's share is small beside the outputs', which tells them apart.
    loss = (outputs.float() / steps).sum() + sum(part.float().square().sum() for part in state) / 7
    gradients = torch.autograd.grad(loss, [inputs, *core.parameters()])
    return [outputs.detach(), *(part.detach() for part in state), *gradients]


def run_twin(core, cell, inputs):
    """The same by torch.nn, in double precision."""
    twin = CELLS[cell][1](core.input_size, core.hidden_size).double().to(inputs.device)
    twin.load_state_dict(core.state_dict())

    def as_core(inputs):
        outputs, state = twin(inputs)
        parts = state if isinstance(state, tuple) else (state,)
        return outputs, tuple(part[0] for part in parts)

    as_core.parameters = twin.parameters
    return run(as_core, inputs.double())


def assert_within(ours, theirs, share):
    """Each number within a share of the largest of its tensor.

    Of a tensor of small numbers, within a share of 0.02: Triton's tanh is a difference of numbers
    near one.
    """
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our.double(), their, rtol=0, atol=share * max(their.abs().max().item(), 0.02))


@every_cell
@every_backend_in_odd_sizes
@every_device
def test_single_precision_is_close_to_double(
    cell, backend, device, time, batch, input_size, hidden_size
):
    core = make(cell, backend, input_size, hidden_size, device)
    inputs = torch.randn(time, batch, input_size, device=device)
    # A sum of 4,600 products is less exact, most of all MKL's.
    share = 4e-6 if hidden_size < 1000 else 2e-5
    assert_within(run(core, inputs), run_twin(core, cell, inputs), share)


@every_cell
@every_backend_in_odd_sizes
@every_device
def test_bfloat16_operands_are_within_five_hundredths(
    cell, backend, device, time, batch, input_size, hidden_size
):
    core = make(cell, backend, input_size, hidden_size, device)
    inputs = torch.randn(time, batch, input_size, device=device)
    ours = run(core, inputs, torch.bfloat16)
    assert ours[0].dtype is torch.bfloat16
    assert all(part.dtype is torch.float32 for part in ours[1:])  # states and gradients
    assert_within(ours, run_twin(core, cell, inputs), 5e-2)


# More rows than are multiplied at once, more columns than are looked up, one column.
@every_cell
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize(
    ("time", "batch", "input_size", "hidden_size"),
    [(45, 30, 28, 7), (3, 5, 1100, 33), (4, 4, 1, 18), (2, 16, 17, 80)],
)
def test_compiled_kernels_look_up_what_is_one_hot(
    cell, autocast, time, batch, input_size, hidden_size
):
    core = make(cell, Backend.cpp, input_size, hidden_size)
    ids = torch.randint(input_size, (time, batch))
    inputs = torch.nn.functional.one_hot(ids, input_size).float()
    share = 5e-6 if autocast is None else 5e-2
    assert_within(run(core, inputs, autocast), run_twin(core, cell, inputs), share)
    # Neither two ones nor none nor another number is one-hot.
    for row, value in ((0, 1.0), (1, 0.0), (2, 0.5)):
        inputs = torch.nn.functional.one_hot(ids, input_size).float()
        inputs[-1, row] = value
        assert_within(run(core, inputs, autocast), run_twin(core, cell, inputs), share)


@every_cell
@every_backend
def test_a_core_may_be_used_twice_in_one_graph(cell, backend):
    core = make(cell, backend).double()
    one, other = torch.randn(2, 6, 3, 5, dtype=torch.float64)

    def gradients(*all_inputs):
        loss = sum(core(inputs)[0].square().sum() for inputs in all_inputs)
        return torch.autograd.grad(loss, list(core.parameters()))

    apart = [sum(pair) for pair in zip(gradients(one), gradients(other), strict=True)]
    for together, summed in zip(gradients(one, other), apart, strict=True):
        assert_close(together, summed)


@every_cell
@every_backend
def test_a_graph_may_be_gone_through_twice(cell, backend):
    core = make(cell, backend)
    loss = core(torch.randn(6, 3, 5))[0].square().sum()
    first = torch.autograd.grad(loss, list(core.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(core.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@every_cell
@every_backend
def test_results_are_the_same_bits_every_time(cell, backend):
    rows, times = (4, 1) if backend is Backend.triton else (20, 3)  # interpreted, it takes long
    core, inputs = make(cell, backend, 30, 130), torch.randn(7, rows, 30)
    first = run(core, inputs)
    for _ in range(times):
        assert all(torch.equal(a, b) for a, b in zip(run(core, inputs), first, strict=True))


@every_cell
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_compiled_kernels_give_the_same_bits_for_any_number_of_threads(cell, autocast):
    core, inputs = make(cell, Backend.cpp, 30, 130), torch.randn(7, 20, 30)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(core, inputs, autocast))
    finally:
        torch.set_num_threads(before)
    of_inputs = 1 + len(CELLS[cell][2]._fields)  # a product of PyTorch's
    for other in results[1:]:
        for i, (a, b) in enumerate(zip(results[0], other, strict=True)):
            assert i == of_inputs or torch.equal(a, b)


@every_cell
@every_backend
@pytest.mark.parametrize("shape", [(0, 3, 5), (4, 0, 5)])
def test_a_sequence_without_steps_or_rows_is_refused(cell, backend, shape):
    with pytest.raises(ValueError, match="needs a step and a row"):
        make(cell, backend)(torch.randn(shape))


@every_cell
@every_backend
def test_sizes_that_do_not_fit_are_refused(cell, backend):
    core, parts = make(cell, backend), len(CELLS[cell][2]._fields)
    for rows, size in ((1, 19), (4, 19), (3, 18)):
        state = CELLS[cell][2](*torch.randn(parts, rows, size))
        with pytest.raises(ValueError, match=r"a state must be \[3, 19\] here, not"):
            core(torch.randn(6, 3, 5), state)
    for shape in ((6, 3, 4), (6, 3, 600)):
        with pytest.raises(ValueError, match=r"inputs must be \[time, batch, 5\], not of"):
            core(torch.randn(shape))


@every_cell
@every_backend
def test_a_state_of_another_precision_is_taken_over(cell, backend):
    core, inputs = make(cell, backend), torch.randn(6, 3, 5)
    state = CELLS[cell][2](*torch.randn(len(CELLS[cell][2]._fields), 3, 19).bfloat16())
    same = type(state)(*(part.float() for part in state))
    outputs, end = core(inputs, state)
    assert torch.equal(outputs, core(inputs, same)[0])
    assert all(part.dtype is torch.float32 for part in end)


@every_cell
def test_what_is_nearly_one_hot_is_multiplied(cell):
    core = make(cell, Backend.cpp).double()
    inputs = torch.nn.functional.one_hot(torch.randint(5, (6, 3)), 5).double()
    for nearly in (inputs * (1 + 2e-8), inputs + 1e-50):
        assert_within(run(core, nearly), run_twin(core, cell, nearly), 1e-13)


@every_cell
@every_backend
def test_what_is_not_contiguous_is_read_right(cell, backend):
    core = make(cell, backend).double()
    kind = CELLS[cell][2]
    inputs = torch.randn(3, 6, 5, dtype=torch.float64).transpose(0, 1)
    parts, ends = torch.randn(2, len(kind._fields), 19, 3, dtype=torch.float64).mT
    weights = torch.randn(6, 19, 3, dtype=torch.float64).mT

    def gradients(inputs, parts, weights, ends):
        outputs, state = core(inputs, kind(*parts))
        leaves = list(core.parameters())
        return outputs, *torch.autograd.grad([outputs, *state], leaves, [weights, *ends])

    given = inputs, parts, weights, ends
    plain = gradients(*(values.contiguous() for values in given))
    for ours, theirs in zip(gradients(*given), plain, strict=True):
        assert_close(ours, theirs)


@every_cell
@every_backend
def test_no_number_stays_no_number(cell, backend):
    core, inputs = make(cell, backend), torch.randn(6, 3, 5)
    inputs[2, 1] = torch.nan
    outputs, state = core(inputs)
    assert outputs[2:, 1].isnan().all() and state.hidden[1].isnan().all()
    assert outputs[:2].isfinite().all() and outputs[:, [0, 2]].isfinite().all()


@every_cell
@every_backend
@pytest.mark.filterwarnings("ignore:overflow encountered")  # in Triton's interpreter
def test_gates_saturate_without_overflowing(cell, backend):
    core = make(cell, backend)
    inputs = torch.tensor([1e4, -1e4, 1e30]).view(3, 1, 1).expand(3, 2, 5)
    assert all(part.isfinite().all() for part in run(core, inputs)[:3])


@every_cell
@every_backend
def test_a_copied_core_computes_the_same(cell, backend):
    core, inputs = make(cell, backend), torch.randn(6, 3, 5)
    assert torch.equal(copy.deepcopy(core)(inputs)[0], core(inputs)[0])


@every_cell
@every_backend
def test_a_state_kept_does_not_keep_the_sequence(cell, backend):
    _, state = make(cell, backend)(torch.randn(100, 3, 5))
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in state)


@pytest.mark.parametrize("cell", [Cell.lstm, Cell.gru, Cell.rnn])
@every_backend
def test_stacked_layers_learn_as_those_of_torch(cell, backend):
    settings = {"cell": cell, "hidden_size": 9, "num_layers": 3, "embedding_size": 4}
    fused = LanguageModel(ModelConfig(core=CoreName.fused, backend=backend, **settings), 7)
    builtin = LanguageModel(ModelConfig(core=CoreName.builtin, **settings), 7)
    fused, builtin = fused.double(), builtin.double()
    builtin.load_state_dict(fused.state_dict())
    ids = torch.randint(7, (5, 3))
    for model in (fused, builtin):
        logits, state = model(ids)
        logits, _ = model(ids, state)
        logits.square().sum().backward()
    for ours, theirs in zip(fused.parameters(), builtin.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)


@every_cell
def test_without_onednn_the_results_are_the_same(cell, monkeypatch):
    assert products.onednn_answers()
    core, inputs = make(cell, Backend.torch, 64, 256), torch.randn(5, 32, 64)
    monkeypatch.setattr(products, "takes_onednn", lambda: True)
    with_onednn = run(core, inputs)
    monkeypatch.setattr(products, "takes_onednn", lambda: False)
    for ours, theirs in zip(run(core, inputs), with_onednn, strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_compiled_kernels_are_refused_on_a_gpu():
    with pytest.raises(SettingsError, match="model.backend=cpp runs on a CPU only, not on cuda"):
        check_backend(Backend.cpp, torch.device("cuda"))


@pytest.mark.skipif(shutil.which(compiler()) is None, reason="needs a C++ compiler")
def test_the_backend_is_compiled_where_it_can_be():
    assert backend_here("cpu") is Backend.cpp
    assert backend_here("cuda") is Backend.torch


def test_a_model_made_without_a_backend_computes_the_same():
    ids = torch.randint(7, (4, 2))
    model = LanguageModel(ModelConfig(core=CoreName.fused, hidden_size=5), 7)
    other = LanguageModel(ModelConfig(core=CoreName.scratch, hidden_size=5), 7)
    other.load_state_dict(model.state_dict())
    assert_close(model(ids)[0], other(ids)[0])


@pytest.mark.parametrize("backend", [Backend.auto, Backend.torch])
def test_a_backend_that_runs_anywhere_is_let_pass_without_the_fused_core(backend):
    assert ModelConfig(backend=backend).backend is backend


def test_a_backend_other_than_torch_is_refused_without_the_fused_core():
    with pytest.raises(SettingsError, match="backend=cpp needs model.core=fused, not builtin"):
        ModelConfig(backend=Backend.cpp)
