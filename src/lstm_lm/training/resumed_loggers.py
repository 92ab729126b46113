"""Loggers of a resumed run; each continues its curves in its own way.

TensorBoard    its files are cut back to their size at the checkpoint; see ``event_files``
CSV            Lightning deletes the file of an earlier process, so its rows are logged again
W&B, MLflow    have a run of their own; its id is kept in the run folder
"""

import csv
import itertools
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.errors import DamagedFile
from lstm_lm.files import read_json, read_regular, write_atomically
from lstm_lm.lightning_parts import TARGET

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
