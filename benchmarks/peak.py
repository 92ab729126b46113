"""Peak speed of PyTorch's matrix products on this machine: the yardstick for models."""

import torch

from benchmarks.device import seconds
from lstm_lm.model.products import every_product

SIZE = {"cpu": 2048, "cuda": 8192}  # of square matrices


def peak(device: torch.device, dtype: torch.dtype, samples: int) -> float:
    """Peak floating point operations per second, with PyTorch's current number of threads."""
    size = SIZE[device.type]
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    fastest = min(
        seconds(lambda way=way: way(left, right), device)  # type: ignore[misc]
        for way in every_product(device, dtype)
        for _ in range(1 + samples)  # the first is slow
    )
    return 2 * size**3 / fastest
