"""Matrix products for sequences, with oneDNN where PyTorch would take a slower library.

On a CPU PyTorch multiplies float32 matrices with MKL, which on AMD's Zen 5 reaches 100 of the
processor's 220 GFLOP/s where oneDNN reaches 200. PyTorch reaches oneDNN's by private operators
only. They are used where they exist and answer right, else the public ones are.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear

# Below so many multiplications oneDNN's calls cost more than they save.
WORTH_ONEDNN = 1 << 20


def product_with(weight: Tensor, rows: int, times: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of ``added`` and ``values``: ``added + values @ weight.T``.

    Args:
        weight: [out, in], or [models, out, in] for values [models, rows, in].
        rows: of the values.
        times: how often it will be called; weights are packed if that pays.
    """
    if weight.dim() > 2:
        transposed = weight.transpose(-1, -2)
        return lambda added, values: torch.baddbmm(added, values, transposed)
    if weight.numel() * rows >= WORTH_ONEDNN and times > 1 and onednn_multiplies(weight):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        add = torch.ops.mkldnn._linear_pointwise.binary
        return lambda added, values: add(values, added, packed, None, "add")
    return lambda added, values: torch.addmm(added, values, weight.T)


def product(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``values @ weight.T + bias``, the values being [rows, in] and the weight [out, in]."""
    if values.numel() * weight.shape[0] >= WORTH_ONEDNN and onednn_multiplies(weight):
        return torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
    return linear(values, weight, bias)


def onednn_multiplies(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and onednn_answers()


@cache
def onednn_answers() -> bool:
    """Whether the private operators exist and compute what they are taken for."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        values, weight, added = torch.ones(2, 3), torch.ones(4, 3), torch.ones(2, 4)
        operators = torch.ops.mkldnn
        packed = operators._reorder_linear_weight(weight, 2)
        sums = operators._linear_pointwise.binary(values, added, packed, None, "add")
        products = operators._linear_pointwise(values, weight, added[0], "none", [], "")
        return bool((sums == 4).all() and (products == 4).all())
    except (AttributeError, RuntimeError, TypeError):
        return False
