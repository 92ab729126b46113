"""The fused cores: whole sequences at once, with gradients worked out by hand.

cores            what the language model is built of
sequence         its place in autograd: what is saved, what flows back
kernels          what a backend has to compute, and which backend can run where
torch_kernels    in plain PyTorch, on every device
cpp_kernels      on a CPU, by the C++ in cpp/, which cpp_build compiles when first asked for
triton_kernels   on a GPU
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lstm_lm.config import Backend
from lstm_lm.model.core import HiddenState, LSTMState
from lstm_lm.model.fused.kernels import kernels_of
from lstm_lm.model.fused.sequence import GRUSequence, LSTMSequence, RNNSequence, run
from lstm_lm.model.start_values import start_as_torch


class FusedLSTM(nn.Module):
    """Keeps the contract of :class:`lstm_lm.model.core.Core`; the equations of ScratchLSTM."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        second_bias: bool = True,
        backend: Backend = Backend.torch,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.backend = backend
        self.weight_ih_l0 = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(4 * hidden_size))
        start_as_torch(self, hidden_size, second_bias)

    def forward(
        self, inputs: Float[Tensor, "time batch input"], state: LSTMState | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], LSTMState]:
        inputs = ready(inputs)
        if state is None:
            zeros = self.weight_hh_l0.new_zeros(inputs.shape[1], self.hidden_size)
            state = LSTMState(zeros, zeros)
        kernels = kernels_of(self.backend)
        with without_autocast(inputs):
            bias = self.bias_ih_l0 + self.bias_hh_l0
            outputs, hidden, cell = run(
                LSTMSequence, kernels, inputs, self.weight_ih_l0, self.weight_hh_l0, bias, *state
            )
        return outputs, LSTMState(hidden, cell)


class FusedGRU(nn.Module):
    """Keeps the contract of :class:`lstm_lm.model.core.Core`; resets after the product."""

    def __init__(self, input_size: int, hidden_size: int, backend: Backend = Backend.torch) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.backend = backend
        self.weight_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size))
        start_as_torch(self, hidden_size, second_bias=True)

    def forward(
        self, inputs: Float[Tensor, "time batch input"], state: HiddenState | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], HiddenState]:
        inputs = ready(inputs)
        if state is None:
            state = HiddenState(self.weight_hh_l0.new_zeros(inputs.shape[1], self.hidden_size))
        kernels = kernels_of(self.backend)
        with without_autocast(inputs):
            outputs, hidden = run(
                GRUSequence,
                kernels,
                inputs,
                self.weight_ih_l0,
                self.weight_hh_l0,
                self.bias_ih_l0,
                self.bias_hh_l0,
                *state,
            )
        return outputs, HiddenState(hidden)


class FusedRNN(nn.Module):
    """Keeps the contract of :class:`lstm_lm.model.core.Core`; the equation of ScratchRNN."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        second_bias: bool = True,
        backend: Backend = Backend.torch,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.backend = backend
        self.weight_ih_l0 = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(hidden_size))
        start_as_torch(self, hidden_size, second_bias)

    def forward(
        self, inputs: Float[Tensor, "time batch input"], state: HiddenState | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], HiddenState]:
        inputs = ready(inputs)
        if state is None:
            state = HiddenState(self.weight_hh_l0.new_zeros(inputs.shape[1], self.hidden_size))
        kernels = kernels_of(self.backend)
        with without_autocast(inputs):
            bias = self.bias_ih_l0 + self.bias_hh_l0
            outputs, hidden = run(
                RNNSequence, kernels, inputs, self.weight_ih_l0, self.weight_hh_l0, bias, *state
            )
        return outputs, HiddenState(hidden)


def ready(inputs: Float[Tensor, "time batch input"]) -> Float[Tensor, "time batch input"]:
    """The inputs in the dtype that products are to be computed in.

    Raises:
        ValueError: if there is no step or no row.
    """
    if 0 in inputs.shape[:2]:
        raise ValueError(f"a sequence needs a step and a row, not inputs of {tuple(inputs.shape)}")
    device = inputs.device.type
    if not torch.is_autocast_enabled(device):
        return inputs
    return inputs.to(torch.get_autocast_dtype(device))


def without_autocast(inputs: Tensor) -> AbstractContextManager[object]:
    """Inside, the kernels decide themselves what is computed in which dtype."""
    device = inputs.device.type
    if not torch.is_autocast_enabled(device):  # which is quicker than switching it off
        return nullcontext()
    return torch.autocast(device, enabled=False)
