"""A sweep's own record: its grid, and every job that it ever had.

    sweep.json      what is below, written whole at every change
    000_h128_lr1/   one run's folder for each job, by its number and what sets it apart
    .lock           held by the process that runs the sweep

A job is what it trains, its fingerprint, the device and backend it trains on, and the callbacks
that can end it. Its number only says when it came. How a job stands, its run's folder knows best,
if there is one.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.files import is_locked, locked, read_json, remove_unfinished, write_whole
from lstm_lm.lightning_parts import ENDING, is_one_of
from lstm_lm.saved.run_folder import RunFolder, Status


@dataclass
class Job:
    number: int
    name: str  # of its folder, in that of the sweep
    fingerprint: str
    settings: dict[str, Any]  # all of them, by their dotted names
    status: Status = Status.waiting  # then its run's; failed also if it never became a run
    tries: int = 0
    error: str | None = None  # why it failed, in one line
    choices: dict[str, str] = field(default_factory=dict)  # settings and groups typed for it
    threads: int = 1  # of each of its processes, always the same: others would round otherwise

    @property
    def identity(self) -> str:
        """What it trains, and on what."""
        return identity(self.fingerprint, self.settings)


@dataclass
class Sweep:
    grid: dict[str, list[str]] = field(default_factory=dict)  # what was swept, as it was typed
    jobs: list[Job] = field(default_factory=list)


class SweepFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "sweep.json"
        self.lock = path / ".lock"

    def run_folder(self, job: Job) -> RunFolder:
        return RunFolder(self.path / job.name)

    def holds_a_sweep(self) -> bool:
        return self.file.is_file()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from running this sweep.

        Raises:
            SettingsError: if one does already, or the folder cannot be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                is_ours = stack.enter_context(locked(self.lock))
            except OSError as error:
                raise SettingsError(f"cannot write to {self.path}: {error.strerror}") from error
            if not is_ours:
                raise SettingsError(f"another process runs this sweep: {self.path}")
            remove_unfinished(self.path)
            yield

    def write(self, sweep: Sweep) -> None:
        content = json.dumps(dataclasses.asdict(sweep), indent=1, allow_nan=False) + "\n"
        write_whole(self.file, content.encode())

    def read(self) -> Sweep:
        """The sweep, each job with the status that its run's folder has.

        Raises:
            DamagedFile: if it cannot be read.
        """
        try:
            record = read_json(self.file)
            for job in record["jobs"]:
                job["status"] = Status(job.get("status", Status.waiting))
            jobs = [Job(**job) for job in record.pop("jobs")]
            sweep = Sweep(dict(record.pop("grid")), jobs, **record)
        except OSError as error:
            raise DamagedFile(f"{self.file} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedFile(f"{self.file} is damaged: {error}") from error
        for job in sweep.jobs:
            job.status = self.status(job)
        return sweep

    def status(self, job: Job) -> Status:
        folder = self.run_folder(job)
        try:
            found = Status(folder.read_summary()["status"] if folder.holds_a_run() else "waiting")
        except DamagedFile:
            found = Status.waiting
        if found in (Status.waiting, Status.interrupted):
            if job.status == Status.failed:
                return Status.failed
            may_run = is_locked(self.lock) is not False
            if job.status == Status.running and found == Status.waiting and may_run:
                return Status.running
        return found


def identity(fingerprint: str, settings: dict[str, Any]) -> str:
    device = {name: settings[name] for name in sorted(settings) if name.startswith("device.")}
    callbacks = settings.get("callbacks", {}).items()
    ending = {name: entry for name, entry in callbacks if is_one_of(ENDING, entry)}
    return json.dumps([fingerprint, device, settings["model.backend"], ending])
