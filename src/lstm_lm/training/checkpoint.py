"""Checkpoints of a run: when its state is saved, and which states are kept.

last.ckpt      the newest state
previous.ckpt  the state before it, in case the newest file is damaged
best.ckpt      the state with the lowest validation loss

Lightning resumes exactly from a checkpoint that was saved at the right moment. Tried with each
step of a run (Lightning 2.6):

    after a step           if it is neither validated nor the last of its epoch
    after its validation   if it is validated; otherwise the curve would miss that validation
    at an epoch's end      after its last step; earlier, EarlyStopping would raise on resume
    never                  while gradients accumulate, after an epoch that was cut short, and
                           while validation uses other weights than training (WeightAveraging)
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from torch import distributed

from lstm_lm.config import CheckpointConfig
from lstm_lm.errors import DamagedFile, Diverged
from lstm_lm.files import copy_atomically
from lstm_lm.process import StopSignals
from lstm_lm.saved.checkpoint_file import load_checkpoint, save_checkpoint
from lstm_lm.saved.run_folder import RunFolder
from lstm_lm.training.loggers import rows_written
from lstm_lm.training.module import OWN, LanguageModelModule

MONITOR = "validation/loss"

log = logging.getLogger(__name__)


class RunCheckpoint(ModelCheckpoint):
    """Saves the newest state every few steps or minutes, after each validation and each epoch.

    It checks for stop signals after the state is saved. It saves nothing before it knows that the
    weights and all steps up to them are finite.

    Args:
        take_over: makes the context manager in which a state is saved.
        record: called with the trainer after each save.
        sizes: returns the sizes of TensorBoard's files, in bytes.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: CheckpointConfig,
        signals: StopSignals,
        take_over: Callable[[], AbstractContextManager[None]],
        record: Callable[[Trainer], None],
        sizes: Callable[[], dict[str, int]],
    ) -> None:
        super().__init__(folder.checkpoints, "best", MONITOR, save_last=True)
        self.folder, self.config, self.signals = folder, config, signals
        self.take_over, self.record, self.sizes = take_over, record, sizes
        self.best_step: int | None = None
        self.saved_step: int | None = None
        self.validated_step: int | None = None
        self.saved_at = time.monotonic()
        self.is_validated = False  # the training loop validates after the newest step
        self.rows: dict[str, int] = {}  # of each CSV file
        self.is_ended = False  # a callback such as EarlyStopping ended the run before its budget
        self.stops_later = False  # training ends after the next complete step
        self.is_accumulating = False  # between two optimizer steps, while gradients accumulate
        self.is_averaged = False  # the saved weights are no longer those of the last step
        self.group: distributed.ProcessGroup | None = None

    @property
    def state_key(self) -> str:
        return "RunCheckpoint"

    @property
    def best_loss(self) -> float | None:
        return None if self.best_model_score is None else self.best_model_score.item()

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "validated_step": self.validated_step,
            "is_ended": self.is_ended,
            "is_averaged": self.is_averaged,
            "event_files": self.sizes(),
            "csv_rows": self.rows,
            "fingerprint": self.folder.values["fingerprint"],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validated_step = state_dict["validated_step"]
        self.is_ended = state_dict["is_ended"]
        self.is_averaged = state_dict.get("is_averaged", False)
        if state_dict["best_loss"] is not None:
            self.set_best(state_dict["best_loss"], state_dict["best_step"])

    def set_best(self, loss: float, step: int) -> None:
        self.best_model_score, self.best_step = torch.tensor(loss, dtype=torch.float64), step
        self.best_model_path = str(self.folder.best)

    def setup(self, *_: Any, **__: Any) -> None:
        """Do nothing: Lightning would warn that the folder is not empty, as in every resume."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.signals.listen()  # instead of Lightning's handler, which ends a rank without saving
        self.saved_at = time.monotonic()
        if trainer.world_size > 1:
            # A process group beside that of the gradients, so that nothing waits for a GPU.
            self.group = distributed.new_group(backend="gloo")
            self.signals.shared = True
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            # On a resume in mid-epoch, Lightning does not call the hook that sets this.
            if isinstance(callback, GradientAccumulationScheduler):
                trainer.accumulate_grad_batches = callback.get_accumulate_grad_batches(
                    trainer.current_epoch
                )
        if trainer.ckpt_path is not None:
            trainer.should_stop |= self.is_ended  # Lightning's own state lacks it
            self.saved_step = trainer.global_step
            self.last_model_path = str(self.folder.last)
            if trainer.is_global_zero:
                self.repair_best(Path(trainer.ckpt_path))

    def repair_best(self, newest: Path) -> None:
        """Make best.ckpt match the resumed state; a newer file stays, as it will be recreated."""
        if self.best_step is None:
            return
        if self.best_step == self.saved_step and not self.is_averaged:
            copy_atomically(self.folder.best, newest)
            return
        try:
            found = load_checkpoint(self.folder.best)["global_step"]
        except DamagedFile as error:
            log.warning("warning: %s", error)
            found = None
        if found != self.best_step and (found is None or found <= (self.saved_step or 0)):
            log.warning("warning: best.ckpt is ignored: the best weights are tracked anew")
            self.best_model_score = self.best_step = None

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        check_finite(module)
        is_last = trainer.is_last_batch
        self.is_accumulating = (
            not is_last and (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        )
        self.is_validated = validation_follows(trainer, batch_idx)
        self.finish_accumulation(trainer)
        if not self.is_accumulating:
            is_due = self.is_due(trainer)
            if not (is_last or self.is_validated):
                if is_due:
                    self.save(trainer, module)
                self.signals.raise_if_stopped()

    def finish_accumulation(self, trainer: Trainer) -> None:
        """Delay the end of training while gradients accumulate, as nothing can be saved then."""
        if self.is_accumulating:
            self.stops_later |= trainer.should_stop
            trainer.should_stop = False
        elif self.stops_later:
            trainer.should_stop, self.stops_later = True, False

    def is_due(self, trainer: Trainer) -> bool:
        steps, minutes, step = (
            self.config.every_steps,
            self.config.every_minutes,
            trainer.global_step,
        )
        is_time = minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes
        if self.group is not None:
            both = torch.tensor([self.signals.received or 0, int(is_time)])
            distributed.all_reduce(both, distributed.ReduceOp.MAX, self.group)
            self.signals.agreed, is_time = int(both[0]) or None, bool(both[1])
        return (
            is_time
            or self.signals.pending is not None
            or (steps is not None and step % steps == 0)
            or trainer.should_stop
            or step == trainer.max_steps
        )

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        loss = trainer.callback_metrics[MONITOR].item()
        if not loss < 709:  # beyond that the perplexity overflows
            raise Diverged("validation perplexity", trainer.global_step)
        self.validated_step = trainer.global_step
        is_extra = trainer.state.fn is not TrainerFn.FITTING or not self.is_validated
        if self.is_accumulating:  # the state after the newest step is gone
            self.finish_accumulation(trainer)
            return
        is_best = self.best_loss is None or loss < self.best_loss
        if is_best:
            self.set_best(loss, trainer.global_step)
        if is_extra:
            self.amend(trainer, module, is_best)
        elif not trainer.is_last_batch:
            self.save(trainer, module)
            self.signals.raise_if_stopped()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_last_batch:
            self.save(trainer, module)
            self.signals.raise_if_stopped()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save nothing: this state would resume at the wrong step, and the last step is saved."""
        self.signals.shared = False
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        may_differ = any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks)
        if may_differ and self.saved_step == trainer.global_step:
            saved = load_checkpoint(self.folder.last)["state_dict"]
            weights = module.state_dict()
            if any(not torch.equal(weights[name].cpu(), saved[name]) for name in saved):
                self.is_averaged, self.validated_step = True, None

    def on_exception(self, *_: Any) -> None:
        """Save nothing: the state is in the middle of a step."""

    def save(self, trainer: Trainer, module: LightningModule) -> None:
        """Save the state after the newest step.

        Raises:
            Diverged: if a loss, a gradient norm or a weight is not finite.
            OSError: if it cannot be written; earlier checkpoints stay.
        """
        step = trainer.global_step
        if step in (0, self.saved_step) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if isinstance(module, LanguageModelModule):
            module.fetch_metrics()
        check_finite(module)
        for name, weight in module.named_parameters():
            if not weight.isfinite().all():
                raise Diverged(f"weight {name}", step)
        self.is_ended = trainer.should_stop and not is_time_up(trainer)
        self.is_averaged = False
        with self.signals.deferred():
            with self.take_over():
                self.flush(trainer)
                trainer.save_checkpoint(self.folder.last)
            self.saved_step, self.saved_at = step, time.monotonic()
            self.last_model_path = str(self.folder.last)
            if trainer.is_global_zero:
                if self.best_step == step:
                    copy_atomically(self.folder.best, self.folder.last)
                self.record(trainer)

    def flush(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        self.rows = rows_written(trainer.loggers, self.folder.path)

    def amend(self, trainer: Trainer, module: LightningModule, is_best: bool) -> None:
        """Add a later validation, curve points, and the average of SWA to the last checkpoint."""
        if not trainer.is_global_zero or self.saved_step != trainer.global_step:
            return
        with self.signals.deferred(), self.take_over():
            self.flush(trainer)
            checkpoint = load_checkpoint(self.folder.last)
            if self.is_averaged:
                weights = module.state_dict()
                checkpoint["state_dict"] = {name: weights[name].cpu() for name in weights}
            state = checkpoint["callbacks"][self.state_key]
            checkpoint["callbacks"][self.state_key] = self.state_dict() | {
                "event_files": self.sizes() or state["event_files"]
            }
            if isinstance(module, LanguageModelModule):
                checkpoint[OWN]["metrics"] = module.metrics.state_dict()
            save_checkpoint(self.folder.last, checkpoint, self.folder.previous)
            if is_best:
                copy_atomically(self.folder.best, self.folder.last)


def check_finite(module: LightningModule) -> None:
    """Raise Diverged if a step was not finite; it names the first such step that is known."""
    if isinstance(module, LanguageModelModule) and module.metrics.not_finite is not None:
        raise Diverged(*module.metrics.not_finite)


def is_time_up(trainer: Trainer) -> bool:
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    remaining = [timer.time_remaining() for timer in timers]
    return any(seconds is not None and seconds <= 0 for seconds in remaining)


def validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """True if Lightning will validate after this batch as scheduled."""
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (
        every is not None and (trainer.current_epoch + 1) % every != 0
    ):
        return False
    if trainer.val_check_batch is None:  # scheduled by the clock, so unpredictable
        return False
    loop = trainer.fit_loop.epoch_loop
    batches = (loop.total_batch_idx if every is None else batch_idx) + 1
    return batches % trainer.val_check_batch == 0


class ChecksummedCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically, as plain data with a checksum; see ``checkpoint_file``."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        # A removed run folder is not recreated: without its settings the run cannot resume.
        path.parent.mkdir(parents=path.parent != self.folder.checkpoints, exist_ok=True)
        save_checkpoint(
            path, checkpoint, self.folder.previous if path == self.folder.last else None
        )

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink()
