"""The states of all random number generators, as plain values for a checkpoint."""

import hashlib
import random
from typing import Any

import numpy
import torch


def random_states() -> dict[str, Any]:
    """Random states of PyTorch (on the CPU and the training GPU), Python and NumPy."""
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    kind, keys, *rest = numpy.random.get_state()
    return {
        "cpu": torch.get_rng_state(),
        "gpu": gpu,
        "python": random.getstate(),
        "numpy": (kind, list(map(int, keys)), *rest),
    }


def set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if states["gpu"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["gpu"])
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])


def seed_rank(rank: int) -> None:
    """Seed a rank: its dropout differs from rank 0's, and is the same at each start."""
    digest = hashlib.sha256(f"rank {rank}, seed {torch.initial_seed()}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))
