"""How far a run has come: a bar at a terminal, a line after each validation anywhere, and a small
file for whoever watches from outside, such as a sweep.
"""

import contextlib
import json
import logging
import os
import time
from typing import Any, NoReturn

from lightning import LightningModule, Trainer
from tqdm import tqdm

from lstm_lm.atomic_file import UNFINISHED
from lstm_lm.run_folder import RunFolder
from lstm_lm.training.budget import Budget
from lstm_lm.training.measurements import Measurements
from lstm_lm.training.step_callback import StepCallback

TELL_EVERY = 1.0  # seconds

log = logging.getLogger(__name__)


class Progress(StepCallback):
    def __init__(
        self, folder: RunFolder, budget: Budget, measurements: Measurements, refresh_every: int
    ) -> None:
        self.folder = folder
        self.budget = budget
        self.measurements = measurements
        self.refresh_every = refresh_every
        self.bar: tqdm[NoReturn] | None = None
        self.told_at = -TELL_EVERY

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self.bar = tqdm(
            total=1.0,
            initial=self.budget.spent(trainer.global_step),
            disable=None,  # where there is no terminal
            leave=False,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        )

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.bar is not None:
            # The bar itself sees to it that it is not drawn too often.
            self.bar.update(self.budget.spent(trainer.global_step) - self.bar.n)
            if trainer.global_step % self.refresh_every == 0:
                self.show_perplexity(trainer)
        if time.monotonic() - self.told_at >= TELL_EVERY:
            self.tell(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        latest = self.measurements.latest
        log.info(
            "epoch %.4g  step %s  train perplexity %.4g  validation perplexity %.4g  "
            "%.4f bits per character  %s tokens per second",
            trainer.global_step / self.budget.steps_per_epoch,
            f"{trainer.global_step:,}",
            latest["train/perplexity"],
            latest["validation/perplexity"],
            latest["validation/bits_per_character"],
            f"{self.measurements.tokens_per_second or 0:,.0f}",
        )
        self.show_perplexity(trainer)
        self.tell(trainer)

    def on_train_end(self, *_: Any) -> None:
        self.close()

    def on_exception(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        with contextlib.suppress(OSError):
            self.folder.progress.unlink()

    def show_perplexity(self, trainer: Trainer) -> None:
        latest = self.measurements.latest
        if self.bar is not None and "train/perplexity" in latest:
            self.bar.set_postfix_str(
                f"  step {trainer.global_step:,}  perplexity {latest['train/perplexity']:.4g}"
            )

    def tell(self, trainer: Trainer) -> None:
        """Replace the file. It need not survive the machine, nor does its absence matter."""
        self.told_at = time.monotonic()
        latest = self.measurements.latest
        progress = {
            "share": self.budget.spent(trainer.global_step),  # of the budget
            "epoch": trainer.global_step / self.budget.steps_per_epoch,
            "train/perplexity": latest.get("train/perplexity"),
            "validation/perplexity": latest.get("validation/perplexity"),
            "tokens_per_second": self.measurements.tokens_per_second,
        }
        with contextlib.suppress(OSError):
            unfinished = self.folder.path / f".progress{UNFINISHED}"
            unfinished.write_text(json.dumps(progress))
            os.replace(unfinished, self.folder.progress)
