"""Averages of the weights: what validation measures, and what checkpoints offer to others.

    EMA            exponential moving average (Kingma & Ba 2015, section 7.2)
    TailAveraging  mean over the last share of the budget (Rakhlin et al. 2012)
    NTASGD         mean from the validation on that no longer improves (Merity et al. 2018)

Training goes on with its own weights, and a checkpoint has both, so a resumed run ends with the
same bits. Before there is an average, everything uses the weights of training; Lightning's own
callbacks would then validate and save the initial ones.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lstm_lm.errors import SettingsError
from lstm_lm.training.optimization import budget_share

log = logging.getLogger(__name__)


class DelayedAveraging(WeightAveraging):
    """Lightning's ``WeightAveraging`` from the step on that a subclass chooses; the plain mean.

    Args:
        update_every_n_steps: steps from one averaged state to the next.
        more: other arguments of ``WeightAveraging``.
    """

    # Of the first step whose weights are averaged, counted from 0; None if not known yet.
    first: int | None = None

    def __init__(self, update_every_n_steps: int = 1, **more: Any) -> None:
        require_whole("update_every_n_steps", update_every_n_steps, 1)
        super().__init__(**more)
        self.every = update_every_n_steps

    def has_average(self, trainer: Trainer) -> bool:
        is_training = trainer.state.fn is TrainerFn.FITTING
        return is_training and self.first is not None and trainer.global_step > self.first

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if self.first is None or step_idx is None or step_idx < self.first:
            return False
        return (step_idx - self.first) % self.every == 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_average(trainer):
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_average(trainer):
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_average(trainer):
            super().on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.first = state_dict["first"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.has_average(trainer):
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Elsewhere a checkpoint's own weights, the average, are what is asked for.
        if "averaging_state" in checkpoint and trainer.state.fn is TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class EMA(DelayedAveraging):
    """Exponential moving average of the weights (Kingma & Ba 2015, section 7.2).

    Args:
        decay: share of the average that stays at an update, from 0 to below 1.
        update_every_n_steps: steps from one update to the next.
        update_starting_at_step: the first step whose weights are averaged, counted from 0.
    """

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int = 0,
    ) -> None:
        require_share("decay", decay, 0 <= decay < 1, "at least 0 and below 1")
        require_whole("update_starting_at_step", update_starting_at_step, 0)
        super().__init__(update_every_n_steps, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.first = update_starting_at_step


class TailAveraging(DelayedAveraging):
    """Mean of the weights over the last share of the budget (Rakhlin et al. 2012).

    Args:
        share: of the training budget, above 0 and up to 1.
        update_every_n_steps: steps from one averaged state to the next.
    """

    def __init__(self, share: float = 0.4, update_every_n_steps: int = 1) -> None:
        require_share("share", share, 0 < share <= 1, "above 0 and at most 1")
        super().__init__(update_every_n_steps)
        self.share = share
        self.spent: Callable[[int], float] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.spent = None  # the budget is known from the first step on

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.first is None and step > 0:
            self.spent = self.spent or budget_share(trainer, is_shared=True)
            if self.spent(step) > 1 - self.share:
                self.first = step - 1
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class NTASGD(DelayedAveraging):
    """Mean of the weights from the step on at which validation no longer improves.

    The non-monotonically triggered averaged SGD of Merity et al. (2018), "Regularizing and
    optimizing LSTM language models", with the trigger of their code: the loss is above the lowest
    one, the ``nonmono`` latest left out. They use plain ``sgd``, a constant learning rate, and one
    validation an epoch; with other settings it averages just as well.

    Args:
        nonmono: number of validations before the newest one that do not count.
        update_every_n_steps: steps from one averaged state to the next.
    """

    def __init__(self, nonmono: int = 5, update_every_n_steps: int = 1) -> None:
        require_whole("nonmono", nonmono, 1)
        super().__init__(update_every_n_steps)
        self.nonmono = nonmono
        self.losses: list[float] = []  # of the validations before the average, in order

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_training = trainer.state.fn is TrainerFn.FITTING and not trainer.sanity_checking
        if self.first is not None or not is_training:
            return
        loss = trainer.callback_metrics["validation/loss"].item()
        if no_longer_improves(self.losses, loss, self.nonmono):
            self.first = trainer.global_step
            log.info("validation no longer improves: averaging the weights from here on")
        self.losses.append(loss)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"losses": list(self.losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.losses = list(state_dict["losses"])


def no_longer_improves(losses: Sequence[float], loss: float, nonmono: int) -> bool:
    """True if the loss is above the lowest of those more than ``nonmono`` validations ago."""
    return len(losses) > nonmono and loss > min(losses[:-nonmono])


def require_whole(name: str, value: object, smallest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
        raise SettingsError(f"{name} must be a whole number >= {smallest}, not {value}")


def require_share(name: str, value: object, is_right: bool, words: str) -> None:
    if not is_right:
        raise SettingsError(f"{name} must be {words}, not {value}")
