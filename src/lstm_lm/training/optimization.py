"""Optimizer, gradient clipping, and the learning rate over the training budget.

    sgd        with momentum, plain or Nesterov's (Sutskever et al. 2013)
    rmsprop    divided by the root of the mean square (Tieleman & Hinton 2012); with the mean
               corrected for its start at zero, it is adam with beta1=0
    adam       both moments (Kingma & Ba 2015)
    adamw      with decoupled weight decay (Loshchilov & Hutter 2019)
    muon       orthogonalized momentum for the cores' matrices (Jordan et al. 2024), adamw for the
               rest; see :mod:`lstm_lm.training.muon`

    constant   the same throughout
    linear     falls to zero over the budget
    cosine     falls to zero over the budget along half a cosine (Loshchilov & Hutter 2017)
    one_cycle  rises linearly from a tenth over 45 % of the budget, falls back over as much, and
               then to zero (Smith 2018; the momentum stays)
    multistep  times ``gamma`` after each epoch in ``milestones``

Each may begin with a warm-up, in which the learning rate rises from near zero. The budget is
epochs, steps or minutes, whichever is used up first.
"""

import math
from collections.abc import Callable, Iterable
from typing import assert_never

import torch
from jaxtyping import Float
from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, Timer
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from lstm_lm.config import OptimizerConfig, OptimizerName, Schedule
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.training.muon import MuonWithAdamW

ONE_HOT = "0.weight_ih", "0.project."  # what reads a core's input, in the first layer


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    config: OptimizerConfig,
    fused: bool = True,
    matrices: Iterable[nn.Parameter] = (),
) -> Optimizer:
    """The optimizer of these parameters.

    Args:
        fused: update Adam's weights and moments in one pass through memory.
        matrices: those of the parameters that Muon updates.
    """
    rate, decay, betas = config.learning_rate, config.weight_decay, (config.beta1, config.beta2)
    match config.name:
        case OptimizerName.sgd:
            momentum, nesterov = config.momentum, config.nesterov
            return SGD(parameters, rate, momentum, weight_decay=decay, nesterov=nesterov)
        case OptimizerName.rmsprop:
            return RMSprop(parameters, rate, config.alpha, weight_decay=decay)
        case OptimizerName.adam:
            return Adam(parameters, rate, betas, weight_decay=decay, fused=fused)
        case OptimizerName.adamw:
            return AdamW(parameters, rate, betas, weight_decay=decay, fused=fused)
        case OptimizerName.muon:
            chosen = list(matrices)
            rest = [each for each in parameters if not any(each is one for one in chosen)]
            return MuonWithAdamW(chosen, rest, rate, betas, decay, fused)
        case unhandled:
            assert_never(unhandled)


def core_matrices(model: LanguageModel) -> list[nn.Parameter]:
    """The trained matrices of the cores; not one of one-hot input, which is an embedding."""
    named = list(model.cores.named_parameters())
    if model.embedding is None:
        named = [(name, weight) for name, weight in named if not name.startswith(ONE_HOT)]
    return [weight for _, weight in named if weight.ndim == 2 and weight.requires_grad]


def build_schedule(
    optimizer: Optimizer,
    config: OptimizerConfig,
    spent: Callable[[int], float],
    epochs: Callable[[], float],
) -> LRScheduler:
    """Scheduler that sets the learning rate of each step.

    Args:
        spent: returns the share of the training budget used after a number of steps.
        epochs: returns the number of epochs done, fractions included.
    """
    return LambdaLR(
        optimizer, lambda step: learning_rate_factor(config, step, spent(step), epochs())
    )


def learning_rate_factor(
    config: OptimizerConfig, step: int, spent: float, epochs: float = 0.0
) -> float:
    """Factor of the learning rate in the step after ``step`` steps."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    match config.schedule:
        case Schedule.constant:
            return warmup
        case Schedule.linear:
            return warmup * (1 - spent)
        case Schedule.cosine:
            return warmup * (1 + math.cos(math.pi * spent)) / 2
        case Schedule.one_cycle:
            return warmup * (1 - 0.9 * abs(spent / 0.45 - 1) if spent < 0.9 else 1 - spent)
        case Schedule.multistep:
            return warmup * config.gamma ** sum(epochs >= each for each in config.milestones)
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
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    timers = [callback for callback in callbacks if isinstance(callback, Timer)]
    steps, epochs = trainer.estimated_stepping_batches, 0  # infinite if only time is limited
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        # Lightning's estimate takes the factor of this moment for all epochs.
        steps = trainer.max_steps if trainer.max_steps > 0 else math.inf
        epochs = trainer.max_epochs or 0

    def spent(step: int) -> float:
        shares = [step / steps, *(used_of(timer) for timer in timers)]
        if epochs > 0:
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
