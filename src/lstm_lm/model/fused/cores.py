"""The fused cores: whole sequences at once, with gradients worked out by hand.

Equations, parameters and initialization are those of the scratch cores, which they extend.

cores            what the language model is built of
sequence         its place in autograd: what is saved, what flows back
kernels          what a backend has to compute, and which backend can run where
torch_kernels    in plain PyTorch, on every device
cpp_kernels      on a CPU, by the C++ in cpp/, which cpp_build compiles when first asked for
triton_kernels   on a GPU, by the kernels in triton_steps
"""

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Generic

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lstm_lm.config import Backend, Cell
from lstm_lm.model.core import CoreState, HiddenState, LSTMState, S
from lstm_lm.model.fused.kernels import kernels_of
from lstm_lm.model.fused.sequence import run_sequence
from lstm_lm.model.scratch_gru import ScratchGRU
from lstm_lm.model.scratch_lstm import ScratchLSTM
from lstm_lm.model.scratch_rnn import ScratchRNN


class FusedCore(nn.Module, Generic[S]):
    """The forward pass of a fused core, before a scratch core in the order of base classes."""

    cell: ClassVar[Cell]
    state_type: type[S]
    input_size: int
    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter

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
        self,
        inputs: Float[Tensor, "time batch input"],
        state: S | None = None,
        weight_hh: Float[Tensor, "gates hidden"] | None = None,
    ) -> tuple[Float[Tensor, "time batch hidden"], S]:
        inputs = ready(inputs, self.input_size)
        weight_hh = self.weight_hh_l0 if weight_hh is None else weight_hh
        before = ready_state(state, len(self.state_type._fields), inputs.shape[1], weight_hh)
        kernels = kernels_of(self.backend, inputs.device)
        with without_autocast(inputs):
            biases: tuple[Tensor, Tensor | None] = self.bias_ih_l0, self.bias_hh_l0
            if self.cell is not Cell.gru:  # to which only their sum matters
                biases = biases[0] + self.bias_hh_l0, None
            outputs, *after = run_sequence(
                kernels, self.cell, inputs, self.weight_ih_l0, weight_hh, *biases, *before
            )
        return outputs, self.state_type(*after)


class FusedLSTM(FusedCore[LSTMState], ScratchLSTM):
    cell = Cell.lstm
    state_type = LSTMState


class FusedGRU(FusedCore[HiddenState], ScratchGRU):
    """A GRU that resets after the product, as ScratchGRU does unless told otherwise."""

    cell = Cell.gru
    state_type = HiddenState


class FusedRNN(FusedCore[HiddenState], ScratchRNN):
    cell = Cell.rnn
    state_type = HiddenState


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
    state: CoreState | None, parts: int, batch: int, weight: Tensor
) -> list[Float[Tensor, "batch hidden"]]:
    """The state before the first step in the dtype of the weights; zeros if none is given.

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
    """A context in which the kernels decide themselves what is computed in which dtype."""
    device = inputs.device.type
    if not torch.is_autocast_enabled(device):  # checking is quicker than switching it off
        return nullcontext()
    return torch.autocast(device, enabled=False)
