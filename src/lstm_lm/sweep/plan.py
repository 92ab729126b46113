"""Jobs of a sweep, and which of them are left to do."""

import contextlib
import dataclasses
import logging
import re
from collections.abc import Sequence
from typing import Any

from lstm_lm.command_line.settings import choices
from lstm_lm.config import AUTO, DataConfig, RunConfig, settings_of
from lstm_lm.data.batches import TrainingBatches
from lstm_lm.data.splits import Splits, read_splits
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.generation import encode_prompts
from lstm_lm.model.fused.kernels import AUTO_SETTINGS, resolve_auto, resolve_backend
from lstm_lm.saved.fingerprint import fingerprint, select_trained
from lstm_lm.saved.load_model import load_init_run, weights_sha256
from lstm_lm.saved.run_folder import RunFolder, Status, config_from_settings, with_absolute_paths
from lstm_lm.saved.sweep_folder import Job, Sweep, SweepFolder, identity
from lstm_lm.sweep.job_names import differing, job_name
from lstm_lm.sweep.job_process import uses_gpu

log = logging.getLogger(__name__)

# Settings that do not change the splits of a text.
NOT_OF_SPLITS = "batch_size", "num_steps", "order", "evaluation_rows", "reset_every"


class SplitsCache:
    """Reads each text only once for the jobs that train on it."""

    def __init__(self) -> None:
        self.splits: dict[str, Splits] = {}

    def read(self, config: RunConfig, vocabulary: Vocabulary | None) -> Splits:
        default = DataConfig()
        same = {name: getattr(default, name) for name in NOT_OF_SPLITS}
        key = f"{dataclasses.replace(config.data, **same)} {config.init_from}"
        if key not in self.splits:
            self.splits = {key: read_splits(config.data, vocabulary)}  # frees the others
        return self.splits[key]


def resolve_auto_all(
    configs: Sequence[RunConfig], gpus: Sequence[str], jobs: Sequence[Job] = ()
) -> list[RunConfig]:
    """The configs with ``auto`` resolved for the device of each.

    The precision of a GPU job stays ``auto`` if there is no GPU here.

    Args:
        jobs: the jobs that the sweep already has; they keep their resolved values.

    Raises:
        SettingsError: if a device lacks the precision, or a grid contains both ``auto`` and the
            value that it resolves to.
    """
    settled, whys, seen = [], [], dict[str, dict[str, Any]]()  # the settings behind each config
    for config in configs:
        typed = settings_of(with_absolute_paths(config))
        job = next((job for job in jobs if matches_except_auto(job, typed)), None)
        device = "cuda" if uses_gpu(config.device.accelerator, gpus) else "cpu"
        if job is not None:
            config = config_from_settings(
                typed | {name: job.settings[name] for name in AUTO_SETTINGS}
            )
        is_kept = job is not None and config.device.precision != AUTO  # even if it is not native
        if not is_kept and (device == "cpu" or gpus):
            config, why = resolve_auto(config, device, apart=True)
            whys.append(why)
        config = resolve_backend(config, device)
        check_settings_equal(seen.setdefault(str(config), typed), typed)
        settled.append(config)
    for why in dict.fromkeys(whys):
        if why is not None:
            log.info("%s", why)
    return settled


def matches_except_auto(job: Job, typed: dict[str, Any]) -> bool:
    """True if the settings equal those of a job, except for ``auto`` that the job has resolved."""
    chosen = {name: job.settings.get(name, AUTO) for name in AUTO_SETTINGS}
    is_open = [name for name in AUTO_SETTINGS if typed[name] == AUTO and chosen[name] != AUTO]

    def of_job(settings: dict[str, Any]) -> dict[str, Any]:
        named = {
            "init_from",
            *AUTO_SETTINGS,
            *(name for name in typed if name.startswith("device.")),
        }
        known = select_trained(settings) | {name: settings.get(name) for name in named}
        return {name: value for name, value in known.items() if name not in is_open}

    return bool(is_open) and of_job(job.settings) == of_job(typed)


