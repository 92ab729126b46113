"""The fastest matrix products that this machine gets out of PyTorch, to measure others by."""

from collections.abc import Callable

import torch
from torch import Tensor

from lstm_lm.benchmark.device import seconds

SIZE = {"cpu": 2048, "cuda": 8192}  # of square matrices


def peak(device: torch.device, dtype: torch.dtype, samples: int) -> float:
    """Floating point operations per second, with the threads that are set."""
    size = SIZE[device.type]
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    fastest = min(
        seconds(lambda way=way: way(left, right), device)  # type: ignore[misc]
        for way in products(device, dtype)
        for _ in range(1 + samples)  # the first is slow
    )
    return 2 * size**3 / fastest


def products(device: torch.device, dtype: torch.dtype) -> list[Callable[[Tensor, Tensor], Tensor]]:
    ways: list[Callable[[Tensor, Tensor], Tensor]] = [torch.matmul]
    # On some processors MKL, which multiplies float32, reaches half of what oneDNN does.
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if device.type == "cpu" and dtype == torch.float32 and onednn is not None:
        ways.append(lambda left, right: onednn(left, right, None, "none", [], ""))
    return ways
