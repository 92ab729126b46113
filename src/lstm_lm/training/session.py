"""One run in one process: build its parts, train, finish, and record how it ended."""

import contextlib
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import lightning
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.config import CoreName, DataConfig, RunConfig
from lstm_lm.data.data_module import TextDataModule
from lstm_lm.data.splits import Splits
from lstm_lm.errors import DamagedFile, Diverged
from lstm_lm.evaluation.score import evaluate, perplexity, summary_entries
from lstm_lm.files import copy_atomically
from lstm_lm.machine import device_name, keep_freed_memory
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.process import StopSignals
from lstm_lm.saved.checkpoint_file import load_checkpoint
from lstm_lm.saved.event_files import sizes_on_disk
from lstm_lm.saved.load_model import load_weights
from lstm_lm.saved.run_folder import RunFolder, Status
from lstm_lm.training.callbacks import INSIDE_CHARTS, FloorLine, Inside, Progress, Samples
from lstm_lm.training.checkpoint import RunCheckpoint
from lstm_lm.training.failures import explain_error, ignore_thread_disk_errors, status_after
from lstm_lm.training.loggers import (
    restore_rows,
    save_ids,
    tensorboard_of,
    write_failure,
    write_start,
    write_success,
)
from lstm_lm.training.module import LanguageModelModule
from lstm_lm.training.optimization import epochs_done
from lstm_lm.training.process_group import environment_for_ranks
from lstm_lm.training.resumed_folder import ResumedFolder
from lstm_lm.training.trainer import build_trainer

# TensorBoard shows these curves in one chart.
CHARTS: dict[str, dict[str, list[Any]]] = {
    "training and validation": {
        name.replace("_", " "): [
            "Multiline",
            [f"train/{name}", f"validation/{name}", f"floor/{name}"],  # floor: if generated
        ]
        for name in ("loss", "perplexity", "bits_per_character", "bits_per_byte")
    }
}

log = logging.getLogger(__name__)


