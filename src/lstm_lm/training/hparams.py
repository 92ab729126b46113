"""A run's row in TensorBoard's HPARAMS: its settings, its figures, and how it ended.

The settings are written once, at a run's start. How it ended is written when it does, after its
last checkpoint, so that it is cut off with all that follows when the run goes on. TensorBoard
shows a run without an end, one that trains or was interrupted, as UNKNOWN: whether its process
still lives cannot be read from its files.

Every run writes the same settings with the same types, as TensorBoard takes the columns from
whichever run it reads first. What can be null is text, as there is no number for it.
"""

import dataclasses
import math
from enum import StrEnum
from typing import Any

from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import (  # type: ignore[import-untyped]
    HParamsPluginData,
)
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from lstm_lm.config import PRECISIONS, RunConfig
from lstm_lm.saved.fingerprint import flatten, what_is_trained

# What the summary has exactly in the end, and its tag, where that is not the same: a curve has it.
FINAL_FIGURES = {
    "best/validation/perplexity": "best/validation/perplexity",
    "test/perplexity": "test/perplexity",
    "validation/perplexity": "final/validation/perplexity",
}
# TensorBoard shows five settings until others are asked for: those said to differ, by alphabet.
SHOWN_FIRST = {
    "model.cell",
    "model.core",
    "model.hidden_size",
    "optimizer.learning_rate",
    "seed",
}
COLUMNS = [
    "best/validation/perplexity",
    "test/perplexity",
    "final/validation/perplexity",
    "validation/perplexity",
    "train/perplexity",
    "tokens_per_second",
]


def write_start(writer: SummaryWriter, config: RunConfig) -> None:
    """What is trained, and on what."""
    settings = what_is_trained(config) | flatten({"device": dataclasses.asdict(config.device)})
    settings["model.backend"] = config.model.backend
    types = setting_types(RunConfig)
    values = {name: as_column(value, types.get(name)) for name, value in settings.items()}
    possible = {name: choices(name, types.get(name)) for name in values}
    domains = {name: values for name, values in possible.items() if values}
    columns, start, _ = hparams(values, dict.fromkeys(COLUMNS, math.nan), domains)

    def show_first(content: Any) -> None:
        for info in content.experiment.hparam_infos:
            info.differs = info.name in SHOWN_FIRST

    change(columns, show_first)
    for summary in columns, start:
        writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]


def as_column(value: Any, kind: Any) -> float | str:
    if kind in (int, float):
        return float(value)
    return "null" if value is None else str(value)


def write_success(writer: SummaryWriter, figures: dict[str, Any], step: int) -> None:
    """The exact figures, each at the step that its weights are of, flushed to the files.

    Raises:
        OSError: if that is not possible.
    """
    for name, tag in FINAL_FIGURES.items():
        if math.isfinite(figures[name]):
            is_final = tag.startswith("final/")
            writer.add_scalar(tag, figures[name], step if is_final else figures["best/step"])
    _, _, end = hparams({}, {})
    writer.file_writer.add_summary(end)  # type: ignore[attr-defined]
    writer.flush()


def write_failure(writer: SummaryWriter) -> None:
    def fail(content: Any) -> None:
        content.session_end_info.status = STATUS_FAILURE

    _, _, end = hparams({}, {})
    change(end, fail)
    writer.file_writer.add_summary(end)  # type: ignore[attr-defined]


def change(summary: Any, edit: Any) -> None:
    """Edit what a summary holds for HPARAMS."""
    data = summary.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(data.content)
    edit(content)
    data.content = content.SerializeToString()


def setting_types(group: type, prefix: str = "") -> dict[str, Any]:
    """The type of each setting, by its dotted name."""
    types: dict[str, Any] = {}
    for field in dataclasses.fields(group):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            types |= setting_types(field.type, f"{prefix}{field.name}.")
        else:
            types[prefix + field.name] = field.type
    return types


def choices(name: str, kind: Any) -> list[str]:
    """All that a setting can be, for TensorBoard to filter by; none if that has no end."""
    if name == "device.precision":
        return list(PRECISIONS)
    is_enum = isinstance(kind, type) and issubclass(kind, StrEnum)
    return [choice.value for choice in kind] if is_enum else []
