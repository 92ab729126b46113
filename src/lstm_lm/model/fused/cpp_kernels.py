"""The kernels on a CPU, in C++: see cpp/sequence.h for how.

Rows of the batch are shared out among threads, weights are packed once a sequence, and gates are
computed while their sums lie in the cache. Results do not depend on the number of threads.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lstm_lm.config import Cell
from lstm_lm.model.fused.cpp_build import load_library
from lstm_lm.model.fused.torch_kernels import (
    Saved,
    State,
    Tensors,
    Weights,
    allocate_states,
    contiguous_copy,
)

operators = load_library()


def forward(cell: Cell, inputs: Tensor, weights: Weights, state: State) -> Saved:
    *layer, bias_hh = weights
    states = allocate_states(inputs, state)
    given = inputs.contiguous(), contiguous(layer)
    if cell is Cell.rnn:
        operators.rnn_forward(*given, *states)
        return tuple(states)
    gates = inputs.new_empty(*inputs.shape[:2], 4 * state[0].shape[-1])
    if bias_hh is None:
        operators.lstm_forward(*given, *states, gates)
    else:
        operators.gru_forward(*given, bias_hh.contiguous(), *states, gates)
    return *states, gates


def backward(
    cell: Cell, grad_outputs: Tensor, grad_state: State, weight_hh: Tensor, saved: Saved
) -> tuple[Tensors, State]:
    grad_state = tuple(map(contiguous_copy, grad_state))  # becomes that of the first state
    shape = *grad_outputs.shape[:2], len(weight_hh)
    grad_sums = [grad_outputs.new_empty(shape) for _ in range(2 if cell is Cell.gru else 1)]
    given = grad_outputs.contiguous(), weight_hh.contiguous()
    match cell:
        case Cell.lstm:
            _, *cells_and_gates = saved
            operators.lstm_backward(*given, *cells_and_gates, *grad_state, *grad_sums)
        case Cell.gru:
            past_gates = torch.zeros_like(*grad_state)  # the kernel's own, from step to step
            operators.gru_backward(*given, *saved, *grad_state, past_gates, *grad_sums)
        case Cell.rnn:
            operators.rnn_backward(*given, *saved, *grad_state, *grad_sums)
    return tuple(grad_sums), grad_state


def weight_gradients(
    grad_sums: Tensor, factors: Sequence[Tensor], dtype: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    sums = grad_sums.shape[-1]
    gradients = [grad_sums.new_empty(sums, f.shape[-1], dtype=dtype) for f in factors]
    bias = grad_sums.new_empty(sums, dtype=dtype)
    operators.weight_gradients(grad_sums.contiguous(), contiguous(factors), gradients, bias)
    return gradients, bias


def contiguous(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]
