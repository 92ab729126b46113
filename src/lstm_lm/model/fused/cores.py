"""The fused cores: whole sequences at once, with gradients worked out by hand.

Equations, parameters and start values are those of the scratch cores, which they extend.

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
from torch import Tensor

from lstm_lm.config import Backend
from lstm_lm.model.core import HiddenState, LSTMState
from lstm_lm.model.fused.kernels import kernels_of
from lstm_lm.model.fused.sequence import GRUSequence, LSTMSequence, RNNSequence, run
from lstm_lm.model.scratch_gru import ScratchGRU
from lstm_lm.model.scratch_lstm import ScratchLSTM
from lstm_lm.model.scratch_rnn import ScratchRNN


class FusedLSTM(ScratchLSTM):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        second_bias: bool = True,
        backend: Backend = Backend.auto,
    ) -> None:
        super().__init__(input_size, hidden_size, second_bias)
        self.backend = backend

    def forward(
        self, inputs: Float[Tensor, "time batch input"], state: LSTMState | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], LSTMState]:
        inputs = ready(inputs, self.input_size)
        before = ready_state(state, 2, inputs.shape[1], self.weight_hh_l0)
        kernels = kernels_of(self.backend, inputs.device)
        with without_autocast(inputs):
            bias = self.bias_ih_l0 + self.bias_hh_l0
            outputs, hidden, cell = run(
                LSTMSequence, kernels, inputs, self.weight_ih_l0, self.weight_hh_l0, bias, *before
            )
        return outputs, LSTMState(hidden, cell)


class FusedGRU(ScratchGRU):
    """Resets after the product, as ScratchGRU does unless told otherwise."""

    def __init__(self, input_size: int, hidden_size: int, backend: Backend = Backend.auto) -> None:
        super().__init__(input_size, hidden_size)
        self.backend = backend

    def forward(
        self, inputs: Float[Tensor, "time batch input"], state: HiddenState | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], HiddenState]:
        inputs = ready(inputs, self.input_size)
        before = ready_state(state, 1, inputs.shape[1], self.weight_hh_l0)
        kernels = kernels_of(self.backend, inputs.device)
        with without_autocast(inputs):
            outputs, hidden = run(
                GRUSequence,
                kernels,
                inputs,
                self.weight_ih_l0,
                self.weight_hh_l0,
                self.bias_ih_l0,
                self.bias_hh_l0,
                *before,
            )
        return outputs, HiddenState(hidden)


class FusedRNN(ScratchRNN):
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        second_bias: bool = True,
        backend: Backend = Backend.auto,
    ) -> None:
        super().__init__(input_size, hidden_size, second_bias)
        self.backend = backend

    def forward(
        self, inputs: Float[Tensor, "time batch input"], state: HiddenState | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], HiddenState]:
        inputs = ready(inputs, self.input_size)
        before = ready_state(state, 1, inputs.shape[1], self.weight_hh_l0)
        kernels = kernels_of(self.backend, inputs.device)
        with without_autocast(inputs):
            bias = self.bias_ih_l0 + self.bias_hh_l0
            outputs, hidden = run(
                RNNSequence, kernels, inputs, self.weight_ih_l0, self.weight_hh_l0, bias, *before
            )
        return outputs, HiddenState(hidden)


def ready(
    inputs: Float[Tensor, "time batch input"], input_size: int
) -> Float[Tensor, "time batch input"]:
    """The inputs in the dtype that products are to be computed in.

    Raises:
        ValueError: if there is no step or no row, or the inputs are of another size. Kernels rely
            on all sizes.
    """
    if 0 in inputs.shape[:2]:
        raise ValueError(f"a sequence needs a step and a row, not inputs of {tuple(inputs.shape)}")
    if inputs.shape[2:] != (input_size,):
        raise ValueError(
            f"inputs must be [time, batch, {input_size}], not of {tuple(inputs.shape)}"
        )
    device = inputs.device.type
    if not torch.is_autocast_enabled(device):
        return inputs
    return inputs.to(torch.get_autocast_dtype(device))


def ready_state(
    state: LSTMState | HiddenState | None, parts: int, batch: int, weight: Tensor
) -> list[Float[Tensor, "batch hidden"]]:
    """What is carried into the first step, zeros if nothing is, in the dtype of the weights.

    Raises:
        ValueError: if it is not of the batch's or the weights' size.
    """
    size = weight.shape[1]
    if state is None:
        return [weight.new_zeros(batch, size)] * parts
    for part in state:
        if part.shape != (batch, size):
            raise ValueError(f"a state must be [{batch}, {size}] here, not {tuple(part.shape)}")
    return [part.to(weight.dtype) for part in state]


def without_autocast(inputs: Tensor) -> AbstractContextManager[object]:
    """Inside, the kernels decide themselves what is computed in which dtype."""
    device = inputs.device.type
    if not torch.is_autocast_enabled(device):  # which is quicker than switching it off
        return nullcontext()
    return torch.autocast(device, enabled=False)
