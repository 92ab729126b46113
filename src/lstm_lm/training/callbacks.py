"""Callbacks that show a run: its progress, samples, the floor of generated texts, and its inside.

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
from io import BytesIO
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.config import Cell, RunConfig
from lstm_lm.data.batches import as_rows
from lstm_lm.data.splits import Split, Splits
from lstm_lm.data.text import spell
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.evaluation.score import AboveFloor, perplexity, token_losses
from lstm_lm.files import UNFINISHED
from lstm_lm.generation import generate
from lstm_lm.inside.gradient_flow import gradient_flow, gradient_flow_windows
from lstm_lm.inside.text_picture import TextPicture
from lstm_lm.inside.units import Trace, readable_tokens, readable_units, trace
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.saved.run_folder import RunFolder
from lstm_lm.training.metrics import in_all_units, is_nearly_ascii
from lstm_lm.training.module import LanguageModelModule
from lstm_lm.training.optimization import budget_share, epochs_done

WRITE_EVERY = 1.0  # seconds, of the progress file

COLUMNS = 96  # of a sample

# Of the inside:
STRETCH = 500  # tokens of the validation text that the model reads
UNITS = 4
BINS = 50
COLORS = 256
INSIDE_CHARTS = {
    "inside": {
        "gradient flow, over steps back": ["Multiline", ["gradient_flow/.*"]],
        "saturated gates": ["Multiline", ["saturated_gates/.*"]],
        "norm of weights": ["Multiline", ["weight_norm/.*"]],
        "norm of updates": ["Multiline", ["update_norm/.*"]],
    }
}
SHUT, OPEN = 0.1, 0.9  # beyond these a gate is saturated (Karpathy, Johnson & Fei-Fei 2015)

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


class Inside(Callback):
    """Writes gates, units and norms every few epochs, and gradient flow before and after training.

    It uses no random numbers and changes nothing, so the run is the same with and without it.
    """

    def __init__(
        self,
        config: RunConfig,
        model: LanguageModel,
        splits: Splits,
        every: int,
        writer: SummaryWriter,
    ) -> None:
        self.cell = config.model.cell
        self.model = model
        self.validation = splits.validation
        self.every = every
        self.writer = writer
        self.looked_at: int | None = None
        self.weights_before: list[Tensor] = []  # the step to write about
        self.ids = splits.validation.ids[:STRETCH].long().unsqueeze(1)
        self.tokens = readable_tokens(splits.vocabulary, self.ids[:, 0].tolist(), config.data.level)
        self.text = TextPicture(self.tokens)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 0:
            self.write_gradient_flow("start")

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.is_due(trainer):
            self.keep_weights()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if self.weights_before:
            assert isinstance(module, LanguageModelModule)
            module.fetch_metrics()  # waits for the device, so that the clock is right
            module.metrics.stop_clock()
            self.write_norms(trainer.global_step)
            self.look(trainer.global_step)
            self.looked_at = trainer.global_step
            module.metrics.start_clock()

    def is_due(self, trainer: Trainer) -> bool:
        """True for the last batch of every ``every``-th epoch."""
        return trainer.is_last_batch and (trainer.current_epoch + 1) % self.every == 0

    def finish(self, step: int, writer: SummaryWriter) -> None:
        """Write everything about the final weights, with another writer."""
        self.writer = writer
        if step != self.looked_at:
            self.look(step)
        self.write_gradient_flow("end")

    def keep_weights(self) -> None:
        """Copy the weights before a step, for :meth:`write_norms` after it."""
        self.weights_before = [weights.detach().clone() for weights in self.model.parameters()]

    def look(self, step: int) -> None:
        device = next(self.model.parameters()).device
        seen = trace(self.model, self.cell, self.ids.to(device))
        if is_finite(seen):  # otherwise nothing can be shown, and validation will report it
            self.write_gates(seen, step)
            self.write_picture(seen, step)

    def write_gates(self, seen: Trace, step: int) -> None:
        for number, layer in enumerate(seen.layers, start=1):
            for name, values in layer.gates.items():
                self.write_histogram(f"gates/layer {number} {name}", values, 0.0, 1.0, step)
                for side, saturated in ("shut", values < SHUT), ("open", values > OPEN):
                    share = float(saturated.sum()) / values.numel()
                    tag = f"saturated_gates/{side} {name}, layer {number}"
                    self.writer.add_scalar(tag, share, step)
            largest = float(layer.memory.abs().max())
            tag = f"memory/layer {number} {layer.memory_name}"
            self.write_histogram(tag, layer.memory, -largest, largest, step)

    def write_histogram(
        self, tag: str, values: Float[Tensor, "..."], low: float, high: float, step: int
    ) -> None:
        """Write a histogram that is counted on the device, in equal bins."""
        high = max(high, low + 1e-6)
        self.writer.add_histogram_raw(
            tag,
            float(values.min()),
            float(values.max()),
            values.numel(),
            float(values.sum(dtype=torch.float64)),
            float(values.square().sum(dtype=torch.float64)),
            torch.linspace(low, high, BINS + 1)[1:].tolist(),
            values.float().histc(BINS, low, high).tolist(),
            step,
        )

    def write_picture(self, seen: Trace, step: int) -> None:
        activities = [layer.activity[:, 0].float().cpu() for layer in seen.layers]
        units = readable_units(activities, self.tokens, UNITS)
        rows = [(unit.title, activities[unit.layer][:, unit.unit].numpy()) for unit in units]
        if rows:
            # A third of the bytes of the writer's own add_image, in a quarter of its time.
            png, image = BytesIO(), self.text.colored(rows)
            image.quantize(COLORS, Image.Quantize.FASTOCTREE).save(png, "PNG", compress_level=1)
            encoded = Summary.Image(
                width=image.width,
                height=image.height,
                colorspace=3,  # RGB
                encoded_image_string=png.getvalue(),
            )
            value = Summary.Value(tag="units", image=encoded)
            self.writer.file_writer.add_summary(Summary(value=[value]), step)  # type: ignore[attr-defined]

    def write_norms(self, step: int) -> None:
        """Write the norms of each layer's weights and of their change in the last step."""
        before = dict(zip(self.model.parameters(), self.weights_before, strict=True))
        for name, part in parts(self.model).items():
            weights = [weights.detach() for weights in part.parameters()]
            changes = [weights.detach() - before[weights] for weights in part.parameters()]
            self.writer.add_scalar(f"weight_norm/{name}", total_norm(weights), step)
            self.writer.add_scalar(f"update_norm/{name}", total_norm(changes), step)
        self.weights_before = []

    def write_gradient_flow(self, when: str) -> None:
        """Write gradient norms as curves over steps back in time, not over optimizer steps."""
        if self.cell is Cell.transformer:
            return  # without a state, no gradient flows back in time
        device = next(self.model.parameters()).device
        inputs, targets = gradient_flow_windows(self.validation)
        flow = gradient_flow(self.model, inputs.to(device), targets.to(device))
        for name, norms in flow.items():
            for back, norm in enumerate(norms.tolist()):
                self.writer.add_scalar(f"gradient_flow/{when} {name}", norm, back)


def is_finite(seen: Trace) -> bool:
    values = [part for layer in seen.layers for part in (*layer.gates.values(), layer.memory)]
    return all(bool(part.isfinite().all()) for part in values)


def parts(model: LanguageModel) -> dict[str, nn.Module]:
    embedding = {} if model.embedding is None else {"embedding": model.embedding}
    layers = {f"layer {number}": core for number, core in enumerate(model.cores, start=1)}
    return {**embedding, **layers, "output layer": model.output}


def total_norm(tensors: list[Tensor]) -> float:
    return float(nn.utils.get_total_norm(tensors))
