"""How far a run has come: a bar at a terminal, a line after each validation anywhere, and a small
file for whoever watches from outside, such as a sweep.
"""

import contextlib
import json
import logging
import math
import os
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from lstm_lm.atomic_file import UNFINISHED
from lstm_lm.evaluation import perplexity
from lstm_lm.run_folder import RunFolder
from lstm_lm.training.budget import epochs_done, share_of_budget
from lstm_lm.training.module import LanguageModelModule

TELL_EVERY = 1.0  # seconds

log = logging.getLogger(__name__)


class ProgressBar(TQDMProgressBar):
    """Lightning's, with the newest perplexities."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        for name in "train/perplexity", "validation/perplexity":
            if name in trainer.callback_metrics:
                shown[name] = float(trainer.callback_metrics[name])
        return shown


class Progress(Callback):
    def __init__(self, folder: RunFolder, module: LanguageModelModule) -> None:
        self.folder = folder
        self.module = module
        self.told_at = -TELL_EVERY

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if time.monotonic() - self.told_at >= TELL_EVERY:
            self.tell(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        latest = trainer.callback_metrics
        log.info(
            "epoch %.4g  step %s  train perplexity %.4g  validation perplexity %.4g  "
            "%.4f bits per character  %s tokens per second",
            epochs_done(trainer),
            f"{trainer.global_step:,}",
            self.train_perplexity or math.nan,
            latest["validation/perplexity"],
            latest["validation/bits_per_character"],
            f"{self.module.metrics.tokens_per_second or 0:,.0f}",
        )
        if trainer.state.fn is TrainerFn.FITTING:
            self.tell(trainer)

    def on_train_end(self, *_: Any) -> None:
        self.close()

    def on_exception(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.folder.progress.unlink()

    @property
    def train_perplexity(self) -> float | None:
        """While the weights moved, over the epoch."""
        loss = self.module.metrics.epoch_loss
        return None if loss is None else perplexity(loss)

    def tell(self, trainer: Trainer) -> None:
        """Replace the file. It need not survive the machine, nor does its absence matter."""
        self.told_at = time.monotonic()
        latest = trainer.callback_metrics
        progress = {
            "share": share_of_budget(trainer)(trainer.global_step),  # of the budget
            "epoch": epochs_done(trainer),
            "train/perplexity": self.train_perplexity,
            "validation/perplexity": float(shown)
            if (shown := latest.get("validation/perplexity")) is not None
            else None,
            "tokens_per_second": self.module.metrics.tokens_per_second,
        }
        with contextlib.suppress(OSError):
            unfinished = self.folder.path / f".progress{UNFINISHED}"
            unfinished.write_text(json.dumps(progress))
            os.replace(unfinished, self.folder.progress)
