"""TensorBoard's event files of a run: cut back to a checkpoint, and read back as curves.

A resumed run writes again what it wrote after its last checkpoint, so that is cut off first; else
readers would see those points twice.

A file is a row of records: a length, its checksum, an event, its checksum. Reading ends at the
first record that is not whole, with a warning, and uses what came before. TensorBoard's own reader
does the same, but does not say so.
"""

import logging
import math
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import masked_crc32c  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.errors import DamagedFile
from lstm_lm.files import flush_to_disk, read_regular

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
    """The curves by their tags. Of a step that was written twice, the last written counts.

    TensorBoard's numbers end at 3e38. Points that are not finite are left out, and so is a curve
    that has no others.

    Args:
        is_running: whether the run may be writing at this moment, so that the last record need
            not be whole.
    """
    points: dict[str, dict[int, tuple[float, float]]] = {}
    for file in sorted(folder.glob(PATTERN)):
        try:
            for event in read_events(file):
                for part in event.summary.value:
                    if part.WhichOneof("value") == "simple_value":
                        of_tag = points.setdefault(part.tag, {})
                        point = event.wall_time, part.simple_value
                        of_tag[event.step] = max(of_tag.get(event.step, point), point, key=first)
        except DamagedFile as error:
            if not is_running:
                log.warning("warning: %s; what comes before is used", error)
        except OSError as error:
            log.warning("warning: %s cannot be read: %s", file, error.strerror)
    curves = {tag: curve(of_tag) for tag, of_tag in points.items()}
    return {tag: found for tag, found in curves.items() if found.steps}


def first(point: tuple[float, float]) -> float:
    return point[0]


def curve(points: dict[int, tuple[float, float]]) -> Curve:
    steps = sorted(step for step, (_, value) in points.items() if math.isfinite(value))
    return Curve(steps, [points[step][1] for step in steps])


def read_events(file: Path) -> Iterator[Event]:
    """
    Raises:
        DamagedFile: at the first record that is not whole.
    """
    content = read_regular(file)
    position = 0
    while position < len(content):
        try:
            (length,) = struct.unpack_from("<Q", content, position)
            (length_checksum,) = struct.unpack_from("<I", content, position + 8)
            end = position + 12 + length
            (checksum,) = struct.unpack_from("<I", content, end)
            event = content[position + 12 : end]
            if masked_crc32c(content[position : position + 8]) != length_checksum:
                raise DamagedFile(f"{file} is damaged at byte {position:,}")
            if masked_crc32c(event) != checksum:
                raise DamagedFile(f"{file} is damaged at byte {position:,}")
            yield Event.FromString(event)
        except (struct.error, OverflowError):
            raise DamagedFile(f"{file} ends in the middle of a record") from None
        except DecodeError:
            raise DamagedFile(f"{file} is damaged at byte {position:,}") from None
        position = end + 4


def training_seconds(curves: dict[str, Curve]) -> Curve | None:
    """Seconds of training up to each reading, without validation, samples and interruptions.

    The clock on the wall would count the time between a run's end and its resumption; so each
    stretch is as long as its tokens took at the speed that was measured over it.
    """
    tokens, speed = curves.get("tokens"), curves.get("tokens_per_second")
    if tokens is None or speed is None:
        return None
    speeds = dict(zip(speed.steps, speed.values, strict=True))
    seconds, before, sums = 0.0, 0.0, []
    for step, count in zip(tokens.steps, tokens.values, strict=True):
        seconds += (count - before) / speeds[step] if speeds.get(step) else 0.0
        before = count
        sums.append(seconds)
    return Curve(tokens.steps, sums)


def flushed_sizes(folder: Path, writer: SummaryWriter | None) -> dict[str, int]:
    """The files' sizes in bytes, once everything is on disk."""
    if writer is not None:
        writer.flush()
    files = sorted(event_files(folder))
    for file in files:
        flush_to_disk(file)
    return {file.name: file.stat().st_size for file in files}


def event_files(folder: Path) -> set[Path]:
    return {file for file in folder.glob(PATTERN) if file.is_file()}  # a pipe would be waited for


def sizes_at(checkpoint: dict[str, Any] | None) -> dict[str, int]:
    """The files' sizes when a checkpoint was written; without one there are none.

    Raises:
        DamagedFile: if a checkpoint, which can be a stranger's, names any but TensorBoard's files.
    """
    sizes = {} if checkpoint is None else checkpoint["callbacks"]["RunCheckpoint"]["event_files"]
    for name, size in sizes.items():
        if Path(name).name != name or not fnmatch(name, PATTERN) or size < 0:
            raise DamagedFile(f"the checkpoint names {name}, which is no file of TensorBoard's")
    return sizes


def cut_back(files: set[Path], sizes: dict[str, int], folder: Path) -> None:
    """Remove from these files all that is beyond their sizes."""
    for file in files:
        if file.name not in sizes:
            file.unlink()
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size < size:
            log.warning("%s is not whole: the curves have a gap", file)
        else:
            os.truncate(file, size)
