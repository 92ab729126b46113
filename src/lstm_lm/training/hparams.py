"""A run's row in TensorBoard's HPARAMS tab: its settings, metrics and status.

The settings are written once, when a run starts. The status is written after the last checkpoint,
so a resumed run cuts it off. A run without a status is still training or was interrupted;
TensorBoard shows it as UNKNOWN.

Every run writes the same settings with the same types, because TensorBoard takes the columns from
the run it reads first. A setting that can be null is written as text, as no number means null.
"""

import math
import time
from enum import StrEnum
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import (  # type: ignore[import-untyped]
    api_pb2,
    metadata,
    plugin_data_pb2,
)
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.config import PRECISIONS, RunConfig, all_settings, settings_of
from lstm_lm.saved.fingerprint import trained_settings

# Tag of each exact final metric, by summary key; validation/perplexity is already a curve's tag.
FINAL_FIGURES = {
    "best/validation/perplexity": "best/validation/perplexity",
    "test/perplexity": "test/perplexity",
    "validation/perplexity": "final/validation/perplexity",
}
CURVES = "validation/perplexity", "train/perplexity", "tokens_per_second"
# TensorBoard first shows five settings: those marked as different between runs.
SHOWN_FIRST = {
    *("model.cell", "model.core", "model.hidden_size", "optimizer.learning_rate", "seed"),
}


def write_start(writer: SummaryWriter, config: RunConfig) -> None:
    """Write the settings of a run, its device included."""
    known = settings_of(config)
    of_run = [name for name in known if name.startswith("device.")]
    settings = trained_settings(config) | {n: known[n] for n in [*of_run, "model.backend"]}
    types = {setting.name: setting.type for setting in all_settings()}
    infos, start = [], plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in settings.items():
        is_number = types.get(name) in (int, float)
        if is_number:
            start.hparams[name].number_value = float(value)
        else:
            start.hparams[name].string_value = "null" if value is None else str(value)
        kind = api_pb2.DATA_TYPE_FLOAT64 if is_number else api_pb2.DATA_TYPE_STRING
        infos.append(api_pb2.HParamInfo(name=name, type=kind, differs=name in SHOWN_FIRST))
        infos[-1].domain_discrete.extend(choices(name, types.get(name)))
    metrics = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag))
        for tag in (*FINAL_FIGURES.values(), *CURVES)
    ]
    columns = api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)
    write(writer, metadata.EXPERIMENT_TAG, experiment=columns)
    write(writer, metadata.SESSION_START_INFO_TAG, session_start_info=start)


def write_success(writer: SummaryWriter, figures: dict[str, Any], step: int) -> None:
    """Write the exact metrics, each at the step of its weights, and flush them to disk.

    Raises:
        OSError: if they cannot be written.
    """
    for name, tag in FINAL_FIGURES.items():
        if math.isfinite(figures[name]):
            is_final = tag.startswith("final/")
            writer.add_scalar(tag, figures[name], step if is_final else figures["best/step"])
    write_end(writer, api_pb2.STATUS_SUCCESS)
    writer.flush()


def write_failure(writer: SummaryWriter) -> None:
    write_end(writer, api_pb2.STATUS_FAILURE)


def write_end(writer: SummaryWriter, status: int) -> None:
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    write(writer, metadata.SESSION_END_INFO_TAG, session_end_info=end)


def write(writer: SummaryWriter, tag: str, **content: Any) -> None:
    data = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    value = Summary.Value(tag=tag, metadata=data, tensor=metadata.NULL_TENSOR)
    writer.file_writer.add_summary(Summary(value=[value]))  # type: ignore[attr-defined]


def choices(name: str, kind: Any) -> list[str]:
    """All values of a setting, for TensorBoard's filters; empty if they cannot be listed."""
    if name == "device.precision":
        return list(PRECISIONS)
    is_enum = isinstance(kind, type) and issubclass(kind, StrEnum)
    return [choice.value for choice in kind] if is_enum else []
