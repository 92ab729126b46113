"""What the runs below some folders came to: one result for each run, and for each sweep's job.

A folder can be a sweep's, a run's, or any that has such folders somewhere below it. Nothing in
them is changed. What cannot be read is named in a warning, and the rest goes on.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lstm_lm.config import GENERATED, TextName, flatten, settings_of
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.files import ESCAPE
from lstm_lm.saved.event_files import Curve, read_curves
from lstm_lm.saved.run_folder import RunFolder
from lstm_lm.saved.sweep_folder import Job, SweepFolder

LAST = "diverged", "failed", "waiting"  # and after all others
PLACE = "data.text", "data.path"
SHA256 = "data.text_sha256"
# Of these texts a checksum does not say how they are split.
OWN_SPLITS = {TextName.wikitext2, *GENERATED}

log = logging.getLogger(__name__)


@dataclass
class Result:
    """A run, or a sweep's job that has none."""

    path: Path  # of the run's folder, whether it is there or not
    name: str = ""
    status: str = "unknown"
    settings: dict[str, Any] = field(default_factory=dict)  # by their dotted names
    summary: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    error: str | None = None

    @property
    def best(self) -> float | None:
        """The exact validation perplexity of the best weights, of a run that was completed."""
        return self.summary.get("best/validation/perplexity")

    @property
    def so_far(self) -> float | None:
        """The lowest perplexity of the validations while training."""
        validation = self.curves.get("validation/perplexity")
        return min(validation.values) if validation and validation.values else None

    @property
    def perplexity(self) -> float | None:
        return self.so_far if self.best is None else self.best

    @property
    def order(self) -> tuple[int, int, float]:
        """By this the best come first, and what came to nothing last."""
        rank = 2 + LAST.index(self.status) if self.status in LAST else int(self.best is None)
        perplexity = self.perplexity
        return rank, int(perplexity is None), perplexity or 0.0


def read_results(folders: list[Path]) -> list[Result]:
    """All runs and jobs below the folders, the best first.

    Raises:
        SettingsError: if there are none, or a folder is not there.
    """
    found: dict[Path, Result] = {}
    others: list[Path] = []
    for folder in folders:
        try:
            if folder.is_file():
                raise SettingsError(f"{folder} is a file, not a folder")
            if not folder.is_dir():
                raise SettingsError(f"there is no folder {folder}")
        except OSError as error:
            raise SettingsError(f"cannot read {folder}: {error.strerror}") from error
        here = {result.path.resolve(): result for result in below(folder.absolute(), others)}
        if not here:
            raise SettingsError(
                f"{folder} has no run in it: give the folder of a sweep, of a run, or one with "
                "such folders below it"
            )
        found = here | found
    if others:
        log.warning(
            "note: %d passed over that have a config.yaml of another program, such as %s",
            len(others),
            others[0],
        )
    results = list(found.values())
    name_texts_alike(results)
    above = os.path.commonpath([result.path.parent for result in results])
    for result in results:
        result.name = printable(os.path.relpath(result.path, above))
    return sorted(results, key=lambda result: (result.order, result.name))


def name_texts_alike(results: list[Result]) -> None:
    """Let a text go by one name and path, wherever its copies lie: its checksum decides.

    A job that has not begun knows no checksum; it has that of a run on the same file.
    """
    by_sha256: dict[Any, dict[str, Any]] = {}
    by_place: dict[Any, dict[str, Any]] = {}
    for result in sorted(results, key=lambda result: not result.settings.get(SHA256)):
        settings, sha256 = result.settings, result.settings.get(SHA256)
        key = tuple(map(settings.get, PLACE))
        if sha256:
            own_splits = key[0] if key[0] in OWN_SPLITS else None
            place = dict(zip(PLACE, key, strict=True)) | {SHA256: sha256}
            by_place.setdefault(key, by_sha256.setdefault((sha256, own_splits), place))
            settings |= by_sha256[sha256, own_splits]
        elif settings:
            settings |= by_place.get(key, {})


def below(folder: Path, others: list[Path]) -> Iterator[Result]:
    """
    Args:
        others: to which folders are added that have another program's ``config.yaml``.
    """

    def complain(error: OSError) -> None:
        log.warning("warning: %s cannot be read: %s", error.filename, error.strerror)

    for name, subfolders, files in os.walk(folder, onerror=complain):
        path = Path(name)
        subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
        run = RunFolder(path)
        if run.config.name in files:
            if run.holds_a_run():
                subfolders.clear()
                yield read_run(run)
                continue
            others.append(path)
        if "sweep.json" in files:
            jobs = {job.name: job for job in read_jobs(SweepFolder(path))}
            subfolders[:] = [sub for sub in subfolders if sub not in jobs]
            for job in jobs.values():
                yield read_job(RunFolder(path / job.name), job)


def shown(settings: dict[str, Any]) -> dict[str, Any]:
    """All settings by dotted names, as they can be drawn, and which callbacks there are."""
    callbacks = settings.get("callbacks", {})
    values = flatten(settings) | {"callbacks": ", ".join(callbacks) or "none"}
    return {n: printable(v) if isinstance(v, str) else v for n, v in values.items()}


def printable(text: str) -> str:
    """The same with escapes for what is not UTF-8 in names of files."""
    return text.encode(errors=ESCAPE).decode()


def read_jobs(folder: SweepFolder) -> list[Job]:
    try:
        return folder.read().jobs
    except DamagedFile as error:
        log.warning("warning: %s; jobs that never began are left out", error)
        return []


def read_job(folder: RunFolder, job: Job) -> Result:
    if not folder.holds_a_run():
        return Result(folder.path, status=job.status, settings=shown(job.settings), error=job.error)
    result = read_run(folder)
    result.settings = result.settings or shown(job.settings)
    result.status = job.status
    if job.status == "failed":
        result.error = job.error
    return result


def read_run(folder: RunFolder) -> Result:
    result = Result(folder.path)
    try:
        result.settings = shown(settings_of(folder.read_config()))
    except SettingsError as error:
        log.warning("warning: %s", error)
    try:
        result.summary = folder.read_summary()
        if result.settings:  # a file may have changed between two runs that both name it
            result.settings[SHA256] = (result.summary["text_sha256"] or "")[:8]
        result.status = result.summary["status"]
        if result.status == "diverged":
            result.error = f"diverged at step {result.summary['diverged_step']:,}"
    except DamagedFile as error:
        log.warning("warning: %s", error)
    result.curves = read_curves(folder.path, is_running=result.status == "running")
    return result
