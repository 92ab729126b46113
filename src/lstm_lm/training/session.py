"""What one process does of a run: from its beginning or a checkpoint, to whatever end."""

import contextlib
import logging
import os
import platform
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import lightning
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.config import CoreName, RunConfig
from lstm_lm.data.data_module import TextDataModule
from lstm_lm.data.splits import Splits
from lstm_lm.errors import DamagedFile, Diverged, RunFailed, Stopped
from lstm_lm.evaluation import perplexity
from lstm_lm.machine import device_name, keep_freed_memory
from lstm_lm.process import StopSignals
from lstm_lm.saved.event_files import flushed_sizes
from lstm_lm.saved.run_folder import RunFolder, Status
from lstm_lm.training.callbacks import FloorLine, Progress, Samples
from lstm_lm.training.checkpoint import RunCheckpoint
from lstm_lm.training.final_figures import final_figures
from lstm_lm.training.hparams import write_failure, write_start, write_success
from lstm_lm.training.inside_callback import INSIDE_CHARTS, Inside
from lstm_lm.training.loggers import go_on_with_rows, keep_ids, tensorboard_of
from lstm_lm.training.module import LanguageModelModule
from lstm_lm.training.optimization import epochs_done
from lstm_lm.training.process_group import environment_for_ranks, is_lost_rank
from lstm_lm.training.resumed_folder import ResumedFolder
from lstm_lm.training.trainer import build_trainer, first_line

# TensorBoard shows these curves together.
CHARTS: dict[str, dict[str, list[Any]]] = {
    "training and validation": {
        name.replace("_", " "): [
            "Multiline",
            [f"train/{name}", f"validation/{name}", f"floor/{name}"],  # the last of generated texts
        ]
        for name in ("loss", "perplexity", "bits_per_character")
    }
}

log = logging.getLogger(__name__)