@dataclass
class Session:
    """A run, ready to be trained in this process.

    Requires the run folder to be locked and its summary initialized.
    """

    config: RunConfig
    folder: RunFolder
    data: TextDataModule
    prompts: list[list[int]]
    module: LanguageModelModule
    loggers: list[Logger]
    callbacks: list[Callback]  # the user's, in addition to those of every run
    device: torch.device
    signals: StopSignals
    started: float  # on the monotonic clock

    @property
    def splits(self) -> Splits:
        return self.data.splits

    def run(self, resumed: ResumedFolder | None = None) -> None:
        """Train until the budget is used up, then score the held-out text.

        Args:
            resumed: the run folder, if this resumes a run.

        Raises:
            RunFailed, Stopped: after the newest state was saved, if that was possible.
        """
        self.resumed = resumed
        self.began = self.started - self.folder.values["seconds"]
        self.writer: SummaryWriter | None = None
        with self.recorded_end(), environment_for_ranks(self.config.device):
            self.assemble()
            self.train()
            if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                with self.signals.interruptible():
                    self.finish()

    def assemble(self) -> None:
        """Build the trainer, with its loggers and callbacks, around the module."""
        keep_freed_memory()
        if self.resumed is not None:
            self.folder.record(status=Status.running.value)
        if self.folder.is_ours:
            checkpoint = None if self.resumed is None else self.resumed.checkpoint
            restore_rows(self.loggers, self.folder.path, checkpoint)
            self.writer = tensorboard_of(self.loggers)
            save_ids(list(self.config.logger), self.loggers, self.folder.path)
        if self.writer is not None:
            self.write_settings(self.writer)
        self.checkpoint = RunCheckpoint(
            self.folder,
            self.config.checkpoint,
            self.signals,
            self.take_over,
            self.record,
            self.event_file_sizes,
        )
        self.trainer = build_trainer(
            self.config, self.device, self.loggers, self.all_callbacks(), self.folder
        )

    def train(self) -> None:
        trainer, newest = self.trainer, None if self.resumed is None else self.resumed.path
        trainer.fit(self.module, self.data, ckpt_path=newest)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.test(self.module, self.data, verbose=False)
        elif self.checkpoint.validated_step != trainer.global_step:
            trainer.validate(self.module, self.data, verbose=False)

    def finish(self) -> None:
        """Score the held-out text exactly; write the metrics to TensorBoard and the summary."""
        trainer, model = self.trainer, self.module.model.to(self.device).eval()
        with self.writer_after_training() as writer:
            if self.inside is not None and writer is not None:
                self.inside.finish(trainer.global_step, writer)
            figures = final_figures(
                self.config.data, self.splits, model, self.folder, self.checkpoint
            )
            with self.take_over():
                pass  # takes over a folder in which no step was left to save
            if writer is not None:  # before the summary, which marks the run as completed
                write_success(writer, figures, trainer.global_step)
            stopped_early = {"stopped_early": True} if self.checkpoint.is_ended else {}
            self.folder.record(**figures, **stopped_early)

    def known(self) -> dict[str, Any]:
        """Summary entries about the device, the versions and unknown tokens."""
        config = self.config
        return {
            "device": device_name(self.device),
            "precision": config.device.precision,
            "backend": config.model.backend.value if config.model.core is CoreName.fused else None,
            "ranks": config.device.ranks,
            "versions": {
                "lstm_lm": metadata.version("lstm_lm"),
                "python": platform.python_version(),
                "torch": torch.__version__,
                "lightning": lightning.__version__,
            },
            **self.splits.unknown,
        }

    def take_over(self) -> AbstractContextManager[None]:
        """Context manager in which a state is saved; the first save takes over a resumed folder."""
        if self.resumed is None or not self.resumed.is_unchanged:
            return contextlib.nullcontext()
        return self.resumed.take_over(self.config, self.loggers, self.known())

    def event_file_sizes(self) -> dict[str, int]:
        """Sizes of TensorBoard's files, in bytes, once everything is on disk."""
        if self.writer is not None:
            self.writer.flush()
        sizes = sizes_on_disk(self.folder.path)
        return sizes if self.resumed is None else self.resumed.sizes_after_take_over(sizes)

    def write_settings(self, writer: SummaryWriter) -> None:
        """Write settings, text note and chart layout to TensorBoard at the start of a run."""
        shows_inside = self.config.inside.every_epochs is not None
        before = None
        if self.resumed is not None and self.resumed.checkpoint is not None:
            before = self.resumed.before
        if before is None:
            write_start(writer, self.config)
            if self.splits.text_note:
                writer.add_text("text", self.splits.text_note)
        if before is None or (shows_inside and before.inside.every_epochs is None):
            # TensorBoard uses the last of several layouts.
            writer.add_custom_scalars(CHARTS | (INSIDE_CHARTS if shows_inside else {}))

    def all_callbacks(self) -> list[Callback]:
        """All callbacks in order: metrics are shown first, the state is saved last."""
        config, model, callbacks = self.config, self.module.model, list[Callback]()
        self.inside = None
        if self.folder.is_ours:
            callbacks = [
                Progress(self.folder, self.module),
                Samples(config, self.prompts, self.splits.vocabulary, model, self.writer),
            ]
        if self.writer is not None:
            rows = config.data.evaluation_rows
            callbacks.append(FloorLine(model, self.splits.validation, rows, self.writer))
            if config.inside.every_epochs is not None:
                every = config.inside.every_epochs
                self.inside = Inside(config, model, self.splits, every, self.writer)
                callbacks.append(self.inside)
        return [*callbacks, *self.callbacks, self.checkpoint]

    @contextlib.contextmanager
    def writer_after_training(self) -> Iterator[SummaryWriter | None]:
        """Context manager: a new TensorBoard writer, as Lightning has closed its logger's."""
        if self.writer is None:
            yield None
            return
        with SummaryWriter(str(self.folder.path)) as writer:
            yield writer

    def record(self, trainer: Trainer) -> None:
        """Update the summary to the newest step."""
        metrics = self.module.metrics
        epoch_loss = metrics.epoch_loss
        self.folder.record(
            epochs=int(epochs_done(trainer)),
            steps=trainer.global_step,
            tokens=metrics.tokens,
            tokens_per_second=metrics.tokens_per_second,
            seconds=time.monotonic() - self.began,
            **{"train/perplexity": None if epoch_loss is None else perplexity(epoch_loss)},
        )

    @contextlib.contextmanager
    def recorded_end(self) -> Iterator[None]:
        """Context manager: record how the run ends; raise errors with one-line messages."""
        before, threading.excepthook = threading.excepthook, ignore_thread_disk_errors
        try:
            yield
        except BaseException as error:
            modules = {type(part).__module__ for part in (*self.callbacks, *self.loggers)}
            better = explain_error(error, self.folder.path, self.saved(), modules)
            diverged_step = better.step if isinstance(better, Diverged) else None
            self.close(status_after(better), diverged_step)
            if better is error:
                raise
            raise better from error
        else:
            self.close(Status.completed)
        finally:
            threading.excepthook = before

    def saved(self) -> str:
        """Words for what there is to resume from; the files may have been removed meanwhile."""
        if not os.path.isfile(self.folder.last):
            is_left = os.path.isfile(self.folder.previous)
            return "the checkpoint before the newest" if is_left else "nothing"
        step = self.checkpoint.saved_step if hasattr(self, "trainer") else None
        return "the earlier state" if step is None else f"step {step:,}"

    def close(self, status: Status, diverged_step: int | None = None) -> None:
        """Write the final status to the folder, or restore a resumed folder."""
        try:
            if self.resumed is not None and self.resumed.is_unchanged:
                self.put_back(self.resumed, status, diverged_step)
                return
            if status is not Status.completed:
                log.info("%s; %s is saved", status, self.saved())
            self.folder.restore_missing_files(self.config, self.splits.vocabulary)
            self.folder.values["status"] = status.value
            if diverged_step is not None:
                self.folder.values["diverged_step"] = diverged_step
            # Before the first step there is nothing new to record.
            if hasattr(self, "trainer") and self.trainer.global_step > 0:
                self.record(self.trainer)
            self.folder.record(seconds=time.monotonic() - self.began)
            if status in (Status.failed, Status.diverged):
                with self.writer_after_training() as writer:
                    if writer is not None:
                        write_failure(writer)
        except OSError as error:
            log.warning("warning: %s could not be finished: %s", self.folder.path, error.strerror)

    def put_back(self, resumed: ResumedFolder, status: Status, diverged_step: int | None) -> None:
        """Restore a resumed folder to what it was before the resume."""
        log.info("%s before anything new was saved: the run is unchanged", status)
        if self.writer is not None:
            self.writer.close()
        # On the previous device the run might not have diverged.
        comes_again = resumed.before.device == self.config.device
        resumed.put_back(self.loggers, diverged_step if comes_again else None)


