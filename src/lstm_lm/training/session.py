"""What one process does of a run: from its beginning or a checkpoint, to whatever end."""

import logging
import platform
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.config import CoreName, RunConfig
from lstm_lm.data.data_module import TextDataModule
from lstm_lm.data.splits import Splits
from lstm_lm.errors import Diverged, RunFailed, Stopped
from lstm_lm.machine import device_name, keep_freed_memory
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.ranks import ALONE, Ranks
from lstm_lm.run_folder import RunFolder
from lstm_lm.training.agreement import Agreement
from lstm_lm.training.budget import Budget
from lstm_lm.training.checkpoints import Checkpoints, SealedFiles
from lstm_lm.training.exact_resume import ExactResume
from lstm_lm.training.final_figures import final_figures
from lstm_lm.training.floor import FloorLine
from lstm_lm.training.hparams import write_failure, write_start, write_success
from lstm_lm.training.inside import INSIDE_CHARTS, Inside
from lstm_lm.training.measurements import CHARTS, Measurements
from lstm_lm.training.progress import Progress
from lstm_lm.training.samples import Samples
from lstm_lm.training.stop_signals import StopSignals
from lstm_lm.training.task import NextTokenTask
from lstm_lm.training.trainer import build_trainer

log = logging.getLogger(__name__)


class Assignment(NamedTuple):
    """What a rank must know to train along."""

    config: RunConfig
    folder: Path
    values: dict[str, Any]  # of the folder's summary
    splits: Splits
    threads: int
    checkpoint: dict[str, Any] | None


@dataclass
class Session:
    """Expects the folder to be held, and its summary to hold what is known of the run so far."""

    config: RunConfig
    folder: RunFolder
    data: TextDataModule
    prompts: list[list[int]]
    model: LanguageModel
    device: torch.device
    signals: StopSignals
    started: float  # of the monotonic clock
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        if self.config.device.precision == "64-true":
            self.model.double()  # Lightning would, too, but only after weights are put back

    @property
    def splits(self) -> Splits:
        return self.data.splits

    def run(self, checkpoint: dict[str, Any] | None = None) -> None:
        """Train until the budget is used up, then score the held-out text.

        Args:
            checkpoint: what to go on from; None begins at the beginning.

        Raises:
            RunFailed, Stopped: with the state after the last whole step saved, where it can be.
        """
        try:
            self.train_and_score(checkpoint)
        except OSError as error:
            reason = f"{error.strerror or error} ({error.filename or self.folder.path})"
            raise RunFailed(
                f"the run cannot go on: {reason}; what was saved before is kept"
            ) from error

    def assign(self, checkpoint: dict[str, Any] | None) -> None:
        """Tell the other ranks all that they need to know; they read no file."""
        path, values, threads = self.folder.path, self.folder.values, torch.get_num_threads()
        self.ranks.tell(Assignment(self.config, path, values, self.splits, threads, checkpoint))

    def train_and_score(self, checkpoint: dict[str, Any] | None) -> None:
        keep_freed_memory()
        began = self.started - self.folder.values["seconds"]
        config, folder = self.config, self.folder
        folder.record(
            status="running",
            device=device_name(self.device),
            precision=config.device.precision,
            backend=config.model.backend.value if config.model.core is CoreName.fused else None,
            ranks=self.ranks.count,
            versions=versions(),
        )
        self.data.training.steps_done = 0 if checkpoint is None else checkpoint["global_step"]
        steps_per_epoch = self.data.training.steps_per_epoch
        validate_every = steps_per_epoch * config.training.validate_every
        writer = SummaryWriter(str(folder.path)) if self.ranks.is_first else None
        if checkpoint is None and writer is not None:
            write_start(writer, config)
            if self.splits.text_note:
                writer.add_text("text", self.splits.text_note)
        budget = Budget(config.training, steps_per_epoch, self.ranks)
        task = NextTokenTask(self.model, config, budget.spent, steps_per_epoch, self.ranks)
        inside, charts = None, CHARTS
        if writer is not None and config.inside.every_epochs is not None:
            every = config.inside.every_epochs * steps_per_epoch
            inside = Inside(config.model.cell, self.model, self.splits, every, writer)
            charts = CHARTS | INSIDE_CHARTS
        measurements = Measurements(task, writer, self.splits, config.training.log_every, charts)

        def record(step: int) -> None:
            folder.record(
                epochs=step // steps_per_epoch,  # that were completed
                steps=step,
                tokens=measurements.tokens,
                tokens_per_second=measurements.tokens_per_second,
                seconds=time.monotonic() - began,
                **{"train/perplexity": measurements.latest.get("train/perplexity")},
            )

        checkpoints = Checkpoints(folder, config.checkpoint, task, writer, self.signals, record)
        # In this order: what is measured is shown, and stored when all else is done.
        callbacks: list[Callback] = [budget, measurements]
        if self.ranks.count > 1:
            callbacks.insert(0, Agreement(self.ranks, self.signals))
        if writer is not None:
            callbacks += [
                Progress(folder, budget, measurements, config.training.log_every),
                Samples(config, self.prompts, self.splits.vocabulary, task, writer),
                FloorLine(self.model, self.splits.validation, config.data.evaluation_rows, writer),
            ]
        if inside is not None:
            callbacks.append(inside)
        callbacks += [ExactResume(task, validate_every), checkpoints]
        files = SealedFiles(folder, checkpoint, self.ranks)
        trainer = build_trainer(config, self.device, validate_every, callbacks, files)
        newest = None if checkpoint is None else folder.last
        status = "failed"
        try:
            if self.ranks.is_first:
                self.assign(checkpoint)
            self.ranks.copy_from_first(self.model.parameters())
            trainer.fit(task, self.data, ckpt_path=newest)
            if writer is not None:
                self.model.to(self.device).eval()
                with self.signals.at_once():
                    if inside is not None:
                        inside.finish(trainer.global_step)
                    figures = final_figures(
                        config.data, self.splits, self.model, folder, checkpoints
                    )
                folder.record(**figures)
                write_success(writer, figures, trainer.global_step)  # before the summary says so
            status = "completed"
        except Diverged as error:
            folder.values["diverged_step"] = error.step
            status = "diverged"
            raise
        except Stopped:
            status = "interrupted"
            raise
        except SIGTERMException as error:  # Lightning noticed first, and would leave with 0
            status = "interrupted"
            raise Stopped(signal.SIGTERM) from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise RunFailed(
                f"out of memory ({first_line(error)}): try a smaller data.batch_size, "
                "data.num_steps or model.hidden_size"
            ) from error
        finally:
            if status != "completed":
                step = checkpoints.saved_step
                saved = "nothing" if step is None else f"step {step:,}"
                log.info("%s; %s is saved", status, saved)
            try:
                if measurements.tokens > 0:  # else nothing is known beside what is there already
                    folder.values["status"] = status
                    record(trainer.global_step)
                folder.record(status=status)
                if writer is not None:
                    if status in ("failed", "diverged"):
                        write_failure(writer)
                    writer.close()
            except OSError as error:
                log.warning("warning: %s could not be finished: %s", folder.path, error.strerror)


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
