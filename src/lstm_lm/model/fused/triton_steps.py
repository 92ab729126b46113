"""What is left of a cell's step after the products, one Triton kernel each way.

A lane computes one unit of one row; ``size`` is the number of units, ``elements`` that of all rows.
Gates lie as in ``torch.nn``, in blocks of ``size``. Numbers are computed as the state has them, and
stored as the sequence has them. Triton has no hyperbolic tangent of its own: tanh(x) = 2 σ(2x) − 1.
"""

from typing import no_type_check

import triton
import triton.language as tl


@no_type_check  # Triton compiles the source, which a checker of types must not wrap
@triton.jit
def lstm_step(sums, before, after, hidden, gates, size, elements, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    gate = at // size * 4 * size + at % size
    number = before.dtype.element_ty
    i = tl.sigmoid(tl.load(sums + gate, inside).to(number))
    f = tl.sigmoid(tl.load(sums + gate + size, inside).to(number))
    g = 2 * tl.sigmoid(2 * tl.load(sums + gate + 2 * size, inside).to(number)) - 1
    o = tl.sigmoid(tl.load(sums + gate + 3 * size, inside).to(number))
    cell = f * tl.load(before + at, inside) + i * g
    tl.store(after + at, cell, inside)
    tl.store(hidden + at, o * (2 * tl.sigmoid(2 * cell) - 1), inside)
    tl.store(gates + gate, i, inside)
    tl.store(gates + gate + size, f, inside)
    tl.store(gates + gate + 2 * size, g, inside)
    tl.store(gates + gate + 3 * size, o, inside)


@no_type_check
@triton.jit
def lstm_step_backward(
    grad_hidden, gates, before, after, grad_cell, grad_gates, size, elements, BLOCK: tl.constexpr
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    gate = at // size * 4 * size + at % size
    number = before.dtype.element_ty
    i = tl.load(gates + gate, inside).to(number)
    f = tl.load(gates + gate + size, inside).to(number)
    g = tl.load(gates + gate + 2 * size, inside).to(number)
    o = tl.load(gates + gate + 3 * size, inside).to(number)
    shown = 2 * tl.sigmoid(2 * tl.load(after + at, inside)) - 1
    hidden = tl.load(grad_hidden + at, inside).to(number)
    cell = tl.load(grad_cell + at, inside) + hidden * o * (1 - shown * shown)
    tl.store(grad_cell + at, cell * f, inside)
    tl.store(grad_gates + gate, cell * g * i * (1 - i), inside)
    tl.store(grad_gates + gate + size, cell * tl.load(before + at, inside) * f * (1 - f), inside)
    tl.store(grad_gates + gate + 2 * size, cell * i * (1 - g * g), inside)
    tl.store(grad_gates + gate + 3 * size, hidden * shown * o * (1 - o), inside)


@no_type_check
@triton.jit
def gru_step(sums, from_input, before, after, gates, size, elements, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    row, unit = at // size, at % size
    gate, saved = row * 3 * size + unit, row * 4 * size + unit
    number = tl.float64 if before.dtype.element_ty == tl.float64 else tl.float32
    inputs, hidden = from_input + gate, sums + gate
    r = tl.sigmoid(tl.load(inputs, inside).to(number) + tl.load(hidden, inside).to(number))
    z = tl.sigmoid(
        tl.load(inputs + size, inside).to(number) + tl.load(hidden + size, inside).to(number)
    )
    candidate = tl.load(hidden + 2 * size, inside).to(number)
    n = 2 * tl.sigmoid(2 * (tl.load(inputs + 2 * size, inside).to(number) + r * candidate)) - 1
    tl.store(after + at, (1 - z) * n + z * tl.load(before + at, inside).to(number), inside)
    tl.store(gates + saved, r, inside)
    tl.store(gates + saved + size, z, inside)
    tl.store(gates + saved + 2 * size, n, inside)
    tl.store(gates + saved + 3 * size, candidate, inside)


@no_type_check
@triton.jit
def gru_step_backward(
    through_gates,
    gates,
    before,
    kept,
    from_input,
    from_hidden,
    size,
    elements,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    row, unit = at // size, at % size
    gate, saved = row * 3 * size + unit, row * 4 * size + unit
    number = kept.dtype.element_ty
    r = tl.load(gates + saved, inside).to(number)
    z = tl.load(gates + saved + size, inside).to(number)
    n = tl.load(gates + saved + 2 * size, inside).to(number)
    candidate = tl.load(gates + saved + 3 * size, inside).to(number)
    hidden = tl.load(through_gates + at, inside).to(number) + tl.load(kept + at, inside)
    grad_n = hidden * (1 - z) * (1 - n * n)
    grad_r = grad_n * candidate * r * (1 - r)
    grad_z = hidden * (tl.load(before + at, inside).to(number) - n) * z * (1 - z)
    tl.store(kept + at, hidden * z, inside)
    tl.store(from_input + gate, grad_r, inside)
    tl.store(from_input + gate + size, grad_z, inside)
    tl.store(from_input + gate + 2 * size, grad_n, inside)
    tl.store(from_hidden + gate, grad_r, inside)
    tl.store(from_hidden + gate + size, grad_z, inside)
    tl.store(from_hidden + gate + 2 * size, grad_n * r, inside)
