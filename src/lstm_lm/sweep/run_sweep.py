"""Run all jobs of a sweep, each once, and write its report."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lstm_lm.config import RunConfig
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.machine import cpu_cores
from lstm_lm.process import StopSignals
from lstm_lm.report.summary import reasons
from lstm_lm.saved.run_folder import Status, check_folder_name
from lstm_lm.saved.sweep_folder import Job, SweepFolder
from lstm_lm.sweep.gpu_slots import GpuSlots, uses_gpu, visible_gpus
from lstm_lm.sweep.job_process import CpuSlots
from lstm_lm.sweep.plan import fingerprints, is_done, load_sweep, plan, resolve_auto_all
from lstm_lm.sweep.runner import Runner
from lstm_lm.sweep.table import as_lines

ENDED = Status.completed, Status.diverged  # and not retried

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep that do not change what its jobs train."""

    resume_command: str  # printed if jobs are left to do
    jobs_at_once: int | None  # on the CPU; None fills its cores
    jobs_per_gpu: int
    retries: int  # of a job that failed
    searched: Sequence[str] = ()  # settings in all folder names, even if they do not differ
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
            folder.write(sweep)
            limits = CpuSlots(options.jobs_at_once or cpu_cores(), max(cpu_cores(), at_once))
            gpu_slots = GpuSlots(gpus, options.jobs_per_gpu)
            runner = Runner(folder, sweep, limits, gpu_slots, options.retries)
            run_jobs(runner, *left_to_do(folder, jobs, configs), signals, options)
        signals.raise_if_stopped()
    return [best_loss(folder, job) for job in jobs]


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
