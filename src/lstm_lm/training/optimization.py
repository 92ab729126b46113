"""Optimizer, gradient clipping, and the learning rate over the training budget.

    constant   the same throughout
    linear     falls to zero over the budget
    cosine     falls to zero over the budget along half a cosine (Loshchilov & Hutter 2017)

Each may begin with a warm-up, in which the learning rate rises from near zero. The budget is
epochs, steps or minutes, whichever is used up first.
"""

import math
from collections.abc import Callable, Iterable
from typing import assert_never

import torch
from jaxtyping import Float
from lightning import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from lstm_lm.config import OptimizerConfig, OptimizerName, Schedule


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimizerConfig, fused: bool = True
) -> Optimizer:
    # Adam keeps two moments per weight; the fused update passes through memory only once.
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
    """Scheduler that sets the learning rate of each step.

    Args:
        spent: returns the share of the training budget used after a number of steps.
    """
    return LambdaLR(optimizer, lambda step: learning_rate_factor(config, step, spent(step)))


def learning_rate_factor(config: OptimizerConfig, step: int, spent: float) -> float:
    """Factor of the learning rate in the step after ``step`` steps."""
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
    """Scale the gradients down to a global norm of ``largest``; return the norm before.

    As in Pascanu et al. (2013) and the chapter of d2l.ai: without the small constant that PyTorch
    adds to the norm. Nothing waits for the device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = get_total_norm(gradients)
    if largest is not None:
        torch._foreach_mul_(gradients, (largest / norm).clamp(max=1.0))
    return norm


def budget_share(trainer: Trainer, is_shared: bool = False) -> Callable[[int], float]:
    """Function from a number of optimizer steps to the used share of the budget, 1 at the end.

    Minutes are wall time from the first step on, validation included. In a resumed run the time
    before its checkpoint counts; the time from there to the interruption does not.

    Args:
        is_shared: True if all ranks ask at the same time; they then use the clock of rank 0.
    """
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    try:
        steps = trainer.estimated_stepping_batches  # infinite if only time is limited
    except MisconfigurationException:  # unknown with a GradientAccumulationScheduler
        steps = math.inf

    def spent(step: int) -> float:
        shares = [step / steps, *(used_of(timer) for timer in timers)]
        epochs = trainer.max_epochs or 0
        if steps == math.inf and epochs > 0:
            shares.append(epochs_done(trainer) / epochs)
        share = min(1.0, max(shares))
        if is_shared and timers and trainer.world_size > 1:
            share = trainer.strategy.broadcast(share)
        return share

    return spent


def used_of(timer: Timer) -> float:
    elapsed, remaining = timer.time_elapsed(), timer.time_remaining()
    return 0.0 if remaining is None else elapsed / (elapsed + remaining)


def epochs_done(trainer: Trainer) -> float:
    """Number of epochs done, fractions included."""
    batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    return batches / trainer.num_training_batches
