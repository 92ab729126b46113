"""A run's TensorBoard event files: read as curves, and truncated to the state of a checkpoint.

A resumed run writes its events since the last checkpoint again. They are removed first, or
readers would see those points twice.

A file is a sequence of records: a length, its checksum, an event, its checksum. TensorBoard's own
readers stop silently at a damaged record, and this one with an error.
"""

import logging
import math
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import accumulate
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import masked_crc32c  # type: ignore[import-untyped]

from lstm_lm.errors import DamagedFile
from lstm_lm.files import fsync_path, read_regular

PATTERN = "events.out.tfevents.*"

log = logging.getLogger(__name__)


@dataclass
class Curve:
    steps: list[int]  # ascending, each once
    values: list[float]

    def at(self, step: int) -> float | None:
        """The value at that step, or the newest before it."""
        index = bisect_right(self.steps, step)
        return self.values[index - 1] if index else None


def read_curves(folder: Path, is_running: bool = False) -> dict[str, Curve]:
    """The curves by their tags. If a step was written twice, the last one written counts.

    A file is used up to its first damaged record, with a warning. Points that are not finite
    (TensorBoard's numbers end at 3e38) are left out, and so are curves without other points.

    Args:
        is_running: whether the run may be writing now, so that the last record may be incomplete.
    """
    events = []
    for file in sorted(folder.glob(PATTERN)):
        try:
            for event in read_events(file):
                events.append(event)
        except DamagedFile as error:
            if not is_running:
                log.warning("warning: %s; what comes before is used", error)
        except OSError as error:
            log.warning("warning: %s cannot be read: %s", file, error.strerror)
    points: dict[str, dict[int, float]] = {}
    for event in sorted(events, key=lambda event: event.wall_time):
        for part in event.summary.value:
            if part.WhichOneof("value") == "simple_value":
                points.setdefault(part.tag, {})[event.step] = part.simple_value
    curves = {}
    for tag, values in points.items():
        finite = sorted((step, value) for step, value in values.items() if math.isfinite(value))
        if finite:
            curves[tag] = Curve(*map(list, zip(*finite, strict=True)))
    return curves


def read_events(file: Path) -> Iterator[Event]:
    """The events of a file, in order.

    Raises:
        DamagedFile: at the first record that is damaged or incomplete.
    """
    content, position = read_regular(file), 0
    while position < len(content):
        size = int.from_bytes(content[position : position + 8], "little")
        end = position + 12 + size
        if end + 4 > len(content):
            raise DamagedFile(f"{file} ends in the middle of a record")
        for start, stop in (position, position + 8), (position + 12, end):
            checksum = int.from_bytes(content[stop : stop + 4], "little")
            if masked_crc32c(content[start:stop]) != checksum:
                raise DamagedFile(f"{file} is damaged at byte {position:,}")
        try:
            yield Event.FromString(content[position + 12 : end])
        except DecodeError:
            raise DamagedFile(f"{file} is damaged at byte {position:,}") from None
        position = end + 4


def training_seconds(curves: dict[str, Curve]) -> Curve | None:
    """Seconds of training at each step, without validation, samples and interruptions.

    Wall time would include the time between a run's end and its resumption, so the tokens since
    the step before are divided by their measured speed.
    """
    tokens, speed = curves.get("tokens"), curves.get("tokens_per_second")
    if tokens is None or speed is None:
        return None
    speeds = dict(zip(speed.steps, speed.values, strict=True))
    before = [0.0, *tokens.values[:-1]]
    durations = [
        (count - old) / speeds[step] if speeds.get(step) else 0.0
        for step, old, count in zip(tokens.steps, before, tokens.values, strict=True)
    ]
    return Curve(tokens.steps, list(accumulate(durations)))


def sizes_on_disk(folder: Path) -> dict[str, int]:
    """The files' sizes in bytes, after the system has written them to disk."""
    files = sorted(event_files(folder))
    for file in files:
        fsync_path(file)
    return {file.name: file.stat().st_size for file in files}


def event_files(folder: Path) -> set[Path]:
    return {file for file in folder.glob(PATTERN) if file.is_file()}  # opening a pipe would block


def sizes_at(checkpoint: dict[str, Any] | None) -> dict[str, int]:
    """The files' sizes when a checkpoint was written; empty without one.

    Raises:
        DamagedFile: if a checkpoint, which may be a stranger's, names any other file.
    """
    sizes = {} if checkpoint is None else checkpoint["callbacks"]["RunCheckpoint"]["event_files"]
    for name, size in sizes.items():
        if Path(name).name != name or not fnmatch(name, PATTERN) or size < 0:
            raise DamagedFile(f"the checkpoint names {name}, which is no file of TensorBoard's")
    return sizes


def cut_back(files: set[Path], sizes: dict[str, int], folder: Path) -> None:
    """Truncate these files to their sizes; delete those without one."""
    for file in files:
        if file.name not in sizes:
            file.unlink()
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size < size:
            log.warning("%s is not whole: the curves have a gap", file)
        else:
            os.truncate(file, size)
