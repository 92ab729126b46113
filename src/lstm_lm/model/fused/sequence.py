"""Sequences in autograd: what forward saves, and what backward returns for each argument."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lstm_lm.model.fused.kernels import Kernels
from lstm_lm.model.fused.layer import Weights
from lstm_lm.model.products import product

Gradients = tuple[Tensor | None, ...]


class LSTMSequence(Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        inputs: Tensor,
        of_inputs: Tensor,
        of_hidden: Tensor,
        bias: Tensor,
        hidden: Tensor,
        cell: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = Weights(of_inputs, of_hidden, bias)
        hiddens, cells, gates = kernels.lstm_forward(inputs, weights, hidden, cell)
        ctx.kernels = kernels
        ctx.save_for_backward(inputs, of_inputs, of_hidden, hiddens, cells, gates)
        return hiddens[1:], last(hiddens, hidden), last(cells, cell)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_outputs: Tensor, grad_hidden: Tensor, grad_cell: Tensor
    ) -> Gradients:
        inputs, of_inputs, of_hidden, hiddens, cells, gates = ctx.saved_tensors
        grad_gates, grad_hidden, grad_cell = ctx.kernels.lstm_backward(
            grad_outputs, grad_hidden, grad_cell, of_hidden, cells, gates
        )
        grad_inputs = of_the_inputs(grad_gates, of_inputs) if ctx.needs_input_grad[1] else None
        grad_weights, grad_bias = ctx.kernels.weight_gradients(
            grad_gates, [inputs, hiddens[:-1]], of_hidden.dtype
        )
        return None, grad_inputs, *grad_weights, grad_bias, grad_hidden, grad_cell


class GRUSequence(Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        inputs: Tensor,
        of_inputs: Tensor,
        of_hidden: Tensor,
        bias: Tensor,
        hidden_bias: Tensor,
        hidden: Tensor,
    ) -> tuple[Tensor, Tensor]:
        weights = Weights(of_inputs, of_hidden, bias)
        hiddens, gates = kernels.gru_forward(inputs, weights, hidden_bias, hidden)
        ctx.kernels = kernels
        ctx.save_for_backward(inputs, of_inputs, of_hidden, hiddens, gates)
        return hiddens[1:], last(hiddens, hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor, grad_hidden: Tensor) -> Gradients:
        inputs, of_inputs, of_hidden, hiddens, gates = ctx.saved_tensors
        from_inputs, from_hiddens, grad_hidden = ctx.kernels.gru_backward(
            grad_outputs, grad_hidden, of_hidden, hiddens, gates
        )
        grad_inputs = of_the_inputs(from_inputs, of_inputs) if ctx.needs_input_grad[1] else None
        dtype, weight_gradients = of_hidden.dtype, ctx.kernels.weight_gradients
        [grad_of_inputs], bias = weight_gradients(from_inputs, [inputs], dtype)
        [grad_of_hidden], hidden_bias = weight_gradients(from_hiddens, [hiddens[:-1]], dtype)
        return None, grad_inputs, grad_of_inputs, grad_of_hidden, bias, hidden_bias, grad_hidden


class RNNSequence(Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        inputs: Tensor,
        of_inputs: Tensor,
        of_hidden: Tensor,
        bias: Tensor,
        hidden: Tensor,
    ) -> tuple[Tensor, Tensor]:
        hiddens = kernels.rnn_forward(inputs, Weights(of_inputs, of_hidden, bias), hidden)
        ctx.kernels = kernels
        ctx.save_for_backward(inputs, of_inputs, of_hidden, hiddens)
        return hiddens[1:], last(hiddens, hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor, grad_hidden: Tensor) -> Gradients:
        inputs, of_inputs, of_hidden, hiddens = ctx.saved_tensors
        grad_sums, grad_hidden = ctx.kernels.rnn_backward(
            grad_outputs, grad_hidden, of_hidden, hiddens
        )
        grad_inputs = of_the_inputs(grad_sums, of_inputs) if ctx.needs_input_grad[1] else None
        grad_weights, grad_bias = ctx.kernels.weight_gradients(
            grad_sums, [inputs, hiddens[:-1]], of_hidden.dtype
        )
        return None, grad_inputs, *grad_weights, grad_bias, grad_hidden


class NoContext:
    """In place of autograd's, where nothing flows back."""

    kernels: Kernels

    def save_for_backward(self, *tensors: Tensor) -> None:
        pass


def run(function: type[Function], *arguments: Any) -> tuple[Tensor, ...]:
    """As ``function.apply``, which costs more than a short sequence takes to compute."""
    if torch.is_grad_enabled():
        return function.apply(*arguments)
    return function.forward(NoContext(), *arguments)


def last(states: Tensor, like: Tensor) -> Tensor:
    # Not a view: whoever keeps the state must not keep the sequence.
    return states[-1].to(like.dtype, copy=True)


def of_the_inputs(grad_gates: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a layer's inputs, from that of what they add to the gates."""
    rows = product(grad_gates.flatten(0, 1), weight.to(grad_gates.dtype).T)
    return rows.unflatten(0, grad_gates.shape[:2])
