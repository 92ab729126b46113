"""How weights are drawn before training.

Cores draw as ``torch.nn``'s do, parameter by parameter in the same order, so that all cores of
a cell start equal given the same seed.
"""

import math

import torch
from torch import nn


@torch.no_grad()
def start_as_torch(core: nn.Module, hidden_size: int, second_bias: bool) -> None:
    """U(±1/√hidden) for every parameter of a core, biases too."""
    bound = 1 / math.sqrt(hidden_size)
    for parameter in core.parameters():
        parameter.uniform_(-bound, bound)
    if not second_bias:
        drop_second_bias(core)


@torch.no_grad()
def drop_second_bias(core: nn.Module) -> None:
    """Hold the second bias at zero, where it has no effect."""
    core.get_parameter("bias_hh_l0").zero_().requires_grad_(False)


@torch.no_grad()
def start_as_chapter(model: nn.Module) -> None:
    """N(0, 0.01²) for weights and zero for biases, as in the chapter of d2l.ai."""
    for name, parameter in model.named_parameters():
        if "bias" in name:
            parameter.zero_()
        else:
            parameter.normal_(std=0.01)
