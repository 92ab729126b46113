"""Callbacks that show a run's progress, its samples, and the gap to the floor of generated texts.

Progress is a bar in a terminal, a line after each validation, and a small file for other
processes, such as a sweep.
"""

import contextlib
import json
import logging
import math
import os
import textwrap
import time
from itertools import islice
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.config import RunConfig
from lstm_lm.data.batches import as_rows
from lstm_lm.data.splits import Split
from lstm_lm.data.text import spell
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.evaluation import AboveFloor, perplexity, token_losses
from lstm_lm.files import UNFINISHED
from lstm_lm.generation import generate
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.saved.run_folder import RunFolder
from lstm_lm.training.metrics import in_all_units, is_nearly_ascii
from lstm_lm.training.module import LanguageModelModule
from lstm_lm.training.optimization import budget_share, epochs_done

WRITE_EVERY = 1.0  # seconds

COLUMNS = 96

log = logging.getLogger(__name__)


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar, with the newest perplexities."""

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
    """Logs a line after each validation, and keeps the run's progress file up to date."""

    def __init__(self, folder: RunFolder, module: LanguageModelModule) -> None:
        self.folder = folder
        self.module = module
        self.written_at = -WRITE_EVERY

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if time.monotonic() - self.written_at >= WRITE_EVERY:
            self.tell(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        latest = trainer.callback_metrics
        log.info(
            "epoch %.4g  step %s  train perplexity %.4g  validation perplexity %.4g  "
            "%s  %s tokens per second",
            epochs_done(trainer),
            f"{trainer.global_step:,}",
            self.train_perplexity or math.nan,
            latest["validation/perplexity"],
            bits_text(
                float(latest["validation/bits_per_character"]),
                float(latest["validation/bits_per_byte"]),
            ),
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
        """Mean over this epoch's steps, measured while the weights change."""
        loss = self.module.metrics.epoch_loss
        return None if loss is None else perplexity(loss)

    def tell(self, trainer: Trainer) -> None:
        """Replace the progress file. It need not survive a crash, and nothing depends on it."""
        self.written_at = time.monotonic()
        latest = trainer.callback_metrics
        progress = {
            "share": budget_share(trainer)(trainer.global_step),  # of the budget
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


class FloorLine(Callback):
    """Logs the floor beside the validation curve, the gap between them, and the gap of memory.

    Scores the validation text in rows, as validation does, while the model is still in evaluation
    mode. The first string of a row begins in the row before. The model has not read that
    beginning, so the gaps of this string are left out.
    """

    def __init__(
        self, model: LanguageModel, validation: Split, rows: int, writer: SummaryWriter
    ) -> None:
        self.model = model
        self.validation = validation
        self.rows = min(rows, validation.predictions)
        self.writer = writer

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self.validation.floor is None:
            return
        ids = self.validation.ids.to(next(self.model.parameters()).device)
        losses = token_losses(self.model, *as_rows(ids, self.rows))
        above = AboveFloor.of(losses, self.validation.floor, self.rows)
        shown = in_all_units("floor", above.floor, self.validation.token_length)
        shown["validation/gap"] = above.gap
        if above.memory_gap is not None:
            shown["validation/memory_gap"] = above.memory_gap
        for name, value in shown.items():
            self.writer.add_scalar(name, value, trainer.global_step)


class Samples(Callback):
    """Logs continuations of the prompts after each validation, still in evaluation mode.

    Sampling has its own random state, so training does not change.
    """

    def __init__(
        self,
        config: RunConfig,
        prompts: list[list[int]],
        vocabulary: Vocabulary,
        model: LanguageModel,
        writer: SummaryWriter | None,
    ) -> None:
        self.config = config.samples
        self.seed = config.seed
        self.prompts = prompts
        self.vocabulary = vocabulary
        self.model = model
        self.writer = writer
        self.level = config.data.level

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        for number, prompt in enumerate(self.prompts, start=1):
            text = wrap(self.continue_prompt(prompt))
            log.info("%s", textwrap.indent(text, "  | ", lambda _: True))
            if self.writer is not None:
                # Four spaces make it preformatted text in TensorBoard's Markdown.
                preformatted = textwrap.indent(text, "    ")
                self.writer.add_text(f"sample {number}", preformatted, trainer.global_step)

    def continue_prompt(self, prompt: list[int]) -> str:
        following = generate(self.model, prompt, self.config.temperature, seed=self.seed)
        ids = prompt + [id_ for (id_,) in islice(following, self.config.tokens)]
        return spell(self.vocabulary.decode(ids), self.level)


def bits_text(per_character: float, per_byte: float) -> str:
    """Bits per character, and per byte unless they are nearly the same."""
    text = f"{per_character:.4f} bits per character"
    shows_both = not is_nearly_ascii(per_character, per_byte)
    return f"{text}, {per_byte:.4f} per byte" if shows_both else text


def wrap(text: str) -> str:
    """The text with long lines wrapped; blanks stay as the model generated them."""
    lines = (
        textwrap.wrap(line, COLUMNS, replace_whitespace=False, drop_whitespace=False) or [""]
        for line in text.split("\n")
    )
    return "\n".join(part for line in lines for part in line)
