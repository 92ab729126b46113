"""The fused cores: whole sequences at once, with gradients worked out by hand.

Equations, parameters and initialization are those of the scratch cores, which they extend.

cores            what the language model is built of, and its place in autograd
kernels          what a backend has to compute, and which backend can run where
torch_kernels    in plain PyTorch, on every device
cpp_kernels      on a CPU, by the C++ in cpp/, which it compiles when first asked for
triton_kernels   on a GPU, in Triton
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Generic

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lstm_lm.config import Backend, Cell
from lstm_lm.model.core import CoreState, HiddenState, LSTMState, S
from lstm_lm.model.fused.kernels import Kernels, kernels_of
from lstm_lm.model.fused.torch_kernels import Weights
from lstm_lm.model.products import product
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


class SequenceFunction(Function):
    """A layer's whole sequence in autograd: outputs and the last state, from the first state."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        cell: Cell,
        inputs: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor | None,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        weights = Weights(weight_ih, weight_hh, bias_ih, bias_hh)
        saved = kernels.forward(cell, inputs, weights, state)
        ctx.kernels, ctx.cell = kernels, cell
        ctx.save_for_backward(inputs, weight_ih, weight_hh, *saved)
        return saved[0][1:], *map(last, saved, state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor, *grad_state: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight_ih, weight_hh, *saved = ctx.saved_tensors
        grad_sums, grad_first = ctx.kernels.backward(
            ctx.cell, grad_outputs, grad_state, weight_hh, tuple(saved)
        )
        grad_inputs = None
        if ctx.needs_input_grad[2]:
            grad_inputs = input_gradient(grad_sums[0], weight_ih)
        weight_gradients, dtype = ctx.kernels.weight_gradients, weight_hh.dtype
        factors, grad_bias_hh = [inputs, saved[0][:-1]], None
        if len(grad_sums) == 1:  # both at once, which is faster in C++
            grad_weights, grad_bias_ih = weight_gradients(grad_sums[0], factors, dtype)
        else:
            [grad_ih], grad_bias_ih = weight_gradients(grad_sums[0], factors[:1], dtype)
            [grad_hh], grad_bias_hh = weight_gradients(grad_sums[1], factors[1:], dtype)
            grad_weights = [grad_ih, grad_hh]
        return None, None, grad_inputs, *grad_weights, grad_bias_ih, grad_bias_hh, *grad_first


class NoContext:
    """Stands in for autograd's context where nothing flows back."""

    kernels: Kernels
    cell: Cell

    def save_for_backward(self, *tensors: Tensor) -> None:
        pass


def run_sequence(*arguments: Any) -> tuple[Tensor, ...]:
    """``SequenceFunction.apply``, which costs more than a short sequence takes to compute."""
    if torch.is_grad_enabled():
        return SequenceFunction.apply(*arguments)
    return SequenceFunction.forward(NoContext(), *arguments)


def last(states: Tensor, like: Tensor) -> Tensor:
    # Not a view: whoever keeps the state must not keep the sequence.
    return states[-1].to(like.dtype, copy=True)


def input_gradient(grad_sums: Tensor, weight_ih: Tensor) -> Tensor:
    """The gradient of a layer's inputs, from that of what they add to the gates."""
    rows = product(grad_sums.flatten(0, 1), weight_ih.to(grad_sums.dtype).T)
    return rows.unflatten(0, grad_sums.shape[:2])
