"""Run all jobs of a sweep in parallel, on the CPU and on GPUs at once, and write its report."""

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from lstm_lm.config import RunConfig
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.files import is_locked
from lstm_lm.machine import cpu_cores
from lstm_lm.process import StopSignals
from lstm_lm.report.tables import reasons
from lstm_lm.saved.run_folder import Status, check_folder_name
from lstm_lm.saved.sweep_folder import Job, Sweep, SweepFolder
from lstm_lm.sweep.job_process import (
    NO_SLOTS,
    CpuSlots,
    GpuSlots,
    JobProcess,
    uses_gpu,
    visible_gpus,
)
from lstm_lm.sweep.plan import fingerprints, is_done, load_sweep, plan, resolve_auto_all
from lstm_lm.sweep.table import (
    LiveTable,
    Row,
    as_line,
    as_lines,
    row_of_folder,
    row_of_process,
)

ENDED = Status.completed, Status.diverged  # and not retried
LOOK_EVERY = 0.2  # seconds

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep that do not change what its jobs train."""

    resume_command: str  # printed if jobs are left to do
    jobs_at_once: int | None  # on the CPU; None fills its cores
    jobs_per_gpu: int
    retries: int  # of a job that failed
    searched: Sequence[str] = ()  # settings in all folder names, even if they do not differ
    changes: Sequence[str] = ()  # of an ablation, for each job; see Job
    has_more_jobs: bool = False  # more jobs follow, and the report waits for the last


def run_sweep(
    configs: Sequence[RunConfig],
    overrides: Sequence[Sequence[str]],
    path: Path,
    options: SweepOptions,
) -> list[float | None]:
    """Run the jobs that are not done; return the best validation loss of each completed job.

    Args:
        overrides: what was typed for each config; it names the folders.
        path: the sweep's folder; jobs that are done there are skipped.

    Raises:
        SettingsError: before anything is started, if one of the jobs cannot run.
        Stopped: after a signal, with all jobs saved.
    """
    check_folder_name(path)
    folder, gpus = SweepFolder(path), visible_gpus()
    at_once = options.jobs_at_once or processes_at_once(configs, gpus, options.jobs_per_gpu)
    with StopSignals() as signals:
        configs = resolve_auto_all(configs, gpus, load_sweep(folder).jobs)
        trained = fingerprints(configs)
        if signals.received is not None and folder.has_sweep():
            log.info("to resume    %s", options.resume_command)
        signals.raise_if_stopped()
        with folder.locked():
            threads = max(1, cpu_cores() // at_once)
            sweep, jobs = plan(folder, configs, trained, overrides, threads, options.searched)
            for job, change in reversed(list(zip(jobs, options.changes, strict=False))):
                job.change = change  # of several that are one job, the first
            folder.write(sweep)
            limits = CpuSlots(options.jobs_at_once or cpu_cores(), max(cpu_cores(), at_once))
            gpu_slots = GpuSlots(gpus, options.jobs_per_gpu)
            runner = Runner(folder, sweep, limits, gpu_slots, options.retries)
            run_jobs(runner, *left_to_do(folder, jobs, configs), signals, options)
        signals.raise_if_stopped()
    return [best_loss(folder, job) for job in jobs]


class Runner:
    """Runs the jobs of a sweep in parallel.

    Args:
        limits: CPU slots of all jobs together.
        retries: how often a failed job is retried.
    """

    def __init__(
        self, folder: SweepFolder, sweep: Sweep, limits: CpuSlots, gpu_slots: GpuSlots, retries: int
    ) -> None:
        self.folder, self.sweep = folder, sweep
        self.limits, self.gpu_slots, self.retries = limits, gpu_slots, retries
        self.locked_elsewhere: set[int] = set()  # numbers of jobs
        self.running: list[JobProcess] = []
        self.rows: dict[int, Row] = {}  # of jobs that are not running

    def run(self, wanted: Sequence[Job], to_do: Sequence[Job], signals: StopSignals) -> None:
        """Run jobs to their ends, or until a signal arrives; none is left running.

        Args:
            wanted: all jobs to show.
            to_do: the jobs among them to run.
        """
        for job in to_do:
            job.status, job.error = Status.waiting, None
        tries = dict.fromkeys((job.number for job in to_do), 0)
        try:
            with LiveTable() as table:
                waiting = self.with_available_devices(to_do, table)
                while waiting or self.running:
                    for process in [process for process in self.running if process.has_ended]:
                        job = process.job
                        self.end(process, table)
                        tries[job.number] += 1
                        if process.should_retry and tries[job.number] <= self.retries:
                            waiting.append(job)
                    if signals.received is not None:
                        waiting = []
                        for process in self.running:
                            process.stop()
                    self.start_fitting_jobs(waiting, table)
                    table.show([self.row(job) for job in wanted])
                    time.sleep(LOOK_EVERY)
        finally:
            for process in list(self.running):
                process.kill()
                self.end(process)
        signals.raise_if_stopped()

    def with_available_devices(self, to_do: Sequence[Job], table: LiveTable) -> list[Job]:
        """The jobs whose devices exist here; the others are marked as failed."""
        gpus = len(self.gpu_slots.gpus)
        for job in to_do:
            if self.needs_gpu(job) and job.settings["device.devices"] > gpus:
                found = (
                    f"only {gpus} of {job.settings['device.devices']} GPUs" if gpus else "no GPU"
                )
                job.status, job.error = Status.failed, f"{found} here"
                table.say(f"{job.name}  failed  {job.error}")
        self.record()
        return [job for job in to_do if job.status == Status.waiting]

    def needs_gpu(self, job: Job) -> bool:
        return uses_gpu(job.settings["device.accelerator"], self.gpu_slots.gpus)

    def start_fitting_jobs(self, waiting: list[Job], table: LiveTable) -> None:
        """Start waiting jobs, in order for each kind of device, and remove them from the list."""
        taken = reduce(CpuSlots.plus, (process.slots for process in self.running), NO_SLOTS)
        is_full = {True: False, False: False}  # the GPUs, and the CPU
        for job in list(waiting):
            on_gpu, devices = self.needs_gpu(job), job.settings["device.devices"]
            if is_full[on_gpu] or self.is_locked_elsewhere(job, table):
                continue
            slots = NO_SLOTS if on_gpu else CpuSlots(devices, devices * job.threads)
            is_alone = taken == NO_SLOTS  # then it may exceed the limits
            gpus = self.gpu_slots.take(devices) if on_gpu else {}
            if gpus is None or not (is_alone or taken.plus(slots).fits_into(self.limits)):
                is_full[on_gpu] = True
                continue
            waiting.remove(job)
            taken = taken.plus(slots)
            self.start(job, slots, gpus, table)

    def is_locked_elsewhere(self, job: Job, table: LiveTable) -> bool:
        """True if another process trains in its folder; if its sweep was killed, it ends soon."""
        is_held = is_locked(self.folder.run_folder(job).lock) is True  # None: there are no locks
        if is_held and job.number not in self.locked_elsewhere:
            self.locked_elsewhere.add(job.number)
            table.say(f"{job.name}  waits for another process that trains in its folder")
        return is_held

    def start(self, job: Job, slots: CpuSlots, gpus: dict[str, int], table: LiveTable) -> None:
        self.rows.pop(job.number, None)
        try:
            process = JobProcess(self.folder, job, slots, gpus)
        except OSError as error:
            job.status, job.error = Status.failed, f"cannot be started: {error.strerror}"
            table.say(f"{job.name}  failed  {job.error}")
            return
        job.status, job.tries = Status.running, job.tries + 1
        self.running.append(process)
        self.record()
        on = f" on GPU {', '.join(gpus)}" if gpus else ""
        table.say(f"{job.name}  started{on}")

    def end(self, process: JobProcess, table: LiveTable | None = None) -> None:
        job = process.job
        self.running.remove(process)
        job.status, job.error = process.outcome()
        if job.status == Status.interrupted:  # or waiting, if its run never began
            job.status = self.folder.status(job)
        self.record()
        if table is not None:
            error = "" if job.error is None else f"  {job.error}"
            table.say(as_line(self.row(job)) + error)

    def record(self) -> None:
        try:
            self.folder.write(self.sweep)
        except OSError as error:  # the run folders have the status, too
            log.warning("warning: cannot write %s: %s", self.folder.file, error.strerror)

    def row(self, job: Job) -> Row:
        process = next((process for process in self.running if process.job is job), None)
        if process is not None:
            return row_of_process(process)
        if job.number not in self.rows:
            self.rows[job.number] = row_of_folder(self.folder, job)
        return self.rows[job.number]


def run_jobs(
    runner: Runner,
    wanted: list[Job],
    to_do: list[Job],
    signals: StopSignals,
    options: SweepOptions,
) -> None:
    """Run what is left to do; print how all jobs ended, and write the report."""
    try:
        runner.run(wanted, to_do, signals)
    finally:
        is_stopped = signals.received is not None
        print_end(runner, wanted)
        if not (is_stopped or options.has_more_jobs):
            write_sweep_report(runner.folder.path)
        is_cut_off = is_stopped and options.has_more_jobs
        if is_cut_off or any(job.status not in ENDED for job in wanted):
            log.info("to resume    %s", options.resume_command)


def left_to_do(
    folder: SweepFolder, jobs: Sequence[Job], configs: Sequence[RunConfig]
) -> tuple[list[Job], list[Job]]:
    """Each job once, and those jobs that are not done yet."""
    pairs = {job.number: (job, config) for job, config in zip(jobs, configs, strict=True)}
    wanted, to_do = [], []
    for job, config in pairs.values():
        wanted.append(job)
        if not is_done(folder, job, config):
            to_do.append(job)
            continue
        with contextlib.suppress(SettingsError):  # the job is done anyway
            folder.run_folder(job).save_text_path(config)
    log.info("sweep   %s", folder.path)
    log.info("        %d jobs, %d of them done before", len(wanted), len(wanted) - len(to_do))
    return wanted, to_do


def processes_at_once(configs: Sequence[RunConfig], gpus: Sequence[str], per_gpu: int) -> int:
    """The number of processes that share the CPU cores."""
    devices = [config.device for config in configs]
    on_gpu = [device.devices for device in devices if uses_gpu(device.accelerator, gpus)]
    on_cpu = sum(device.devices for device in devices) - sum(on_gpu)
    return max(1, min(cpu_cores(), on_cpu + min(len(on_gpu), len(gpus) * per_gpu)))


def write_sweep_report(path: Path) -> None:
    """Write the table and pictures of all the sweep's jobs into its folder."""
    from lstm_lm.report.report import write_report  # imports matplotlib

    try:
        report = write_report([path], path)
    except SettingsError as error:  # perhaps a full disk; the runs are done anyway
        log.warning("warning: no report: %s", error)
        return
    log.info("report       %s", path / "summary.md")
    log.info("pictures     %s", ", ".join(file.name for file in report.pictures.values()))
    log.info("curves       tensorboard --logdir %s", path)
    if report.command is not None:
        log.info("best again   %s", report.command)


def print_end(runner: Runner, wanted: Sequence[Job]) -> None:
    log.info("")
    for line in as_lines([runner.row(job) for job in wanted]):
        log.info("%s", line)
    for line in reasons(wanted):
        log.info("%s", line)
    log.info("")


def best_loss(folder: SweepFolder, job: Job) -> float | None:
    if job.status != Status.completed:
        return None
    try:
        return folder.run_folder(job).read_summary().get("best/validation/loss")
    except DamagedFile:
        return None
