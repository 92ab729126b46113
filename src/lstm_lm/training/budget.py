"""How long to train: epochs, steps or minutes, whichever is used up first."""

import time
from typing import Any

from lightning import Callback, Trainer

from lstm_lm.config import TrainingConfig


class Budget(Callback):
    """Ends training when it is used up, and knows how much of it is spent.

    Minutes are wall time from the first step on, validation and samples included.
    """

    def __init__(self, config: TrainingConfig, steps_per_epoch: int) -> None:
        by_epochs = None if config.epochs is None else config.epochs * steps_per_epoch
        limits = [steps for steps in (by_epochs, config.steps) if steps is not None]
        self.steps = min(limits, default=None)
        self.seconds = None if config.minutes is None else 60 * config.minutes
        self.started: float | None = None

    def spent(self, step: int) -> float:
        """The share of the budget that is used after so many steps, 1 at its end."""
        by_steps = 0.0 if self.steps is None else step / self.steps
        if self.seconds is None or self.started is None:
            return min(1.0, by_steps)
        return min(1.0, max(by_steps, (time.monotonic() - self.started) / self.seconds))

    def on_train_start(self, *_: Any) -> None:
        self.started = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.spent(trainer.global_step) >= 1:
            trainer.should_stop = True