def final_figures(
    config: DataConfig,
    splits: Splits,
    model: LanguageModel,
    folder: RunFolder,
    checkpoint_callback: RunCheckpoint,
) -> dict[str, Any]:
    """Exact metrics: final weights on the validation text, best weights on validation and test.

    Every held-out token is scored, in one stream.
    """
    log.info("scoring every token of the held-out text, one after the other")
    final = best = evaluate(model, splits.validation)
    best_step = last_step = checkpoint_callback.saved_step or 0
    if checkpoint_callback.best_step != last_step or checkpoint_callback.is_averaged:
        try:
            checkpoint = load_checkpoint(folder.best)
            load_weights(model, folder.best, checkpoint)
            best_step = checkpoint["global_step"]
            best = evaluate(model, splits.validation)
        except DamagedFile as error:
            log.warning("warning: %s; the final weights are used instead", error)
            copy_atomically(folder.best, folder.last)
    if math.isinf(best.perplexity):
        raise Diverged("validation perplexity", last_step)
    test = best if splits.test_is_validation else evaluate(model, splits.test)
    figures: dict[str, Any] = {
        **summary_entries("validation", final),
        **summary_entries("best/validation", best),
        **summary_entries("test", test),
        "best/step": best_step,
    }
    if config.reset_every is not None:
        reset = evaluate(model, splits.test, config.reset_every)
        figures |= {**summary_entries("test/reset", reset), "reset_every": config.reset_every}
    return figures
