"""When the state of a run is written, and which states are kept.

last.ckpt      the newest
previous.ckpt  the one before it, should the newest be damaged
best.ckpt      that with the lowest validation loss
"""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.plugins.io import CheckpointIO
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.atomic_file import replace_by_copy
from lstm_lm.checkpoint_file import load_checkpoint, save_checkpoint
from lstm_lm.config import CheckpointConfig
from lstm_lm.errors import DamagedFile, Diverged, RunFailed, Stopped
from lstm_lm.ranks import Ranks
from lstm_lm.run_folder import RunFolder
from lstm_lm.training.event_files import flushed_sizes
from lstm_lm.training.step_callback import StepCallback
from lstm_lm.training.stop_signals import StopSignals
from lstm_lm.training.task import NextTokenTask

log = logging.getLogger(__name__)


class Checkpoints(StepCallback):
    """Saves every so many steps or minutes, after each epoch, before validation and at the end.

    Signals that end the run are heeded here, once its state is saved. This must come after all
    other callbacks, so that they have done with a step. Nothing is written before the weights
    and every step up to them are known to be finite. The files hold tensors and plain values
    only, so they load with ``weights_only=True``.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: CheckpointConfig,
        task: NextTokenTask,
        writer: SummaryWriter | None,
        signals: StopSignals,
        record: Callable[[int], None],
    ) -> None:
        self.folder = folder
        self.config = config
        self.task = task
        self.writer = writer
        self.signals = signals
        self.record = record  # called with the step when it is saved
        self.best_loss: float | None = None
        self.best_step: int | None = None
        self.saved_step: int | None = None
        self.saved_at = task.ranks.clock()
        self.event_files: dict[str, int] = {}
        self.is_whole = True  # unless a step has begun to change the weights

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "event_files": self.event_files,
            "fingerprint": self.folder.values["fingerprint"],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_loss, self.best_step = state_dict["best_loss"], state_dict["best_step"]

    def on_fit_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step > 0:  # resumed
            self.saved_step = trainer.global_step
            is_first = self.task.ranks.is_first
            if is_first and self.best_step is not None and not self.best_is_there():
                log.warning("warning: from now on the best is looked for anew")
                self.best_loss = self.best_step = None

    def best_is_there(self) -> bool:
        """Whether best.ckpt is what this state knows, or newer, which will come about again."""
        try:
            found = load_checkpoint(self.folder.best)["global_step"]
        except DamagedFile as error:
            log.warning("warning: %s", error)
            return False
        return found == self.best_step or found > (self.saved_step or 0)

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.is_whole = False

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.is_whole = True
        if self.is_due(trainer) or self.signals.to_heed is not None:
            self.save(trainer)
        self.signals.heed()

    def is_due(self, trainer: Trainer) -> bool:
        steps, minutes = self.config.every_steps, self.config.every_minutes
        step = trainer.global_step
        return (
            trainer.should_stop
            or step % self.task.steps_per_epoch == 0
            or (steps is not None and step % steps == 0)
            or (minutes is not None and self.task.ranks.clock() - self.saved_at >= 60 * minutes)
        )

    def on_validation_batch_end(self, *_: Any) -> None:
        self.signals.heed()

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        loss = trainer.callback_metrics["validation/loss"].item()
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss = loss
            self.keep_last_as_best()
        if trainer.should_stop:
            self.write(trainer)  # once more: if the run is made longer, it knows of this validation
        self.signals.heed()

    def keep_last_as_best(self) -> None:
        self.best_step = self.saved_step
        if self.task.ranks.is_first:
            replace_by_copy(self.folder.best, self.folder.last)

    def on_exception(
        self, trainer: Trainer, module: LightningModule, exception: BaseException
    ) -> None:
        can_save = self.is_whole and self.task.ranks.count == 1  # others are not where this one is
        if can_save and not isinstance(exception, (RunFailed, Stopped)):
            with contextlib.suppress(Diverged, OSError):  # the exception itself matters more
                self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the state after the newest step.

        Raises:
            Diverged: if a step or a weight is not finite.
            OSError: if it cannot be written; what was saved before stays.
        """
        step = trainer.global_step
        if self.saved_step == step or step == 0:
            return
        self.task.steps.fetch(step)
        for name, weight in self.task.named_parameters():
            if not weight.isfinite().all():
                raise Diverged(f"weight {name}", step)
        self.write(trainer)

    def write(self, trainer: Trainer) -> None:
        with self.signals.while_saving():
            if self.writer is not None:
                self.event_files = flushed_sizes(self.folder.path, self.writer)
            trainer.save_checkpoint(self.folder.last)
            self.saved_step, self.saved_at = trainer.global_step, self.task.ranks.clock()
            self.record(trainer.global_step)


class SealedFiles(CheckpointIO):
    """How the first rank writes checkpoints; what is to be read is in memory already."""

    def __init__(self, folder: RunFolder, checkpoint: dict[str, Any] | None, ranks: Ranks) -> None:
        self.folder = folder
        self.checkpoint = checkpoint
        self.ranks = ranks

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        if self.ranks.is_first:
            save_checkpoint(Path(path), checkpoint, self.folder.previous)

    def load_checkpoint(self, *_: Any, **__: Any) -> dict[str, Any]:
        if self.checkpoint is None:
            raise RuntimeError("this run began without a checkpoint")
        return self.checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink()
