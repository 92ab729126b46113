"""Matrix products by oneDNN where PyTorch would take a slower library.

On a CPU PyTorch multiplies float32 matrices with MKL, which uses AVX-512 on Intel's processors
only; on AMD's with AVX-512 oneDNN is faster. GFLOP/s on one thread, MKL and oneDNN, for
[rows, in] @ [in, out]:

    rows    in   out    Zen 5        Zen 4        Zen 5, AVX2 only    Zen 3
    2048  2048  2048    114   256    89   106     115   132           90   77
      32   256  1024    103   175    76    93     107   106           75   64
      64   512  2048    108   231                 115   126           83   71
    2240  1024  4096    113   208                 109   118           80   65

PyTorch offers oneDNN's by private operators only. They are used on the first two of these kinds
of processors, where they exist and answer right; elsewhere the public ones are, also on Intel's,
which were not measured. The processor decides and no measurement, so that a run has the same bits
every time.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lstm_lm.machine import leaves_avx512_unused

Multiply = Callable[[Tensor, Tensor], Tensor]  # values @ weight.T

# Below so many multiplications oneDNN's calls cost more than they save.
WORTH_ONEDNN = 1 << 20


def product_with(weight: Tensor, rows: int, times: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of ``values`` and ``added``: ``values @ weight.T + added``.

    Args:
        weight: [out, in].
        rows: of the values.
        times: how often it will be called; weights are packed if that pays.
    """
    if weight.numel() * rows >= WORTH_ONEDNN and times > 1 and onednn_multiplies(weight):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        add = torch.ops.mkldnn._linear_pointwise.binary
        return lambda values, added: add(values, added, packed, None, "add")
    return lambda values, added: torch.addmm(added, values, weight.T)


def product(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``values @ weight.T + bias``, the values being [rows, in] and the weight [out, in]."""
    if values.numel() * weight.shape[0] >= WORTH_ONEDNN and onednn_multiplies(weight):
        return onednn_product(values, weight, bias)
    return torch.nn.functional.linear(values, weight, bias)


def product_over_rows(left: Tensor, right: Tensor) -> Tensor:
    """``left.T @ right``, the one being [rows, out] and the other [rows, in]."""
    # oneDNN is quicker where the longer side is its weight.
    if left.shape[1] > right.shape[1]:
        return product(right.T, left.T).T
    return product(left.T, right.T)


class FastLinear(nn.Linear):
    """``nn.Linear`` by the products of this module; it can be differentiated once only."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``torch.nn.functional.linear``, for values with any number of axes before the last."""
    if torch.is_autocast_enabled(values.device.type) or not onednn_multiplies(weight):
        return torch.nn.functional.linear(values, weight, bias)
    return LinearFunction.apply(values, weight, bias)


class LinearFunction(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(values, weight)
        sums = product(values.flatten(0, -2), weight, bias)
        return sums.unflatten(0, values.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        values, weight = ctx.saved_tensors
        rows, grad_values = grad.flatten(0, -2), None
        if ctx.needs_input_grad[0]:
            grad_values = product(rows, weight.T).view_as(values)
        return grad_values, product_over_rows(rows, values.flatten(0, -2)), rows.sum(0)


def every_product(device: torch.device, dtype: torch.dtype) -> list[Multiply]:
    """The ways to multiply here, whichever is faster."""
    if device.type == "cpu" and dtype == torch.float32 and onednn_answers():
        return [torch.nn.functional.linear, onednn_product]
    return [torch.nn.functional.linear]


def onednn_product(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")


def onednn_multiplies(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and takes_onednn()


@cache
def takes_onednn() -> bool:
    return leaves_avx512_unused() and onednn_answers()


@cache
def onednn_answers() -> bool:
    """True if the private operators exist and compute what is expected of them."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        values, weight, added = torch.ones(2, 3), torch.ones(4, 3), torch.ones(2, 4)
        operators = torch.ops.mkldnn
        packed = operators._reorder_linear_weight(weight, 2)
        sums = operators._linear_pointwise.binary(values, added, packed, None, "add")
        products = onednn_product(values, weight, added[0])
        return bool((sums == 4).all() and (products == 4).all())
    except (AttributeError, RuntimeError, TypeError):
        return False
