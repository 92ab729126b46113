"""The kernels on a GPU: products by cuBLAS, all else of a step in one Triton kernel.

The loops are those of :mod:`lstm_lm.model.fused.torch_kernels`. Two launches a step each way would
still cost more than they compute, so a sequence becomes a CUDA graph, launched as one.
``TRITON_INTERPRET=1`` runs the same kernels on a CPU, for tests.

A Triton kernel is the pointwise part of a cell's step, one each way, after the products. A lane
computes one unit of one row; ``size`` is the number of units, ``elements`` that of all rows. Gates
lie as in ``torch.nn``, in blocks of ``size``. Numbers are computed in the dtype of the state and
stored in that of the sequence. Triton has no hyperbolic tangent: tanh(x) = 2 σ(2x) − 1.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from lstm_lm.config import Cell
from lstm_lm.errors import SettingsError
from lstm_lm.model.fused import torch_kernels
from lstm_lm.model.fused.torch_kernels import (
    AddProduct,
    CellSteps,
    Saved,
    State,
    Tensors,
    Weights,
    backward_loop,
    forward_loop,
    weight_gradients,
)

__all__ = ["backward", "forward", "weight_gradients"]

BLOCK = 256  # units that one program computes
MOST_GRAPHS = 16  # that are kept, each with memory of its own


def check_device(device: torch.device) -> None:
    """Check that the kernels can run on the device.

    Raises:
        SettingsError: if it is no GPU, and Triton's interpreter is not asked for either.
    """
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise SettingsError(
            f"model.backend=triton needs a GPU, and the device is {device.type}: choose "
            "model.backend=cpp or torch"
        )


def forward(cell: Cell, inputs: Tensor, weights: Weights, state: State) -> Saved:
    return replayed(run_forward, cell, inputs, *weights, state)


def backward(
    cell: Cell, grad_outputs: Tensor, grad_state: State, weight_hh: Tensor, saved: Saved
) -> tuple[Tensors, State]:
    return replayed(run_backward, cell, grad_outputs, grad_state, weight_hh, saved)


def run_forward(cell: Cell, inputs: Tensor, *weights_and_state: Any) -> Saved:
    *weights, state = weights_and_state
    return forward_loop(CELLS[cell], inputs, Weights(*weights), state)


def run_backward(
    cell: Cell, grad_outputs: Tensor, grad_state: State, weight_hh: Tensor, saved: Saved
) -> tuple[Tensors, State]:
    if cell is not Cell.gru:
        return backward_loop(CELLS[cell], grad_outputs, grad_state, weight_hh, saved)
    # A GRU's gradient goes on through the gates and past them. What goes past is kept in a tensor
    # of its own, which the kernel adds, as adding it outside would be one more launch a step.
    grad_state = *grad_state, torch.zeros_like(grad_state[0])
    grads, (through_gates, past_gates) = backward_loop(
        CELLS[cell], grad_outputs, grad_state, weight_hh, saved
    )
    return grads, (through_gates + past_gates,)


def lstm_forward(
    sums: Tensor, _: Tensor, before: State, after: State, kept: Tensor, dtype: torch.dtype
) -> None:
    (_, cell_before), (hidden, cell) = before, after
    launch(lstm_step, cell, sums, cell_before, cell, hidden, kept)


def lstm_saved(saved: Saved, dtype: torch.dtype) -> Tensors:
    _, cells, gates = saved
    return gates, cells[:-1], cells[1:]


def lstm_backward(
    grad_state: State, grads: Tensor, grad_before: Tensor, add_product: AddProduct, local: Tensors
) -> Tensor:
    (grad_hidden, grad_cell), [grads] = grad_state, grads
    # Only after the last step it has another dtype, that of the state.
    grad_hidden = grad_hidden.to(grads.dtype)
    launch(lstm_step_backward, grad_cell, grad_hidden, *local, grad_cell, grads)
    return add_product(grad_before)


def gru_forward(
    sums: Tensor, from_input: Tensor, before: State, after: State, kept: Tensor, dtype: torch.dtype
) -> None:
    launch(gru_step, after[0], sums, from_input, *before, *after, kept)


def gru_saved(saved: Saved, dtype: torch.dtype) -> Tensors:
    hiddens, gates = saved
    return gates, hiddens[:-1]


def gru_backward(
    grad_state: State, grads: Tensor, grad_before: Tensor, add_product: AddProduct, local: Tensors
) -> Tensor:
    through_gates, past_gates = grad_state
    through_gates = through_gates.to(grads.dtype)
    launch(gru_step_backward, past_gates, through_gates, *local, past_gates, *grads)
    return add_product(grad_before)


# A plain network's step is a product and one function: nothing to fuse.
CELLS = {
    Cell.lstm: CellSteps(4, 4, 1, lstm_forward, lstm_saved, lstm_backward),
    Cell.gru: CellSteps(3, 4, 2, gru_forward, gru_saved, gru_backward),
    Cell.rnn: torch_kernels.CELLS[Cell.rnn],
}


def launch(kernel: triton.KernelInterface, like: Tensor, *tensors: Tensor) -> None:
    """Run a step's kernel, with a lane for each unit of a state like the one given."""
    elements = like.numel()
    kernel[(triton.cdiv(elements, BLOCK),)](*tensors, like.shape[-1], elements, BLOCK)


