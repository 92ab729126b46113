"""Run all jobs of a sweep, each once, and write its report."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from lstm_lm.config import RunConfig
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.machine import cores
from lstm_lm.process import StopSignals
from lstm_lm.report.summary import reasons
from lstm_lm.saved.run_folder import Status, refuse_odd_name
from lstm_lm.saved.sweep_folder import Job, SweepFolder
from lstm_lm.sweep.gpu_slots import GpuSlots, uses_gpu, visible_gpus
from lstm_lm.sweep.job_process import CpuSlots
from lstm_lm.sweep.plan import fingerprints, is_done, known_sweep, plan, settle_all
from lstm_lm.sweep.runner import Runner
from lstm_lm.sweep.table import as_lines

ENDED = Status.completed, Status.diverged  # and not retried

log = logging.getLogger(__name__)


def run_sweep(
    configs: Sequence[RunConfig],
    overrides: Sequence[Sequence[str]],
    path: Path,
    *,
    to_go_on: str,
    jobs_at_once: int | None,
    jobs_per_gpu: int,
    retries: int,
    searched: Sequence[str] = (),
    more_to_come: bool = False,
) -> list[float | None]:
    """Run the jobs that are not done; return the best validation loss of each completed job.

    Args:
        overrides: what was typed for each config; it names the folders.
        path: the sweep's folder; jobs that are done there are skipped.
        to_go_on: the command to print if jobs are left to do.
        jobs_at_once: jobs in parallel on the CPU; None fills its cores.
        searched: settings in all folder names, even if their values do not differ.
        more_to_come: True if more jobs follow; the report waits for the last.

    Raises:
        SettingsError: before anything is started, if one of the jobs cannot run.
        Stopped: after a signal, with all jobs saved.
    """
    refuse_odd_name(path)
    folder, gpus = SweepFolder(path), visible_gpus()
    at_once = jobs_at_once or processes_at_once(configs, gpus, jobs_per_gpu)
    with StopSignals() as signals:
        configs = settle_all(configs, gpus, known_sweep(folder).jobs)
        trained = fingerprints(configs)
        if signals.received is not None and folder.holds_a_sweep():
            log.info("to resume    %s", to_go_on)
        signals.heed()
        with folder.held():
            threads = max(1, cores() // at_once)
            sweep, jobs = plan(folder, configs, trained, overrides, threads, searched)
            folder.write(sweep)
            wanted, to_do = left_to_do(folder, jobs, configs)
            limits = CpuSlots(jobs_at_once or cores(), max(cores(), at_once))
            runner = Runner(folder, sweep, limits, GpuSlots(gpus, jobs_per_gpu), retries)
            try:
                runner.run(wanted, to_do, signals)
            finally:
                print_end(runner, wanted)
                if signals.received is None and not more_to_come:
                    report_on(path)
                is_cut_off = signals.received is not None and more_to_come
                if is_cut_off or any(job.status not in ENDED for job in wanted):
                    log.info("to resume    %s", to_go_on)
        signals.heed()
    return [best_loss(folder, job) for job in jobs]


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
            folder.run_folder(job).write_where_the_text_is(config)
    log.info("sweep   %s", folder.path)
    log.info("        %d jobs, %d of them done before", len(wanted), len(wanted) - len(to_do))
    return wanted, to_do


def processes_at_once(configs: Sequence[RunConfig], gpus: Sequence[str], per_gpu: int) -> int:
    """The number of processes that share the CPU cores."""
    devices = [config.device for config in configs]
    on_gpu = [device.devices for device in devices if uses_gpu(device.accelerator, gpus)]
    on_cpu = sum(device.devices for device in devices) - sum(on_gpu)
    return max(1, min(cores(), on_cpu + min(len(on_gpu), len(gpus) * per_gpu)))


def report_on(path: Path) -> None:
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
