"""Run the jobs left in a sweep in parallel, on the CPU and on GPUs at the same time."""

import logging
import time
from collections.abc import Sequence
from functools import reduce

from lstm_lm.files import is_locked
from lstm_lm.process import StopSignals
from lstm_lm.saved.run_folder import Status
from lstm_lm.saved.sweep_folder import Job, Sweep, SweepFolder
from lstm_lm.sweep.gpu_slots import GpuSlots, uses_gpu
from lstm_lm.sweep.job_process import NO_SLOTS, CpuSlots, JobProcess
from lstm_lm.sweep.table import LiveTable, Row, as_line, row_of_folder, row_of_process

LOOK_EVERY = 0.2  # seconds

log = logging.getLogger(__name__)


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
