"""Initialization of the weights.

Cores draw as ``torch.nn``'s do, parameter by parameter in the same order, so that all cores of
a cell are initialized equal given the same seed.
"""

import math

import torch
from torch import Tensor, nn

INPUT, FORGET = 0, 1  # blocks of an LSTM's rows; a GRU's second is its update gate, which keeps


@torch.no_grad()
def init_as_torch(core: nn.Module, hidden_size: int, second_bias: bool) -> None:
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
def init_as_d2l(model: nn.Module) -> None:
    """N(0, 0.01²) for weights and zero for biases, as in the chapter of d2l.ai."""
    for name, parameter in model.named_parameters():
        if "bias" in name:
            parameter.zero_()
        else:
            parameter.normal_(std=0.01)


@torch.no_grad()
def init_uniform(model: nn.Module, bound: float) -> None:
    """U(±bound) for every parameter that is trained, as in Zaremba et al. (2014)."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.uniform_(-bound, bound)


@torch.no_grad()
def init_chrono(core: nn.Module, is_lstm: bool, longest: int) -> None:
    """Let each unit forget at a rate of its own, the slowest over about ``longest`` steps.

    A gate of sigmoid(b) keeps a value for about 1 + exp(b) steps. So b is drawn as the logarithm
    of U(1, longest - 1), and an LSTM's input gate is as far shut as its forget gate is open.

    Source: Tallec & Ollivier (2018), chrono initialisation.
    """
    size = core.get_parameter("weight_hh_l0").shape[1]
    open_for = torch.empty(size).uniform_(1, longest - 1).log()
    set_bias(core, FORGET, open_for)
    if is_lstm:
        set_bias(core, INPUT, -open_for)


@torch.no_grad()
def set_bias(core: nn.Module, gate: int, values: Tensor) -> None:
    """Set the sum of a gate's biases; the second of them becomes zero."""
    size = core.get_parameter("weight_hh_l0").shape[1]
    rows = slice(gate * size, (gate + 1) * size)
    core.get_parameter("bias_ih_l0")[rows] = values
    core.get_parameter("bias_hh_l0")[rows] = 0