@dataclass
class Session:
    """Expects the folder to be locked, and its summary to hold what is known of the run so far."""

    config: RunConfig
    folder: RunFolder
    data: TextDataModule
    prompts: list[list[int]]
    module: LanguageModelModule
    loggers: list[Logger]
    callbacks: list[Callback]  # of the user's, besides those of every run
    device: torch.device
    signals: StopSignals
    started: float  # of the monotonic clock

    @property
    def splits(self) -> Splits:
        return self.data.splits

    def run(self, resumed: ResumedFolder | None = None) -> None:
        """Train until the budget is used up, then score the held-out text.

        Args:
            resumed: the folder, if the run goes on there.

        Raises:
            RunFailed, Stopped: with the newest state that could be saved.
        """
        self.resumed = resumed
        self.began = self.started - self.folder.values["seconds"]
        self.writer: SummaryWriter | None = None
        with self.known_end(), environment_for_ranks(self.config.device):
            keep_freed_memory()
            if resumed is not None:
                self.folder.record(status=Status.running.value)
            self.assemble()
            newest = None if resumed is None else resumed.path
            self.trainer.fit(self.module, self.data, ckpt_path=newest)
            if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                self.trainer.test(self.module, self.data, verbose=False)
                return
            if self.checkpoint.validated_step != self.trainer.global_step:
                self.trainer.validate(self.module, self.data, verbose=False)
            if self.trainer.is_global_zero:
                with self.signals.at_once():
                    self.finish()

    def assemble(self) -> None:
        """Everything around the module that trains it."""
        config, folder = self.config, self.folder
        checkpoint = None if self.resumed is None else self.resumed.checkpoint
        if folder.is_ours:
            go_on_with_rows(self.loggers, folder.path, checkpoint)
            self.writer = tensorboard_of(self.loggers)
            keep_ids(list(config.logger), self.loggers, folder.path)
        if self.writer is not None:
            self.introduce(self.writer)
        self.checkpoint = RunCheckpoint(
            folder,
            config.checkpoint,
            self.signals,
            self.taking_over,
            self.record,
            self.sizes,
        )
        self.trainer = build_trainer(
            config, self.device, self.loggers, self.all_callbacks(), folder
        )

    def known(self) -> dict[str, Any]:
        """What the summary says of what computes, and of the text."""
        config = self.config
        return {
            "device": device_name(self.device),
            "precision": config.device.precision,
            "backend": config.model.backend.value if config.model.core is CoreName.fused else None,
            "ranks": config.device.ranks,
            "versions": versions(),
            **self.splits.unknown,
        }

    def taking_over(self) -> AbstractContextManager[None]:
        """Of the folder of a run that goes on, by the state that is saved in this context."""
        if self.resumed is None or not self.resumed.is_as_found:
            return contextlib.nullcontext()
        return self.resumed.taking_over(self.config, self.loggers, self.known())

    def sizes(self) -> dict[str, int]:
        """Of TensorBoard's files, once everything is on disk."""
        sizes = flushed_sizes(self.folder.path, self.writer)
        return sizes if self.resumed is None else self.resumed.when_taken_over(sizes)

    def introduce(self, writer: SummaryWriter) -> None:
        """What TensorBoard shows of a run from its start."""
        shows_inside = self.config.inside.every_epochs is not None
        before = None
        if self.resumed is not None and self.resumed.checkpoint is not None:
            before = self.resumed.before
        if before is None:
            write_start(writer, self.config)
            if self.splits.text_note:
                writer.add_text("text", self.splits.text_note)
        if before is None or (shows_inside and before.inside.every_epochs is None):
            # Of several layouts TensorBoard takes the last.
            writer.add_custom_scalars(CHARTS | (INSIDE_CHARTS if shows_inside else {}))

    def all_callbacks(self) -> list[Callback]:
        """In this order: what was measured is shown, and stored when all else is done."""
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
                self.inside = Inside(config.model.cell, model, self.splits, every, self.writer)
                callbacks.append(self.inside)
        return [*callbacks, *self.callbacks, self.checkpoint]

    def finish(self) -> None:
        """What there is to be known of the weights when training is done."""
        trainer, model = self.trainer, self.module.model.to(self.device).eval()
        with self.after_training() as writer:
            if self.inside is not None and writer is not None:
                self.inside.finish(trainer.global_step, writer)
            figures = final_figures(
                self.config.data, self.splits, model, self.folder, self.checkpoint
            )
            with self.taking_over():
                pass  # all steps were saved before; these figures belong to them
            if writer is not None:  # before the summary says so
                write_success(writer, figures, trainer.global_step)
            stopped_early = {"stopped_early": True} if self.checkpoint.is_ended else {}
            self.folder.record(**figures, **stopped_early)

    @contextlib.contextmanager
    def after_training(self) -> Iterator[SummaryWriter | None]:
        """TensorBoard's writer anew, as Lightning closes its logger's when training ends."""
        if self.writer is None:
            yield None
            return
        with SummaryWriter(str(self.folder.path)) as writer:
            yield writer

    def record(self, trainer: Trainer) -> None:
        """What the summary says of a run that trains."""
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
    def known_end(self) -> Iterator[None]:
        """Let the summary say how it ended, and every error be one of this project's."""
        status = Status.failed
        before, threading.excepthook = threading.excepthook, pass_over_disks
        try:
            yield
            status = Status.completed
        except Diverged as error:
            self.folder.values["diverged_step"] = error.step
            status = Status.diverged
            raise
        except Stopped:
            status = Status.interrupted
            raise
        except SIGTERMException as error:  # Lightning noticed first
            status = Status.interrupted
            raise Stopped(signal.SIGTERM) from error
        except SystemExit as error:
            status = Status.interrupted
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns it into this
                raise Stopped(signal.SIGINT) from error
            raise
        except OSError as error:
            where = os.fsdecode(error.filename or self.folder.path)
            reason = f"{error.strerror or error} ({where})"
            raise RunFailed(f"the run cannot go on: {reason}; {self.saved()} is saved") from error
        except DamagedFile as error:  # while it trains
            raise RunFailed(f"the run cannot go on: {error}; {self.saved()} is saved") from error
        except Exception as error:
            better = explained(error, {type(part).__module__ for part in self.of_user})
            if better is error:
                raise
            raise better from error
        finally:
            threading.excepthook = before
            self.close(status)

    @property
    def of_user(self) -> list[Callback | Logger]:
        """Parts whose code may be the user's own."""
        return [*self.callbacks, *self.loggers]

    def saved(self) -> str:
        """What there is to go on from: somebody may have removed it meanwhile."""
        if not os.path.isfile(self.folder.last):
            is_left = os.path.isfile(self.folder.previous)
            return "the checkpoint before the newest" if is_left else "nothing"
        step = self.checkpoint.saved_step if hasattr(self, "trainer") else None
        return "what was there before" if step is None else f"step {step:,}"

    def close(self, status: Status) -> None:
        is_assembled = hasattr(self, "trainer")
        try:
            if self.resumed is not None and self.resumed.is_as_found:
                log.info("%s before anything new was saved: the run is as it was", status)
                if self.writer is not None:
                    self.writer.close()
                # On another device than before it would perhaps not have come to that.
                comes_again = (
                    status == Status.diverged and self.resumed.before.device == self.config.device
                )
                step = self.folder.values["diverged_step"] if comes_again else None
                self.resumed.put_back(self.loggers, diverged_step=step)
                return
            if status != Status.completed:
                log.info("%s; %s is saved", status, self.saved())
            self.folder.write_missing(self.config, self.splits.vocabulary)
            self.folder.values["status"] = status.value
            # Else nothing is known beside what is there already.
            if is_assembled and self.trainer.global_step > 0:
                self.record(self.trainer)
            self.folder.record(seconds=time.monotonic() - self.began)
            if status in (Status.failed, Status.diverged):
                with self.after_training() as writer:
                    if writer is not None:
                        write_failure(writer)
        except OSError as error:
            log.warning("warning: %s could not be finished: %s", self.folder.path, error.strerror)


def pass_over_disks(thrown: threading.ExceptHookArgs) -> None:
    """An error of TensorBoard's thread that writes comes again where the run waits for it."""
    if not issubclass(thrown.exc_type, OSError):
        threading.__excepthook__(thrown)


def explained(error: Exception, modules: set[str]) -> Exception:
    """What the user can do something about, in one line; anything else as it is.

    Args:
        modules: of callbacks and loggers, which may be the user's own.
    """
    if is_lost_rank(error):
        return RunFailed(
            "another process of this run ended, so the run cannot go on; what was saved before is "
            "kept"
        )
    is_full = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if is_full or "allocate memory" in str(error):
        return RunFailed(
            f"out of memory ({first_line(error)}): try a smaller data.batch_size, data.num_steps "
            "or model.hidden_size"
        )
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    passed = [frame.f_globals.get("__name__", "") for frame in frames]
    if passed[-1].startswith("lightning."):  # arguments that do not go together
        return RunFailed(first_line(error))
    for name in reversed(passed):
        if name in modules and not name.startswith(("lightning.", "lstm_lm.")):
            return RunFailed(f"{name} raised {type(error).__name__}: {first_line(error)}")
    return error


def versions() -> dict[str, str]:
    return {
        "lstm_lm": metadata.version("lstm_lm"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
