"""The pointwise part of a cell's step, after the products: one Triton kernel each way.

A lane computes one unit of one row; ``size`` is the number of units, ``elements`` that of all rows.
Gates lie as in ``torch.nn``, in blocks of ``size``. Numbers are computed in the dtype of the state
and stored in that of the sequence. Triton has no hyperbolic tangent: tanh(x) = 2 σ(2x) − 1.
"""

from typing import no_type_check

import triton
import triton.language as tl


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
