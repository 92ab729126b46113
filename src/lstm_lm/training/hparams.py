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
import time
from enum import StrEnum
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import metadata  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.api_pb2 import (  # type: ignore[import-untyped]
    DATA_TYPE_BOOL,
    DATA_TYPE_FLOAT64,
    DATA_TYPE_STRING,
    STATUS_FAILURE,
    STATUS_SUCCESS,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import (  # type: ignore[import-untyped]
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.config import PRECISIONS, RunConfig
from lstm_lm.fingerprint import flatten, what_is_trained

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
    start = SessionStartInfo(start_time_secs=time.time())
    infos = []
    for name, value in settings.items():
        info = HParamInfo(name=name, differs=name in SHOWN_FIRST)
        if types[name] is bool:
            info.type = DATA_TYPE_BOOL
            start.hparams[name].bool_value = value
        elif types[name] in (int, float):
            info.type = DATA_TYPE_FLOAT64
            start.hparams[name].number_value = value
        else:
            info.type = DATA_TYPE_STRING
            info.domain_discrete.extend(choices(name, types[name]))
            start.hparams[name].string_value = "null" if value is None else str(value)
        infos.append(info)
    metrics = [MetricInfo(name=MetricName(tag=tag)) for tag in COLUMNS]
    columns = Experiment(hparam_infos=infos, metric_infos=metrics)
    write(writer, metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=columns))
    write(writer, metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))


def write_success(writer: SummaryWriter, figures: dict[str, Any], step: int) -> None:
    """The exact figures, each at the step that its weights are of, flushed to the files.

    Raises:
        OSError: if that is not possible.
    """
    for name, tag in FINAL_FIGURES.items():
        if math.isfinite(figures[name]):
            is_final = tag.startswith("final/")
            writer.add_scalar(tag, figures[name], step if is_final else figures["best/step"])
    write_end(writer, STATUS_SUCCESS)
    writer.flush()


def write_failure(writer: SummaryWriter) -> None:
    write_end(writer, STATUS_FAILURE)


def write_end(writer: SummaryWriter, status: int) -> None:
    end = SessionEndInfo(status=status, end_time_secs=time.time())
    write(writer, metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))


def write(writer: SummaryWriter, tag: str, content: HParamsPluginData) -> None:
    about = metadata.create_summary_metadata(content)
    value = Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
    writer._get_file_writer().add_summary(Summary(value=[value]))


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
    return list(kind) if isinstance(kind, type) and issubclass(kind, StrEnum) else []
