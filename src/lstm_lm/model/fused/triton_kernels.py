"""The kernels on a GPU: products by cuBLAS, all else of a step in one Triton kernel.

Two launches a step each way would still cost more than they compute, so a sequence becomes a CUDA
graph, launched as one. For an axis of models see :mod:`lstm_lm.model.fused.torch_kernels`.
``TRITON_INTERPRET=1`` runs the same kernels on a CPU, for tests.
"""

import torch
import triton
from torch import Tensor

import lstm_lm.model.fused.torch_kernels as torch_kernels
from lstm_lm.errors import SettingsError
from lstm_lm.model.fused.cuda_graph import replayed
from lstm_lm.model.fused.layer import Weights
from lstm_lm.model.fused.torch_kernels import as_own, begin, input_product, weight_gradients
from lstm_lm.model.fused.triton_steps import (
    gru_step,
    gru_step_backward,
    lstm_step,
    lstm_step_backward,
)

__all__ = [
    "gru_backward",
    "gru_forward",
    "lstm_backward",
    "lstm_forward",
    "rnn_backward",
    "rnn_forward",
    "weight_gradients",
]

BLOCK = 256  # units a program computes


def refuse_device(device: torch.device) -> None:
    """
    Raises:
        SettingsError: if there is no GPU for the kernels, nor Triton's interpreter asked for.
    """
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise SettingsError(
            f"model.backend=triton needs a GPU, and the device is {device.type}: choose "
            "model.backend=cpp or torch"
        )


def lstm_forward(
    inputs: Tensor, weights: Weights, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return replayed(run_lstm_forward, inputs, *weights, hidden, cell)


def lstm_backward(
    grad_outputs: Tensor,
    grad_hidden: Tensor,
    grad_cell: Tensor,
    weight: Tensor,
    cells: Tensor,
    gates: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return replayed(run_lstm_backward, grad_outputs, grad_hidden, grad_cell, weight, cells, gates)


def gru_forward(
    inputs: Tensor, weights: Weights, hidden_bias: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    return replayed(run_gru_forward, inputs, *weights, hidden_bias, hidden)


def gru_backward(
    grad_outputs: Tensor, grad_hidden: Tensor, weight: Tensor, hiddens: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return replayed(run_gru_backward, grad_outputs, grad_hidden, weight, hiddens, gates)


# A plain network's step is a product and one function: nothing to fuse.


def rnn_forward(inputs: Tensor, weights: Weights, hidden: Tensor) -> Tensor:
    [hiddens] = replayed(run_rnn_forward, inputs, *weights, hidden)
    return hiddens


def rnn_backward(
    grad_outputs: Tensor, grad_hidden: Tensor, weight: Tensor, hiddens: Tensor
) -> tuple[Tensor, Tensor]:
    return replayed(torch_kernels.rnn_backward, grad_outputs, grad_hidden, weight, hiddens)


def run_rnn_forward(
    inputs: Tensor, of_inputs: Tensor, of_hidden: Tensor, bias: Tensor, hidden: Tensor
) -> tuple[Tensor]:
    return (torch_kernels.rnn_forward(inputs, Weights(of_inputs, of_hidden, bias), hidden),)


def run_lstm_forward(
    inputs: Tensor,
    of_inputs: Tensor,
    of_hidden: Tensor,
    bias: Tensor,
    hidden: Tensor,
    cell: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    from_inputs = input_product(inputs, Weights(of_inputs, of_hidden, bias))
    hiddens, cells = begin(inputs, hidden, len(inputs)), begin(cell, cell, len(inputs))
    gates = torch.empty_like(from_inputs)
    transposed = of_hidden.to(inputs.dtype).mT
    for step, from_input in enumerate(from_inputs):
        sums = add_product(from_input, hiddens[step], transposed)
        launch(lstm_step, cell, sums, cells[step], cells[step + 1], hiddens[step + 1], gates[step])
    return hiddens, cells, gates


def run_lstm_backward(
    grad_outputs: Tensor,
    grad_hidden: Tensor,
    grad_cell: Tensor,
    weight: Tensor,
    cells: Tensor,
    gates: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    weight, grad_gates = weight.to(gates.dtype), torch.empty_like(gates)
    grad_cell = as_own(grad_cell)
    grad_hidden = as_own(grad_hidden + grad_outputs[-1]).to(gates.dtype)
    nothing = torch.zeros_like(grad_outputs[0])
    for step in reversed(range(len(gates))):
        launch(
            lstm_step_backward,
            grad_cell,
            grad_hidden,
            gates[step],
            cells[step],
            cells[step + 1],
            grad_cell,
            grad_gates[step],
        )
        added = grad_outputs[step - 1] if step else nothing
        grad_hidden = add_product(added, grad_gates[step], weight)
    return grad_gates, grad_hidden.to(grad_cell.dtype), grad_cell


def run_gru_forward(
    inputs: Tensor,
    of_inputs: Tensor,
    of_hidden: Tensor,
    bias: Tensor,
    hidden_bias: Tensor,
    hidden: Tensor,
) -> tuple[Tensor, Tensor]:
    from_inputs = input_product(inputs, Weights(of_inputs, of_hidden, bias))
    hiddens = begin(inputs, hidden, len(inputs))
    gates = inputs.new_empty(*inputs.shape[:-1], 4 * hidden.shape[-1])
    transposed = of_hidden.to(inputs.dtype).mT
    each_row = hidden_bias.to(inputs.dtype).unsqueeze(-2).expand(from_inputs.shape[1:])
    for step, from_input in enumerate(from_inputs):
        sums = add_product(each_row, hiddens[step], transposed)
        launch(gru_step, hidden, sums, from_input, hiddens[step], hiddens[step + 1], gates[step])
    return hiddens, gates


def run_gru_backward(
    grad_outputs: Tensor, grad_hidden: Tensor, weight: Tensor, hiddens: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    weight, kept = weight.to(gates.dtype), as_own(torch.zeros_like(grad_hidden))
    grad_from_inputs = gates.new_empty(*gates.shape[:-1], 3 * hiddens.shape[-1])
    grad_from_hiddens = torch.empty_like(grad_from_inputs)
    through_gates = as_own(grad_hidden + grad_outputs[-1]).to(gates.dtype)
    nothing = torch.zeros_like(grad_outputs[0])
    for step in reversed(range(len(gates))):
        launch(
            gru_step_backward,
            kept,
            through_gates,
            gates[step],
            hiddens[step],
            kept,
            grad_from_inputs[step],
            grad_from_hiddens[step],
        )
        added = grad_outputs[step - 1] if step else nothing
        through_gates = add_product(added, grad_from_hiddens[step], weight)
    return grad_from_inputs, grad_from_hiddens, through_gates + kept


def add_product(added: Tensor, left: Tensor, right: Tensor) -> Tensor:
    multiply = torch.baddbmm if left.dim() > 2 else torch.addmm
    return multiply(added, left, right)


def launch(kernel: triton.KernelInterface, like: Tensor, *tensors: Tensor) -> None:
    """Run a step's kernel, with a lane for each unit of a state like the one given."""
    elements = like.numel()
    kernel[(triton.cdiv(elements, BLOCK),)](*tensors, like.shape[-1], elements, BLOCK)
