"""The kernels on a CPU, in C++: see cpp/sequence.h for how.

Rows of the batch are shared out among threads, weights are packed once a sequence, and gates are
computed while their sums lie in the cache. Results do not depend on the number of threads.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lstm_lm.model.fused.cpp_build import load_library
from lstm_lm.model.fused.layer import Weights
from lstm_lm.model.fused.torch_kernels import as_own, begin

operators = load_library()


def lstm_forward(
    inputs: Tensor, weights: Weights, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    hiddens, cells = begin(inputs, hidden, len(inputs)), begin(cell, cell, len(inputs))
    gates = inputs.new_empty(*inputs.shape[:-1], 4 * hidden.shape[-1])
    operators.lstm_forward(inputs.contiguous(), contiguous(weights), hiddens, cells, gates)
    return hiddens, cells, gates


def lstm_backward(
    grad_outputs: Tensor,
    grad_hidden: Tensor,
    grad_cell: Tensor,
    weight: Tensor,
    cells: Tensor,
    gates: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_hidden, grad_cell = as_own(grad_hidden), as_own(grad_cell)
    grad_gates = torch.empty_like(gates)
    operators.lstm_backward(
        grad_outputs.contiguous(),
        weight.contiguous(),
        cells,
        gates,
        grad_hidden,
        grad_cell,
        grad_gates,
    )
    return grad_gates, grad_hidden, grad_cell


def gru_forward(
    inputs: Tensor, weights: Weights, hidden_bias: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    hiddens = begin(inputs, hidden, len(inputs))
    gates = inputs.new_empty(*inputs.shape[:-1], 4 * hidden.shape[-1])
    operators.gru_forward(
        inputs.contiguous(), contiguous(weights), hidden_bias.contiguous(), hiddens, gates
    )
    return hiddens, gates


def gru_backward(
    grad_outputs: Tensor, grad_hidden: Tensor, weight: Tensor, hiddens: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad_hidden = as_own(grad_hidden)
    grad_from_inputs = gates.new_empty(*gates.shape[:-1], 3 * hiddens.shape[-1])
    grad_from_hiddens = torch.empty_like(grad_from_inputs)
    operators.gru_backward(
        grad_outputs.contiguous(),
        weight.contiguous(),
        hiddens,
        gates,
        grad_hidden,
        torch.zeros_like(grad_hidden),
        grad_from_inputs,
        grad_from_hiddens,
    )
    return grad_from_inputs, grad_from_hiddens, grad_hidden


def rnn_forward(inputs: Tensor, weights: Weights, hidden: Tensor) -> Tensor:
    hiddens = begin(inputs, hidden, len(inputs))
    operators.rnn_forward(inputs.contiguous(), contiguous(weights), hiddens)
    return hiddens


def rnn_backward(
    grad_outputs: Tensor, grad_hidden: Tensor, weight: Tensor, hiddens: Tensor
) -> tuple[Tensor, Tensor]:
    grad_hidden = as_own(grad_hidden)
    grad_sums = torch.empty_like(hiddens[1:])
    operators.rnn_backward(
        grad_outputs.contiguous(), weight.contiguous(), hiddens, grad_hidden, grad_sums
    )
    return grad_sums, grad_hidden


def weight_gradients(
    grad_gates: Tensor, factors: Sequence[Tensor], dtype: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    gates = grad_gates.shape[-1]
    gradients = [grad_gates.new_empty(gates, f.shape[-1], dtype=dtype) for f in factors]
    bias = grad_gates.new_empty(gates, dtype=dtype)
    operators.weight_gradients(grad_gates.contiguous(), contiguous(factors), gradients, bias)
    return gradients, bias


def contiguous(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]
