"""The folder of a sweep: its grid, and the record of every job.

    sweep.json      grid and jobs; replaced as a whole at every change
    000_h128_lr1/   one run folder per job, named by number and distinguishing settings
    .lock           locked by the process that runs the sweep

A job is identified by its fingerprint, the device and backend it trains on, and the callbacks that
can end it. Its number only tells the order. If the job has a run folder, the status there takes
precedence.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.files import is_locked, locked, read_json, remove_unfinished, write_atomically
from lstm_lm.lightning_parts import STOPPING_CALLBACKS, is_one_of
from lstm_lm.saved.run_folder import RunFolder, Status


@dataclass
class Job:
    number: int
    name: str  # of its run folder, in the sweep's folder
    fingerprint: str
    settings: dict[str, Any]  # all of them, by their dotted names
    status: Status = Status.waiting  # later that of its run; also failed if no run could start
    tries: int = 0
    error: str | None = None  # reason of failure, in one line
    choices: dict[str, str] = field(default_factory=dict)  # settings and groups typed for it
    change: str | None = None  # of an ablation: what it has other than the recipe; "": nothing
    threads: int = 1  # per process; never changed, since other numbers round differently

    @property
    def identity(self) -> str:
        """Key of the job: what it trains, and on which device."""
        return identity(self.fingerprint, self.settings)


@dataclass
class Sweep:
    grid: dict[str, list[str]] = field(default_factory=dict)  # the swept values, as typed
    jobs: list[Job] = field(default_factory=list)


class SweepFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "sweep.json"
        self.lock = path / ".lock"

    def run_folder(self, job: Job) -> RunFolder:
        return RunFolder(self.path / job.name)

    def has_sweep(self) -> bool:
        return self.file.is_file()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Context manager: lock the sweep against other processes.

        Raises:
            SettingsError: if another process has locked it, or the folder cannot be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                is_ours = stack.enter_context(locked(self.lock))
            except OSError as error:
                raise SettingsError(f"cannot write to {self.path}: {error.strerror}") from error
            if not is_ours:
                raise SettingsError(f"another process is running this sweep: {self.path}")
            remove_unfinished(self.path)
            yield

    def write(self, sweep: Sweep) -> None:
        content = json.dumps(dataclasses.asdict(sweep), indent=1, allow_nan=False) + "\n"
        write_atomically(self.file, content.encode())

    def read(self) -> Sweep:
        """The sweep; each job has the status from its run folder.

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
            found = Status(folder.read_summary()["status"] if folder.has_run() else "waiting")
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
    ending = {name: entry for name, entry in callbacks if is_one_of(STOPPING_CALLBACKS, entry)}
    return json.dumps([fingerprint, device, settings["model.backend"], ending])
