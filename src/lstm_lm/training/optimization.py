"""How weights move: optimizer, clipping, and the learning rate over time.

    constant   the same throughout
    linear     falls to zero over the budget
    cosine     falls to zero over the budget along half a cosine (Loshchilov & Hutter 2017)

Each may begin with a warm-up, over which the learning rate rises from near zero. The budget is
epochs, steps or minutes alike; see :mod:`lstm_lm.training.budget`.
"""

import math
from collections.abc import Callable, Iterable
from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from lstm_lm.config import OptimizerConfig, OptimizerName, Schedule


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimizerConfig, fused: bool = True
) -> Optimizer:
    # Adam keeps two moments per weight: fused, its update goes through memory only once.
    rate, decay = config.learning_rate, config.weight_decay
    match config.name:
        case OptimizerName.sgd:
            return SGD(parameters, rate, momentum=config.momentum, weight_decay=decay)
        case OptimizerName.adam:
            return Adam(parameters, rate, weight_decay=decay, fused=fused)
        case OptimizerName.adamw:
            return AdamW(parameters, rate, weight_decay=decay, fused=fused)
        case unhandled:
            assert_never(unhandled)


def build_schedule(
    optimizer: Optimizer, config: OptimizerConfig, spent: Callable[[int], float]
) -> LRScheduler:
    """What sets the learning rate of each step.

    Args:
        spent: the share of the training budget that is used up after so many steps.
    """
    return LambdaLR(optimizer, lambda step: learning_rate_factor(config, step, spent(step)))


def learning_rate_factor(config: OptimizerConfig, step: int, spent: float) -> float:
    """What the learning rate is multiplied by in the step after ``step`` steps."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    match config.schedule:
        case Schedule.constant:
            return warmup
        case Schedule.linear:
            return warmup * (1 - spent)
        case Schedule.cosine:
            return warmup * (1 + math.cos(math.pi * spent)) / 2
        case unhandled:
            assert_never(unhandled)


@torch.no_grad()
def clip_by_global_norm(
    parameters: Iterable[nn.Parameter], largest: float | None
) -> Float[Tensor, ""]:
    """The norm of all gradients taken as one vector; they are scaled down to ``largest``.

    As Pascanu et al. (2013) and the chapter of d2l.ai have it: without the small constant that
    PyTorch adds to the norm. Nothing waits for the device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = get_total_norm(gradients)
    if largest is not None:
        torch._foreach_mul_(gradients, (largest / norm).clamp(max=1.0))
    return norm
