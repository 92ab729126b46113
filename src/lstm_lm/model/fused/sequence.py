"""A layer's whole sequence in autograd: what forward saves, and what backward returns."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lstm_lm.config import Cell
from lstm_lm.model.fused.kernels import Kernels
from lstm_lm.model.fused.torch_kernels import Weights
from lstm_lm.model.products import product


class SequenceFunction(Function):
    """Outputs and the last state, from inputs, weights and the first state."""

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
