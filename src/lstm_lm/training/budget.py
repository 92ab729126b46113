"""How much of a trainer's budget is used: epochs, steps or time, whichever is nearest its end."""

import math
from collections.abc import Callable

from lightning import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException


def share_of_budget(trainer: Trainer, is_shared: bool = False) -> Callable[[int], float]:
    """What tells the share that is used after so many optimizer steps, 1 at the end.

    Minutes are wall time from the first step on, validation included. What a resumed run had used
    before counts; time between its last checkpoint and its end does not.

    Args:
        is_shared: whether all ranks ask at once, and are to go by the clock of the first one.
    """
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    try:
        steps = trainer.estimated_stepping_batches  # infinite if time alone decides
    except MisconfigurationException:  # with a GradientAccumulationScheduler nobody knows
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
    """Epochs that are behind a trainer, parts of them included."""
    batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    return batches / trainer.num_training_batches
