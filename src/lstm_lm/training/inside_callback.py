"""Callback that writes gates, cells, norms and gradient flow of a model to TensorBoard."""

from io import BytesIO
from typing import Any

import torch
from jaxtyping import Float
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.config import Cell
from lstm_lm.data.splits import Splits
from lstm_lm.inside.gradient_flow import gradient_flow, gradient_flow_windows
from lstm_lm.inside.text_picture import TextPicture
from lstm_lm.inside.units import Trace, readable_tokens, readable_units, trace
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.training.module import LanguageModelModule

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


class Inside(Callback):
    """Writes gates, units and norms every few epochs, and gradient flow before and after training.

    It uses no random numbers and changes nothing, so the run is the same with and without it.
    """

    def __init__(
        self, cell: Cell, model: LanguageModel, splits: Splits, every: int, writer: SummaryWriter
    ) -> None:
        self.cell = cell
        self.model = model
        self.validation = splits.validation
        self.every = every
        self.writer = writer
        self.looked_at: int | None = None
        self.weights_before: list[Tensor] = []  # the step to write about
        self.ids = splits.validation.ids[:STRETCH].long().unsqueeze(1)
        self.tokens = readable_tokens(splits.vocabulary, self.ids[:, 0].tolist())
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
