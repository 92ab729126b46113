"""The loggers of a run: a row in TensorBoard's HPARAMS tab, and how each resumes.

The row has the settings, metrics and status of the run. The settings are written once, when a run
starts. The status is written after the last checkpoint, so a resumed run cuts it off. A run
without a status is still training or was interrupted; TensorBoard shows it as UNKNOWN.

Every run writes the same settings with the same types, because TensorBoard takes the columns from
the run it reads first. A setting that can be null is written as text, as no number means null.

A resumed run continues the curves of each logger in its own way:

TensorBoard    its files are cut back to their size at the checkpoint; see ``event_files``
CSV            Lightning deletes the file of an earlier process, so its rows are logged again
W&B, MLflow    have a run of their own; its id is kept in the run folder
"""

import csv
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import (  # type: ignore[import-untyped]
    api_pb2,
    metadata,
    plugin_data_pb2,
)
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.config import PRECISIONS, RunConfig, all_settings, settings_of
from lstm_lm.errors import DamagedFile
from lstm_lm.files import read_json, read_regular, write_atomically
from lstm_lm.lightning_parts import TARGET
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

CSV = "metrics.csv"
IDS = "loggers.json"
ARGUMENTS = {"WandbLogger": "id", "MLFlowLogger": "run_id"}

log = logging.getLogger(__name__)


def tensorboard_of(loggers: Sequence[Logger]) -> SummaryWriter | None:
    """The writer of the TensorBoard logger, if there is one."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            return logger.experiment
    return None


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


def with_saved_ids(entries: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of loggers, with the ids of the runs they continue.

    Raises:
        DamagedFile: if the ids cannot be read.
    """
    file = folder / IDS
    try:
        ids = dict(read_json(file)) if file.exists() else {}
    except OSError as error:
        raise DamagedFile(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise DamagedFile(f"{file} is damaged: {error}") from error
    known = {}
    for name, entry in entries.items():
        kind = entry[TARGET].rpartition(".")[2]
        more = {}
        if name in ids and kind in ARGUMENTS:
            more = {ARGUMENTS[kind]: ids[name]}
            if kind == "WandbLogger":
                more["resume"] = "allow"
        known[name] = more | entry
    return known


def save_ids(names: Sequence[str], loggers: Sequence[Logger], folder: Path) -> None:
    ids = {}
    for name, logger in zip(names, loggers, strict=True):
        kind = type(logger).__name__
        if kind in ARGUMENTS:
            _ = logger.experiment  # type: ignore[attr-defined]  # starts its run
            ids[name] = logger.run_id if isinstance(logger, MLFlowLogger) else logger.version
    if ids:
        write_atomically(folder / IDS, json.dumps(ids, indent=2).encode())


def csv_files(loggers: Sequence[Logger], folder: Path) -> dict[str, CSVLogger]:
    """CSV loggers by the paths of their files, relative to the run folder."""
    return {
        os.path.relpath(Path(logger.log_dir, CSV), folder.absolute()): logger
        for logger in loggers
        if isinstance(logger, CSVLogger)
    }


def rows_written(loggers: Sequence[Logger], folder: Path) -> dict[str, int]:
    """Number of rows in each CSV file."""
    files = {name: folder / name for name in csv_files(loggers, folder)}
    return {
        name: read_regular(file).count(b"\n") - 1 if file.exists() else 0
        for name, file in files.items()
    }


def restore_rows(
    loggers: Sequence[Logger], folder: Path, checkpoint: dict[str, Any] | None
) -> None:
    """Log the rows of CSV files again, up to the checkpoint; none without a checkpoint.

    The old file is kept under another name until a new state is saved, so nothing is lost.

    Raises:
        DamagedFile: if a CSV file cannot be read.
    """
    counts, last = {}, 0
    if checkpoint is not None:
        counts = checkpoint["callbacks"]["RunCheckpoint"]["csv_rows"]
        last = checkpoint["global_step"]
    for name, logger in csv_files(loggers, folder).items():
        file, kept = folder / name, backup_path(folder / name)
        if file.exists() and not kept.exists():
            os.replace(file, kept)
        if not kept.exists():
            continue
        try:
            with open(kept, newline="") as lines:
                rows = list(itertools.islice(csv.DictReader(lines), counts.get(name)))
            steps = [int(row.pop("step")) for row in rows]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise DamagedFile(f"{file} is damaged: remove it; its curves get a gap") from error
        if len(rows) < counts.get(name, 0):
            log.warning("warning: %s is incomplete: its curves have a gap", file)
        for step, row in zip(steps, rows, strict=True):
            if step <= last:  # cuts a file that the checkpoint does not know
                logger.experiment.log_metrics({n: value for n, value in row.items() if value}, step)
        logger.save()


def backup_path(file: Path) -> Path:
    return file.with_name(f"{CSV}.kept")


def remove_backups(loggers: Sequence[Logger], folder: Path) -> None:
    for name in csv_files(loggers, folder):
        backup_path(folder / name).unlink(missing_ok=True)


def restore_backups(loggers: Sequence[Logger], folder: Path) -> None:
    for name in csv_files(loggers, folder):
        if backup_path(folder / name).exists():
            os.replace(backup_path(folder / name), folder / name)