def check_settings_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Raise SettingsError if these settings of one and the same job differ."""
    if same := [name for name in other if one[name] != other[name]]:
        raise SettingsError(
            f"jobs that differ only in {', '.join(same)} are one and the same job and cannot be "
            "swept over: choose one value"
        )


def fingerprints(configs: Sequence[RunConfig]) -> list[str]:
    """The fingerprint of each config.

    Raises:
        SettingsError: if the text, prompts or ``init_from`` of a config make training impossible.
    """
    texts, weights = SplitsCache(), dict[str, tuple[Vocabulary, str]]()

    def of(config: RunConfig) -> str:
        if config.device.nodes > 1:
            raise SettingsError(
                f"device.nodes={config.device.nodes} needs torchrun or srun, but a sweep starts "
                "its jobs on this computer: choose device.nodes=1"
            )
        vocabulary, started_from = None, None
        if config.init_from is not None:
            key = f"{config.init_from} {config.model} {config.data.level}"
            if key not in weights:
                source = load_init_run(config)
                weights[key] = source.vocabulary, weights_sha256(source)
            vocabulary, started_from = weights[key]
        splits = texts.read(config, vocabulary)
        data = config.data
        ids = splits.training.ids  # is the text long enough?
        TrainingBatches(ids, data.batch_size, data.num_steps, data.order, config.seed)
        encode_prompts(config, splits)
        return fingerprint(config, splits.text_sha256, started_from)

    return [of(config) for config in configs]


def plan(
    folder: SweepFolder,
    configs: Sequence[RunConfig],
    trained: Sequence[str],
    overrides: Sequence[Sequence[str]],
    threads: int,
    searched: Sequence[str] = (),
) -> tuple[Sweep, list[Job]]:
    """The sweep with all its jobs, old and new, and the job of each config.

    Args:
        trained: the fingerprints of the configs.
        threads: CPU threads of each new job.
        searched: settings in all folder names, even if their values do not differ.

    Raises:
        SettingsError: if two configs are one job but have different settings.
    """
    sweep = load_sweep(folder)
    chosen = [choices(of_job) for of_job in overrides]
    sweep.grid = {name: [] for name in searched} | sweep.grid
    sweep.grid |= differing([*(job.choices for job in sweep.jobs), *chosen])
    known = {job.identity: job for job in sweep.jobs}
    number = next_number(folder, sweep)
    wanted: list[Job] = []
    for config, of_job, its_fingerprint in zip(configs, chosen, trained, strict=True):
        settings = settings_of(with_absolute_paths(config))
        key = identity(its_fingerprint, settings)
        # A job that never started because there was no GPU.
        undecided = identity(its_fingerprint, settings | {"device.precision": AUTO})
        key = undecided if key not in known and undecided in known else key
        if key not in known:
            name = job_name(number, of_job, list(sweep.grid))
            known[key] = Job(
                number, name, its_fingerprint, settings, choices=of_job, threads=threads
            )
            sweep.jobs.append(known[key])
            number += 1
        job = known[key]
        if any(job is other for other in wanted):
            check_settings_equal(job.settings, settings)
        job.settings = settings  # the budget may have changed
        wanted.append(known[key])
    return sweep, wanted


def load_sweep(folder: SweepFolder) -> Sweep:
    """The sweep in a folder; if its record is lost, it is rebuilt from the run folders."""
    if not folder.path.is_dir():
        return Sweep()
    if folder.has_sweep():
        try:
            return folder.read()
        except DamagedFile as error:
            log.warning("warning: %s; its jobs are read from their folders", error)
    sweep = Sweep()
    for path in sorted(folder.path.iterdir()):
        run = RunFolder(path)
        if (number := re.match(r"\d+", path.name)) and run.has_run():
            with contextlib.suppress(DamagedFile):
                settings = settings_of(run.read_config())
                summary = run.read_summary()
                job = Job(int(number[0]), path.name, summary["fingerprint"], settings)
                job.status, job.threads = Status(summary["status"]), summary["threads"]
                sweep.jobs.append(job)
    return sweep


def next_number(folder: SweepFolder, sweep: Sweep) -> int:
    """The next free job number; folders that the record lacks count, too."""
    names = (path.name for path in folder.path.iterdir())
    taken = [int(number[0]) for name in names if (number := re.match(r"\d+", name))]
    return max([*taken, *(job.number for job in sweep.jobs)], default=-1) + 1


def is_done(folder: SweepFolder, job: Job, config: RunConfig) -> bool:
    """True if nothing is left to do for a job, or nothing can be done."""
    if job.status == Status.diverged:  # it would diverge again
        return True
    if job.status != Status.completed:
        return False
    try:
        before = folder.run_folder(job).read_config()
    except DamagedFile:
        return False
    old, new = (
        (c.training.epochs, c.training.steps, c.training.minutes, c.data.reset_every)
        for c in (before, config)
    )
    return old == new
