"""The numbers of a run, over optimizer steps, in TensorBoard and for whoever else asks."""

import math
import time
from typing import Any

from lightning import LightningModule, Trainer
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.data.splits import Split, Splits
from lstm_lm.data.windows import Batch
from lstm_lm.errors import Diverged
from lstm_lm.evaluation import perplexity
from lstm_lm.training.step_callback import StepCallback
from lstm_lm.training.task import NextTokenTask

CHARTS: dict[str, dict[str, list[Any]]] = {
    "training and validation": {
        name.replace("_", " "): [
            "Multiline",
            [f"train/{name}", f"validation/{name}", f"floor/{name}"],  # the last of generated texts
        ]
        for name in ("loss", "perplexity", "bits_per_character")
    }
}


class Measurements(StepCallback):
    """Reads what the steps measured every ``log_every`` steps, after each epoch and at the end.

    ``latest`` holds the newest value of every number. ``train/…`` there is the mean over the
    current epoch, while in TensorBoard each point covers the steps since the one before. Both
    are measured while the weights move. Speed counts training alone, not what is done between
    epochs.
    """

    def __init__(
        self,
        task: NextTokenTask,
        writer: SummaryWriter | None,
        splits: Splits,
        log_every: int,
        charts: dict[str, dict[str, list[Any]]],
    ) -> None:
        self.task = task
        self.charts = charts
        self.charts_written: dict[str, dict[str, list[Any]]] = {}
        self.writer = writer
        self.splits = splits
        self.log_every = log_every
        self.latest: dict[str, float] = {}
        self.tokens = 0
        self.tokens_read = 0
        self.training_seconds = 0.0
        self.seconds_unread = 0.0  # in which steps were made that are not read yet
        self.running_since: float | None = None
        self.epoch_nats = 0.0  # per token, summed over the epoch's steps
        self.epoch_steps = 0

    @property
    def tokens_per_second(self) -> float | None:
        """Over the whole training."""
        return self.tokens_read / self.training_seconds if self.training_seconds else None

    def state_dict(self) -> dict[str, Any]:
        self.halt_clock()
        names = (
            "tokens",
            "tokens_read",
            "training_seconds",
            "seconds_unread",
            "epoch_nats",
            "epoch_steps",
            "latest",
            "charts_written",
        )
        return {name: getattr(self, name) for name in names} | {"unread": self.task.steps.fetched}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.task.steps.fetched = state_dict.pop("unread")
        vars(self).update(state_dict)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        # Those of before stay, as what they show does; of two layouts TensorBoard takes the last.
        charts = self.charts_written | self.charts
        if charts != self.charts_written and self.writer is not None:
            self.writer.add_custom_scalars(charts)
        self.charts_written = charts

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.running_since is None:
            self.running_since = time.monotonic()
        if trainer.global_step % self.task.steps_per_epoch == 0:
            self.epoch_nats, self.epoch_steps = 0.0, 0

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        self.tokens += batch.targets.numel() * self.task.ranks.count
        step = trainer.global_step
        ends_epoch = step % self.task.steps_per_epoch == 0
        if step % self.log_every == 0 or ends_epoch:
            self.read(step)
        if ends_epoch:
            self.halt_clock()  # what is done between epochs is not training

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        self.read(trainer.global_step)
        self.halt_clock()

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        loss = trainer.callback_metrics["validation/loss"].item()
        if math.isinf(perplexity(loss)):
            raise Diverged("validation perplexity", trainer.global_step)
        metrics = in_all_units("validation", loss, self.splits.validation)
        self.latest |= metrics
        self.write(metrics, trainer.global_step)

    def halt_clock(self) -> None:
        if self.running_since is not None:
            self.seconds_unread += time.monotonic() - self.running_since
            self.running_since = None

    def read(self, step: int) -> None:
        """Fetch what was measured since the last reading, up to a step.

        Raises:
            Diverged: if one of the steps was not finite.
        """
        means = self.task.steps.read(step)
        if means is None:
            return
        # The reading has waited for the device, so this is the time the steps really took.
        self.halt_clock()
        seconds, self.seconds_unread = self.seconds_unread, 0.0
        tokens = self.tokens - self.tokens_read
        self.running_since = time.monotonic()
        self.training_seconds += seconds
        self.tokens_read = self.tokens
        self.epoch_nats += means.loss * means.steps
        self.epoch_steps += means.steps
        progress = {
            "learning_rate": self.task.learning_rate,
            "gradient_norm": means.gradient_norm,
            "tokens": float(self.tokens),
            "tokens_per_second": tokens / seconds if seconds else math.nan,
        }
        training = self.splits.training
        self.latest |= progress
        self.latest |= in_all_units("train", self.epoch_nats / self.epoch_steps, training)
        self.write(progress | in_all_units("train", means.loss, training), step)

    def write(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            # A perplexity can overflow where its loss is finite.
            if math.isfinite(value) and self.writer is not None:
                self.writer.add_scalar(name, value, step)


def in_all_units(prefix: str, loss: float, split: Split) -> dict[str, float]:
    """A loss in nats per token, as perplexity, and in bits per character of that text."""
    characters_per_token = split.characters / split.predictions
    return {
        f"{prefix}/loss": loss,
        f"{prefix}/perplexity": perplexity(loss),
        f"{prefix}/bits_per_character": loss / math.log(2) / characters_per_token,
    }
