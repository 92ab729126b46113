"""How long to train: epochs, steps or minutes, whichever is used up first."""

from typing import Any

from lightning import Trainer

from lstm_lm.config import TrainingConfig
from lstm_lm.ranks import ALONE, Ranks
from lstm_lm.training.step_callback import StepCallback


class Budget(StepCallback):
    """Ends training when it is used up, and knows how much of it is spent.

    Minutes are wall time from the first step on, validation and samples included. What a
    resumed run had used before counts; time between its last checkpoint and its end does not.
    """

    def __init__(self, config: TrainingConfig, steps_per_epoch: int, ranks: Ranks = ALONE) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.ranks = ranks
        by_epochs = None if config.epochs is None else config.epochs * steps_per_epoch
        limits = [steps for steps in (by_epochs, config.steps) if steps is not None]
        self.steps = min(limits, default=None)
        self.seconds = None if config.minutes is None else 60 * config.minutes
        self.seconds_before = 0.0  # this process began
        self.started: float | None = None

    @property
    def seconds_spent(self) -> float:
        now = 0.0 if self.started is None else self.ranks.clock() - self.started
        return self.seconds_before + now

    @property
    def limits(self) -> tuple[int | None, float | None]:
        return self.steps, self.seconds

    def spent(self, step: int) -> float:
        """The share of the budget that is used after so many steps, 1 at its end."""
        by_steps = 0.0 if self.steps is None else step / self.steps
        by_time = 0.0 if self.seconds is None else self.seconds_spent / self.seconds
        return min(1.0, max(by_steps, by_time))

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds_spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds_before = state_dict["seconds"]

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self.started = self.ranks.clock()
        self.stop_when_used_up(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.stop_when_used_up(trainer)

    def stop_when_used_up(self, trainer: Trainer) -> None:
        if self.spent(trainer.global_step) >= 1:
            trainer.should_stop = True
