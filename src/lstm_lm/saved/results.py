"""Results of all runs below some folders: one for each run, and for each job of a sweep.

A folder can be a sweep's, a run's, or any folder that contains such folders. Nothing in them is
changed. A file that cannot be read is named in a warning; the others are used.
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
from lstm_lm.saved.run_folder import RunFolder, Status
from lstm_lm.saved.sweep_folder import Job, SweepFolder

FAILED = Status.diverged, Status.failed, Status.waiting  # after all others, in this order
TEXT = "data.text", "data.path", "data.validation_path", "data.test_path"
SHA256 = "data.text_sha256"
# A checksum does not tell how these texts are split.
OWN_SPLITS = {TextName.penn_treebank, TextName.wikitext2, TextName.wikitext103, *GENERATED}

log = logging.getLogger(__name__)


@dataclass
class Result:
    """A run, or a sweep's job without one."""

    path: Path  # of the run's folder, which may not exist
    name: str = ""
    status: Status = Status.unknown
    settings: dict[str, Any] = field(default_factory=dict)  # by their dotted names
    summary: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    error: str | None = None
    change: str | None = None  # of a job of an ablation; see Job

    @property
    def best(self) -> float | None:
        """The exact validation perplexity of the best weights; None before the run is completed."""
        return self.summary.get("best/validation/perplexity")

    @property
    def so_far(self) -> float | None:
        """The lowest validation perplexity during training."""
        validation = self.curves.get("validation/perplexity")
        return min(validation.values) if validation and validation.values else None

    @property
    def perplexity(self) -> float | None:
        return self.so_far if self.best is None else self.best

    @property
    def is_comparable(self) -> bool:
        """True if it has a perplexity that can be compared with those of others."""
        return self.perplexity is not None and self.status not in FAILED

    @property
    def order(self) -> tuple[int, int, float]:
        """Sort key: best first, failed runs last."""
        rank = 2 + FAILED.index(self.status) if self.status in FAILED else int(self.best is None)
        return rank, int(self.perplexity is None), self.perplexity or 0.0


def read_results(folders: list[Path]) -> list[Result]:
    """All runs and jobs below the folders, the best first.

    Raises:
        SettingsError: if there are none, or a folder does not exist.
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
    unify_texts(results)
    common = os.path.commonpath([result.path.parent for result in results])
    for result in results:
        result.name = printable(os.path.relpath(result.path, common))
    return sorted(results, key=lambda result: (result.order, result.name))


def unify_texts(results: list[Result]) -> None:
    """Give copies of one text the same name and path; its checksum decides.

    A job that has not started has no checksum; it gets that of a run on the same file.
    """
    by_sha256: dict[Any, dict[str, Any]] = {}
    by_name: dict[Any, dict[str, Any]] = {}
    for result in sorted(results, key=lambda result: not result.settings.get(SHA256)):
        text = {name: result.settings.get(name) for name in (*TEXT, SHA256)}
        name, *paths, sha256 = text.values()
        if sha256:
            copies = sha256, name if name in OWN_SPLITS else None
            text = by_sha256.setdefault(copies, text)
            by_name.setdefault((name, *paths), text)
            result.settings |= text
        elif result.settings:
            result.settings |= by_name.get((name, *paths), {})


def below(folder: Path, others: list[Path]) -> Iterator[Result]:
    """All results below a folder.

    Args:
        others: receives the folders with another program's ``config.yaml``.
    """

    def warn(error: OSError) -> None:
        log.warning("warning: %s cannot be read: %s", error.filename, error.strerror)

    for name, subfolders, files in os.walk(folder, onerror=warn):
        path = Path(name)
        subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
        run = RunFolder(path)
        if run.config.name in files:
            if run.has_run():
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
    """All settings by dotted names, as they can be drawn, and the names of the callbacks."""
    callbacks = settings.get("callbacks", {})
    values = flatten(settings) | {"callbacks": ", ".join(callbacks) or "none"}
    return {n: printable(v) if isinstance(v, str) else v for n, v in values.items()}


def printable(text: str) -> str:
    """The text with escapes for file names that are not UTF-8."""
    return text.encode(errors=ESCAPE).decode()


def read_jobs(folder: SweepFolder) -> list[Job]:
    try:
        return folder.read().jobs
    except DamagedFile as error:
        log.warning("warning: %s; jobs that never began are left out", error)
        return []


def read_job(folder: RunFolder, job: Job) -> Result:
    result = read_run(folder) if folder.has_run() else Result(folder.path, error=job.error)
    result.settings = result.settings or shown(job.settings)
    result.status, result.change = job.status, job.change
    if job.status == Status.failed:
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
        if result.settings:  # two runs may name the same file, which changed in between
            result.settings[SHA256] = (result.summary["text_sha256"] or "")[:8]
        result.status = Status(result.summary["status"])
        if result.status == Status.diverged:
            result.error = f"diverged at step {result.summary['diverged_step']:,}"
    except DamagedFile as error:
        log.warning("warning: %s", error)
    result.curves = read_curves(folder.path, is_running=result.status == Status.running)
    return result
