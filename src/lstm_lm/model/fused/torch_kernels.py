"""The kernels in plain PyTorch: for every device and dtype, and to compare the others with.

One loop forward and one backward serve all cells; :class:`CellSteps` is what a cell adds to them.
Backward, everything that does not depend on later steps is computed for all steps at once, before
the loop; inside it one product and a few operations on the state are left.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lstm_lm.config import Cell
from lstm_lm.model.products import product, product_over_rows, product_with

Tensors = tuple[Tensor, ...]
State = Tensors  # the hidden state, and of an LSTM the cell state, [batch, hidden]
# What forward saves for backward: the states before each step and after the last, then what it
# needs of the gates.
Saved = Tensors
# A step's product with the weights backward, added to what it is given.
AddProduct = Callable[[Tensor], Tensor]


class Weights(NamedTuple):
    """The parameters of one layer, with gates in the order of ``torch.nn``."""

    weight_ih: Tensor  # [gates * hidden, input]
    weight_hh: Tensor  # [gates * hidden, hidden]
    bias_ih: Tensor  # [gates * hidden]; the sum of both biases where only that matters
    bias_hh: Tensor | None  # of a GRU alone, whose reset gate multiplies it


class CellSteps(NamedTuple):
    """The pointwise part of a cell, all that it computes besides the products."""

    sums: int  # of a unit: one for each gate
    kept: int  # numbers of a unit that forward saves for backward besides the state
    sides: int  # 2 if what the inputs add and what the hidden state adds have different gradients
    # Writes the state after a step and what is kept of it, from the step's sums.
    forward: Callable[[Tensor, Tensor, State, State, Tensor, torch.dtype], None]
    # The derivatives by the sums and what else backward needs, of all steps: [time, …].
    derivatives: Callable[[Saved, torch.dtype], Tensors]
    # Writes the gradients of a step's sums, [sides, batch, sums, hidden], and returns that of the
    # hidden state before the step, to which that of the output before, grad_before, is added.
    backward: Callable[[State, Tensor, Tensor, AddProduct, Tensors], Tensor]


def forward(cell: Cell, inputs: Tensor, weights: Weights, state: State) -> Saved:
    return forward_loop(CELLS[cell], inputs, weights, state)


def backward(
    cell: Cell, grad_outputs: Tensor, grad_state: State, weight_hh: Tensor, saved: Saved
) -> tuple[Tensors, State]:
    return backward_loop(CELLS[cell], grad_outputs, grad_state, weight_hh, saved)


def forward_loop(cell: CellSteps, inputs: Tensor, weights: Weights, state: State) -> Saved:
    steps, batch, _ = inputs.shape
    # Taken apart all at once, tensors cost less than by an index at every step.
    from_inputs = input_product(inputs, weights).unbind()
    # The product with the hidden state is added to what the inputs add; in a GRU to its own bias.
    addends: Iterable[Tensor] = from_inputs
    if weights.bias_hh is not None:
        bias = weights.bias_hh.to(inputs.dtype)
        addends = itertools.repeat(bias.expand(batch, -1).contiguous())
    states = allocate_states(inputs, state)
    each_state = list(zip(*(part.unbind() for part in states), strict=True))
    gates = inputs.new_empty(steps, batch, cell.kept * state[0].shape[-1])
    add_product = product_with(weights.weight_hh.to(inputs.dtype), batch, steps)
    each_step = zip(addends, from_inputs, each_state, each_state[1:], gates.unbind(), strict=False)
    for addend, from_input, before, after, kept in each_step:
        sums = add_product(before[0], addend)
        cell.forward(sums, from_input, before, after, kept, state[0].dtype)
    return *states, gates


def backward_loop(
    cell: CellSteps, grad_outputs: Tensor, grad_state: State, weight_hh: Tensor, saved: Saved
) -> tuple[Tensors, State]:
    steps, batch, size = grad_outputs.shape
    hiddens, dtype = saved[0], grad_state[0].dtype
    grads = hiddens.new_empty(cell.sides, steps, batch, cell.sums, size)
    add_product = product_with(weight_hh.to(hiddens.dtype).mT, batch, steps)
    # The hidden state before a step was the output of the step before.
    grads_before = [torch.zeros_like(grad_outputs[0]), *grad_outputs[:-1]]
    grad_hidden = (grad_state[0] + grad_outputs[-1]).contiguous()
    grad_cell = [contiguous_copy(part) for part in grad_state[1:]]  # of an LSTM; written to
    grad_sums = tuple(grads.flatten(-2))
    each_local = zip(*cell.derivatives(saved, dtype), strict=True)
    each_step = list(zip(grads.unbind(1), grad_sums[-1], grads_before, each_local, strict=True))
    for step_grads, rows, grad_before, local in reversed(each_step):
        grad_state = grad_hidden, *grad_cell
        add_to = partial(add_product, rows)
        grad_hidden = cell.backward(grad_state, step_grads, grad_before, add_to, local)
    return grad_sums, (grad_hidden.to(dtype), *grad_cell)


def lstm_forward(
    sums: Tensor, _: Tensor, before: State, after: State, kept: Tensor, dtype: torch.dtype
) -> None:
    (_, cell_before), (hidden, cell) = before, after
    size = cell.shape[-1]
    activated = sums.to(dtype)
    # tanh(g) = 2 σ(2g) − 1, so that one function over all four gates does.
    activated[..., 2 * size : 3 * size].mul_(2)
    kept.copy_(activated.sigmoid_())
    i, f, sigmoid_2g, o = activated.split(size, -1)
    torch.mul(f, cell_before, out=cell)
    cell.addcmul_(i, sigmoid_2g, value=2).sub_(i)
    torch.mul(o, hyperbolic_tangent(cell), out=hidden)


def lstm_derivatives(saved: Saved, dtype: torch.dtype) -> Tensors:
    _, cells, gates = saved
    i, f, sigmoid_2g, o = gates.split(cells.shape[-1], -1)
    g = sigmoid_2g.mul(2).sub_(1)
    i, f, g, o = (gate.to(dtype) for gate in (i, f, g, o))
    tanh_cell = hyperbolic_tangent(cells[1:])
    # Of the cell state by the sums of i, f and g, and of the hidden state by that of o.
    by_sums = torch.empty_like(gates, dtype=dtype).unflatten(-1, (4, -1))
    torch.mul(g, i * (1 - i), out=by_sums[..., 0, :])
    torch.mul(cells[:-1], f * (1 - f), out=by_sums[..., 1, :])
    torch.mul(i, 1 - g.square(), out=by_sums[..., 2, :])
    torch.mul(tanh_cell, o * (1 - o), out=by_sums[..., 3, :])
    return by_sums, o * (1 - tanh_cell.square()), f


def lstm_backward(
    grad_state: State, grads: Tensor, grad_before: Tensor, add_product: AddProduct, local: Tensors
) -> Tensor:
    (grad_hidden, grad_cell), [grads] = grad_state, grads
    by_sums, hidden_by_cell, f = local
    grad_cell.addcmul_(grad_hidden, hidden_by_cell)
    torch.mul(by_sums[:, :3], grad_cell.unsqueeze(-2), out=grads[:, :3])
    torch.mul(by_sums[:, 3], grad_hidden, out=grads[:, 3])
    grad_cell.mul_(f)
    return add_product(grad_before).to(grad_hidden.dtype)


def gru_forward(
    sums: Tensor, from_input: Tensor, before: State, after: State, kept: Tensor, dtype: torch.dtype
) -> None:
    [hidden_before], [hidden] = before, after
    size = hidden.shape[-1]
    sums = sums.to(dtype)
    r_z = (sums[..., : 2 * size] + from_input[..., : 2 * size]).sigmoid_()
    r, z = r_z.split(size, -1)
    candidate = sums[..., 2 * size :]
    n = hyperbolic_tangent(torch.addcmul(from_input[..., 2 * size :].to(dtype), r, candidate))
    torch.cat([r_z, n, candidate], -1, out=kept)
    hidden.copy_(torch.lerp(n, hidden_before.to(dtype), z))


def gru_derivatives(saved: Saved, dtype: torch.dtype) -> Tensors:
    hiddens, gates = saved
    r, z, n, candidate = gates.to(dtype).split(hiddens.shape[-1], -1)
    by_n = (1 - z) * (1 - n.square())
    by_r = by_n * candidate * r * (1 - r)
    by_z = (hiddens[:-1] - n) * z * (1 - z)
    # First by what the inputs add, then by what the hidden state adds.
    by_sums = torch.stack([by_r, by_z, by_n, by_r, by_z, by_n * r], -2).unflatten(-2, (2, 3))
    zeros = torch.zeros_like(hiddens[0]).expand_as(hiddens[1:])
    return by_sums.transpose(1, 2), z, zeros


def gru_backward(
    grad_state: State, grads: Tensor, grad_before: Tensor, add_product: AddProduct, local: Tensors
) -> Tensor:
    [grad_hidden], (by_sums, z, zeros) = grad_state, local
    torch.mul(by_sums, grad_hidden.unsqueeze(-2), out=grads)
    # The hidden state goes on through the gates, and by its share z past them.
    through_gates = add_product(zeros).to(grad_hidden.dtype)
    return torch.addcmul(through_gates, grad_hidden, z).add_(grad_before)


def rnn_forward(
    sums: Tensor, _: Tensor, before: State, after: State, kept: Tensor, dtype: torch.dtype
) -> None:
    torch.tanh(sums, out=after[0])


def rnn_derivatives(saved: Saved, dtype: torch.dtype) -> Tensors:
    hiddens, _ = saved
    return ((1 - hiddens[1:].to(dtype).square()).unsqueeze(-2),)


def rnn_backward(
    grad_state: State, grads: Tensor, grad_before: Tensor, add_product: AddProduct, local: Tensors
) -> Tensor:
    [grad_hidden], [grads], [by_sums] = grad_state, grads, local
    torch.mul(by_sums, grad_hidden.unsqueeze(-2), out=grads)
    return add_product(grad_before).to(grad_hidden.dtype)


CELLS = {
    Cell.lstm: CellSteps(4, 4, 1, lstm_forward, lstm_derivatives, lstm_backward),
    Cell.gru: CellSteps(3, 4, 2, gru_forward, gru_derivatives, gru_backward),
    Cell.rnn: CellSteps(1, 0, 1, rnn_forward, rnn_derivatives, rnn_backward),
}


def input_product(inputs: Tensor, weights: Weights) -> Tensor:
    """The inputs' share of the gates for all steps, in one product."""
    weight, bias = weights.weight_ih.to(inputs.dtype), weights.bias_ih.to(inputs.dtype)
    return product(inputs.flatten(0, 1), weight, bias).unflatten(0, inputs.shape[:2])


def weight_gradients(
    grad_sums: Tensor, factors: Sequence[Tensor], dtype: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    rows = grad_sums.flatten(0, 1)
    gradients = [product_over_rows(rows, factor.flatten(0, 1)).to(dtype) for factor in factors]
    return gradients, grad_sums.sum((0, 1), dtype=dtype)


def hyperbolic_tangent(values: Tensor) -> Tensor:
    """tanh(x) = 2 σ(2x) − 1, as on a CPU PyTorch's own takes several times as long as its σ."""
    if values.device.type != "cpu":
        return values.tanh()
    return values.mul(2).sigmoid_().mul_(2).sub_(1)


def allocate_states(inputs: Tensor, state: State) -> list[Tensor]:
    """Memory for the states before each step and after the last, the first of them filled in."""
    # Hidden states are multiplied, and so have the dtype of the inputs; cell states have their own.
    like, states = inputs, []
    for part in state:
        sequence = like.new_empty(len(inputs) + 1, *part.shape)
        sequence[0] = part
        states.append(sequence)
        like = part
    return states


def contiguous_copy(tensor: Tensor) -> Tensor:
    """A copy to write to, laid out as its shape says whatever the tensor's strides are."""
    return tensor.clone(memory_format=torch.contiguous_format)