class Graph:
    """A function captured as a CUDA graph, for tensors of certain shapes whatever their values."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.arguments = copied(arguments)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = function(*self.arguments)

    def __call__(self, *arguments: Any) -> Any:
        for static, given in zip(tensors_in(self.arguments), tensors_in(arguments), strict=True):
            static.copy_(given)
        self.graph.replay()
        # The next replay writes to the same memory, maybe before these results were used.
        return copied(self.results)


graphs: OrderedDict[Any, Graph | None] = OrderedDict()


def replayed(function: Callable[..., Any], cell: Cell, *arguments: Any) -> Any:
    """The function's results; on a GPU a graph's, from the second call with such shapes on.

    The first call runs without a graph. It compiles and warms up what a capture must not meet for
    the first time, and shapes that come only once cost no capture.

    Args:
        arguments: tensors, None, or tuples of them; so are the results.
    """
    tensors = list(tensors_in(arguments))
    if tensors[0].device.type != "cuda":
        return function(cell, *arguments)
    # What is captured in inference mode cannot be written to outside of it.
    mode = torch.is_inference_mode_enabled()
    key = function, cell, mode, *((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
    if key not in graphs:
        graphs[key] = None
        return function(cell, *arguments)
    graph = graphs.pop(key) or Graph(function, (cell, *arguments))
    graphs[key] = graph  # to the end, where the newest are
    while len(graphs) > MOST_GRAPHS:
        graphs.popitem(last=False)
    return graph(*arguments)


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from tensors_in(part)


def copied(value: Any) -> Any:
    """Copies of the tensors, in the same tuples."""
    if isinstance(value, Tensor):
        return value.clone()
    return tuple(map(copied, value)) if isinstance(value, tuple) else value


@no_type_check  # Triton compiles the source, which a checker of types must not wrap
@triton.jit
def lstm_step(sums, before, after, hidden, gates, size, elements, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < elements
    gate = offsets // size * 4 * size + offsets % size
    dtype = before.dtype.element_ty
    i = tl.sigmoid(tl.load(sums + gate, mask).to(dtype))
    f = tl.sigmoid(tl.load(sums + gate + size, mask).to(dtype))
    g = 2 * tl.sigmoid(2 * tl.load(sums + gate + 2 * size, mask).to(dtype)) - 1
    o = tl.sigmoid(tl.load(sums + gate + 3 * size, mask).to(dtype))
    cell = f * tl.load(before + offsets, mask) + i * g
    tl.store(after + offsets, cell, mask)
    tl.store(hidden + offsets, o * (2 * tl.sigmoid(2 * cell) - 1), mask)
    tl.store(gates + gate, i, mask)
    tl.store(gates + gate + size, f, mask)
    tl.store(gates + gate + 2 * size, g, mask)
    tl.store(gates + gate + 3 * size, o, mask)


@no_type_check
@triton.jit
def lstm_step_backward(
    grad_hidden, gates, before, after, grad_cell, grad_gates, size, elements, BLOCK: tl.constexpr
):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < elements
    gate = offsets // size * 4 * size + offsets % size
    dtype = before.dtype.element_ty
    i = tl.load(gates + gate, mask).to(dtype)
    f = tl.load(gates + gate + size, mask).to(dtype)
    g = tl.load(gates + gate + 2 * size, mask).to(dtype)
    o = tl.load(gates + gate + 3 * size, mask).to(dtype)
    tanh_cell = 2 * tl.sigmoid(2 * tl.load(after + offsets, mask)) - 1
    hidden = tl.load(grad_hidden + offsets, mask).to(dtype)
    cell = tl.load(grad_cell + offsets, mask) + hidden * o * (1 - tanh_cell * tanh_cell)
    tl.store(grad_cell + offsets, cell * f, mask)
    tl.store(grad_gates + gate, cell * g * i * (1 - i), mask)
    tl.store(grad_gates + gate + size, cell * tl.load(before + offsets, mask) * f * (1 - f), mask)
    tl.store(grad_gates + gate + 2 * size, cell * i * (1 - g * g), mask)
    tl.store(grad_gates + gate + 3 * size, hidden * tanh_cell * o * (1 - o), mask)


@no_type_check
@triton.jit
def gru_step(sums, from_input, before, after, gates, size, elements, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < elements
    row, unit = offsets // size, offsets % size
    gate, saved = row * 3 * size + unit, row * 4 * size + unit
    dtype = tl.float64 if before.dtype.element_ty == tl.float64 else tl.float32
    inputs, hidden = from_input + gate, sums + gate
    r = tl.sigmoid(tl.load(inputs, mask).to(dtype) + tl.load(hidden, mask).to(dtype))
    z = tl.sigmoid(tl.load(inputs + size, mask).to(dtype) + tl.load(hidden + size, mask).to(dtype))
    candidate = tl.load(hidden + 2 * size, mask).to(dtype)
    n = 2 * tl.sigmoid(2 * (tl.load(inputs + 2 * size, mask).to(dtype) + r * candidate)) - 1
    tl.store(after + offsets, (1 - z) * n + z * tl.load(before + offsets, mask).to(dtype), mask)
    tl.store(gates + saved, r, mask)
    tl.store(gates + saved + size, z, mask)
    tl.store(gates + saved + 2 * size, n, mask)
    tl.store(gates + saved + 3 * size, candidate, mask)


@no_type_check
@triton.jit
def gru_step_backward(
    through_gates,
    gates,
    before,
    past_gates,
    from_input,
    from_hidden,
    size,
    elements,
    BLOCK: tl.constexpr,
):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < elements
    row, unit = offsets // size, offsets % size
    gate, saved = row * 3 * size + unit, row * 4 * size + unit
    dtype = past_gates.dtype.element_ty
    r = tl.load(gates + saved, mask).to(dtype)
    z = tl.load(gates + saved + size, mask).to(dtype)
    n = tl.load(gates + saved + 2 * size, mask).to(dtype)
    candidate = tl.load(gates + saved + 3 * size, mask).to(dtype)
    hidden = tl.load(through_gates + offsets, mask).to(dtype) + tl.load(past_gates + offsets, mask)
    grad_n = hidden * (1 - z) * (1 - n * n)
    grad_r = grad_n * candidate * r * (1 - r)
    grad_z = hidden * (tl.load(before + offsets, mask).to(dtype) - n) * z * (1 - z)
    tl.store(past_gates + offsets, hidden * z, mask)
    tl.store(from_input + gate, grad_r, mask)
    tl.store(from_input + gate + size, grad_z, mask)
    tl.store(from_input + gate + 2 * size, grad_n, mask)
    tl.store(from_hidden + gate, grad_r, mask)
    tl.store(from_hidden + gate + size, grad_z, mask)
    tl.store(from_hidden + gate + 2 * size, grad_n * r, mask)
