"""The kernels in plain PyTorch: for every device and dtype, and to compare the others with.

Backward, all that does not depend on later steps is computed for every step at once; what is left
inside the loop is one product and a few operations on the state. There may be an axis of models
before that of the batch, each model with weights of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lstm_lm.model.fused.layer import Weights
from lstm_lm.model.products import product, product_over_rows, product_with


def lstm_forward(
    inputs: Tensor, weights: Weights, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    size = hidden.shape[-1]
    hiddens, cells = begin(inputs, hidden, len(inputs)), begin(cell, cell, len(inputs))
    from_inputs = input_product(inputs, weights)
    add_product = product_with(weights.of_hidden.to(inputs.dtype), hidden.shape[-2], len(inputs))
    gates = torch.empty_like(from_inputs)
    for from_input, before, after, current, following, saved in zip(
        from_inputs, hiddens, hiddens[1:], cells, cells[1:], gates, strict=False
    ):
        activated = add_product(from_input, before).to(cell.dtype)
        # tanh(g) = 2 σ(2g) − 1, so that one function over all four gates does.
        activated[..., 2 * size : 3 * size].mul_(2)
        saved.copy_(activated.sigmoid_())
        i, f, g, o = activated.split(size, -1)
        torch.mul(f, current, out=following)
        following.addcmul_(i, g, value=2).sub_(i)
        torch.mul(o, hyperbolic_tangent(following), out=after)
    gates[..., 2 * size : 3 * size].mul_(2).sub_(1)
    return hiddens, cells, gates


def lstm_backward(
    grad_outputs: Tensor,
    grad_hidden: Tensor,
    grad_cell: Tensor,
    weight: Tensor,
    cells: Tensor,
    gates: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    size = cells.shape[-1]
    i, f, g, o = gates.to(cells.dtype).split(size, dim=-1)
    shown = hyperbolic_tangent(cells[1:])
    into_cell = o * (1 - shown.square())
    # The slope of each gate: what the gradient of the cell, for o of the hidden state, is
    # multiplied with.
    slopes = torch.empty_like(gates, dtype=cells.dtype).unflatten(-1, (4, size))
    torch.mul(g, i * (1 - i), out=slopes[..., 0, :])
    torch.mul(cells[:-1], f * (1 - f), out=slopes[..., 1, :])
    torch.mul(i, 1 - g.square(), out=slopes[..., 2, :])
    torch.mul(shown, o * (1 - o), out=slopes[..., 3, :])
    grad_gates = torch.empty_like(gates)
    into_gates = grad_gates.unflatten(-1, (4, size))
    add_product = product_with(weight.to(gates.dtype).mT, gates.shape[-2], len(gates))
    grad_cell = as_own(grad_cell)
    grad_hidden = grad_hidden + grad_outputs[-1]
    for step in reversed(range(len(gates))):
        grad_cell.addcmul_(grad_hidden, into_cell[step])
        slope, into = slopes[step], into_gates[step]
        torch.mul(slope[..., :3, :], grad_cell.unsqueeze(-2), out=into[..., :3, :])
        torch.mul(slope[..., 3, :], grad_hidden, out=into[..., 3, :])
        grad_cell.mul_(f[step])
        added = grad_outputs[step - 1] if step else torch.zeros_like(grad_outputs[0])
        grad_hidden = add_product(added, grad_gates[step]).to(grad_cell.dtype)
    return grad_gates, grad_hidden, grad_cell


def gru_forward(
    inputs: Tensor, weights: Weights, hidden_bias: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    size = hidden.shape[-1]
    from_inputs = input_product(inputs, weights)
    hiddens = begin(inputs, hidden, len(inputs))
    gates = from_inputs.new_empty(*from_inputs.shape[:-1], 4 * size)
    add_product = product_with(weights.of_hidden.to(gates.dtype), hidden.shape[-2], len(gates))
    # For each row, as products of several models want it.
    bias = hidden_bias.to(gates.dtype).unsqueeze(-2).expand(from_inputs.shape[1:]).contiguous()
    for step, from_input in enumerate(from_inputs):
        sums = add_product(bias, hiddens[step]).to(hidden.dtype)
        r_z = (sums[..., : 2 * size] + from_input[..., : 2 * size]).sigmoid_()
        r, z = r_z.split(size, dim=-1)
        candidate = sums[..., 2 * size :]
        n = hyperbolic_tangent(
            torch.addcmul(from_input[..., 2 * size :].to(hidden.dtype), r, candidate)
        )
        gates[step] = torch.cat([r_z, n, candidate], -1)
        hiddens[step + 1] = torch.lerp(n, hiddens[step].to(hidden.dtype), z)
    return hiddens, gates


def gru_backward(
    grad_outputs: Tensor, grad_hidden: Tensor, weight: Tensor, hiddens: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    size, dtype = hiddens.shape[-1], grad_hidden.dtype
    r, z, n, candidate = gates.to(dtype).split(size, dim=-1)
    slope_n = (1 - z) * (1 - n.square())
    slopes = torch.stack(
        [slope_n * candidate * r * (1 - r), (hiddens[:-1] - n) * z * (1 - z), slope_n * r], -2
    )
    grad_from_hiddens = gates.new_empty(*gates.shape[:-1], 3 * size)
    each_gate = grad_from_hiddens.unflatten(-1, (3, size))
    grad_hiddens = torch.empty_like(n)  # of the state after each step
    add_product = product_with(weight.to(gates.dtype).mT, gates.shape[-2], len(gates))
    nothing = torch.zeros_like(grad_outputs[0])
    for step in reversed(range(len(gates))):
        grad_hidden = torch.add(grad_hidden, grad_outputs[step], out=grad_hiddens[step])
        each_gate[step] = slopes[step] * grad_hidden.unsqueeze(-2)
        through_gates = add_product(nothing, grad_from_hiddens[step])
        grad_hidden = torch.addcmul(through_gates.to(dtype), grad_hidden, z[step])
    grad_from_inputs = grad_from_hiddens.clone()
    grad_from_inputs[..., 2 * size :] = slope_n * grad_hiddens
    return grad_from_inputs, grad_from_hiddens, grad_hidden


def rnn_forward(inputs: Tensor, weights: Weights, hidden: Tensor) -> Tensor:
    from_inputs = input_product(inputs, weights)
    hiddens = begin(inputs, hidden, len(inputs))
    add_product = product_with(
        weights.of_hidden.to(hiddens.dtype), hidden.shape[-2], len(from_inputs)
    )
    for step, from_input in enumerate(from_inputs):
        torch.tanh(add_product(from_input, hiddens[step]), out=hiddens[step + 1])
    return hiddens


def rnn_backward(
    grad_outputs: Tensor, grad_hidden: Tensor, weight: Tensor, hiddens: Tensor
) -> tuple[Tensor, Tensor]:
    slopes = 1 - hiddens[1:].to(grad_hidden.dtype).square()
    grad_sums = torch.empty_like(hiddens[1:])
    add_product = product_with(weight.to(hiddens.dtype).mT, hiddens.shape[-2], len(slopes))
    grad_hidden = grad_hidden + grad_outputs[-1]
    for step in reversed(range(len(slopes))):
        grad_sums[step] = slopes[step] * grad_hidden
        added = grad_outputs[step - 1] if step else torch.zeros_like(grad_outputs[0])
        grad_hidden = add_product(added, grad_sums[step]).to(grad_hidden.dtype)
    return grad_sums, grad_hidden


def input_product(inputs: Tensor, weights: Weights) -> Tensor:
    """What the inputs of all steps add to the gates."""
    weight, bias = weights.of_inputs.to(inputs.dtype), weights.bias.to(inputs.dtype)
    if weight.dim() > 2:
        return torch.einsum("tmbi,mgi->tmbg", inputs, weight).contiguous() + bias.unsqueeze(-2)
    return product(inputs.flatten(0, 1), weight, bias).unflatten(0, inputs.shape[:2])


def weight_gradients(
    grad_gates: Tensor, factors: Sequence[Tensor], dtype: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    # Over steps and rows, not over models.
    bias = grad_gates.sum((0, -2), dtype=dtype)
    if grad_gates.dim() > 3:
        products = [torch.einsum("tmbg,tmbi->mgi", grad_gates, factor) for factor in factors]
    else:
        rows = grad_gates.flatten(0, 1)
        products = [product_over_rows(rows, factor.flatten(0, 1)) for factor in factors]
    return [gradient.to(dtype) for gradient in products], bias


def hyperbolic_tangent(values: Tensor) -> Tensor:
    """tanh(x) = 2 σ(2x) − 1, as on a CPU PyTorch's own takes several times as long as its σ."""
    if values.device.type != "cpu":
        return values.tanh()
    return values.mul(2).sigmoid_().mul_(2).sub_(1)


def begin(like: Tensor, start: Tensor, steps: int) -> Tensor:
    """Room for a state before each step and after the last, the first of them given."""
    states = like.new_empty(steps + 1, *start.shape)
    states[0] = start
    return states


def as_own(tensor: Tensor) -> Tensor:
    """A copy to be written to, laid out as its shape says whatever the tensor's strides are."""
    return tensor.clone(memory_format=torch.contiguous_format)
