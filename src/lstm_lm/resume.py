"""Resume a run, and the rules for what a resumed run may change."""

import logging
from pathlib import Path
from typing import Any

import torch

from lstm_lm.command_line.instantiate import typed_entries
from lstm_lm.config import AUTO, RunConfig, Schedule, settings_of
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.experiment import load_init_from, log_start, prepare, train
from lstm_lm.lightning_parts import TARGET
from lstm_lm.machine import cpu_cores, resolve_precision
from lstm_lm.model.fused.kernels import AUTO_SETTINGS
from lstm_lm.process import StopSignals
from lstm_lm.saved.checkpoint_file import load_newest
from lstm_lm.saved.fingerprint import fingerprint, trained_settings
from lstm_lm.saved.run_folder import RunFolder, Status, check_folder_name, with_absolute_paths
from lstm_lm.training.process_group import as_rank, rank_of
from lstm_lm.training.resumed_folder import ResumedFolder

TAIL_AVERAGING = "lstm_lm.training.weight_averaging.TailAveraging"

log = logging.getLogger(__name__)


def resume(output: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Resume the run in a folder as if it had never stopped; return its summary.

    Args:
        changes: new values of settings, by their dotted names; ``auto`` for a setting of the
            machine keeps the run's value.

    Raises:
        SettingsError: if there is no run to resume, or the changes would make it another run;
            nothing is changed then.
        RunFailed, Stopped: as :func:`lstm_lm.experiment.train` does.
    """
    check_folder_name(output)
    folder, changes = RunFolder(output), without_auto(changes)
    # Before the lock, which would create a folder for a mistyped name.
    rank = rank_of(folder.read_config(changes).device)
    folder.is_ours = rank == 0
    with as_rank(rank), StopSignals() as signals, folder.locked():
        before, config = folder.read_config(), folder.read_config(changes)
        summary = folder.read_summary()
        check_version(folder, summary)
        check_same_run(folder, before, config, summary)
        path, checkpoint = newest_checkpoint(folder, summary)
        restore_threads(summary["threads"])
        vocabulary = folder.read_vocabulary(summary["vocabulary_sha256"])
        known = vocabulary, summary["text_sha256"]
        source = None if checkpoint is not None else load_init_from(config)
        typed = typed_entries(config, changes)
        session = prepare(config, folder, signals, typed, *known, source, summary["started_from"])
        if checkpoint is not None:
            if is_run_complete(before, config, checkpoint, summary):
                log.info("%s", completion_message(output, summary))
                folder.save_text_path(config)
                return summary
            check_schedule(before, config, checkpoint)
        resolve_precision(config.device.precision, session.device.type)  # refuses one it lacks
        signals.raise_if_stopped()
        resumed = ResumedFolder(folder, before, path, checkpoint, summary)
        folder.values = dict(summary)
        log_start(session, checkpoint, summary)
        session.run(resumed)
    return folder.values


def without_auto(changes: dict[str, Any]) -> dict[str, Any]:
    """The changes to a resumed run, without ``auto``, which keeps the values it has."""
    return {n: value for n, value in changes.items() if n not in AUTO_SETTINGS or value != AUTO}


def newest_checkpoint(
    folder: RunFolder, summary: dict[str, Any]
) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint to resume from and its content; None if the run has not saved yet."""
    if not (folder.last.exists() or folder.previous.exists()):
        check_checkpoints_exist(folder, summary)
        return None, None
    path, checkpoint = load_newest(folder.last, folder.previous)
    check_checkpoint(path, checkpoint, summary)
    return path, checkpoint


def restore_threads(threads: int) -> None:
    """Use as many threads as before, because another number changes the rounding of sums."""
    torch.set_num_threads(threads)
    if threads > cpu_cores():
        log.warning(
            "warning: this run uses %d threads as before, but there are only %d cores",
            threads,
            cpu_cores(),
        )


def completion_message(output: Path, summary: dict[str, Any]) -> str:
    if summary.get("stopped_early"):
        hint = "A callback, such as EarlyStopping, has ended it."
    else:
        hint = "To train longer, set a larger training.epochs (or steps, or minutes)."
    done = f"{summary['epochs']} epochs, {summary['steps']:,} steps"
    return f"{output} is complete, with {done}: nothing to do. {hint}"


def resume_or_train(config: RunConfig, output: Path) -> dict[str, Any]:
    """Train a run, or resume it if the folder has it already."""
    if not RunFolder(output).has_run():
        return train(config, output)
    return resume(output, settings_of(with_absolute_paths(config)))


def check_version(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Raise SettingsError if the run is older than Lightning's checkpoints in this project."""
    if "lstm_lm" not in (summary["versions"] or {}):
        raise SettingsError(
            f"{folder.path} was trained by lstm_lm 0.1.0, and this version cannot resume its "
            f"checkpoints: start a new run, with init_from={folder.path} from its best weights"
        )


def check_same_run(
    folder: RunFolder, before: RunConfig, config: RunConfig, summary: dict[str, Any]
) -> None:
    """Raise SettingsError, with the settings at fault, if the changes make it another run."""
    known = fingerprint(before, summary["text_sha256"], summary["started_from"])
    if known != summary["fingerprint"]:
        raise DamagedFile(
            f"{folder.config} does not have the settings that this run was started with: it was "
            "edited, or written by another version of lstm_lm"
        )
    old, new = (trained_settings(c) | {"init_from": c.init_from} for c in (before, config))
    changed = [
        f"{name} from {old.get(name, 'unset')} to {new.get(name, 'unset')}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise SettingsError(
            f"a resumed run cannot change {', '.join(changed)}: start a new run; with "
            f"init_from={folder.path} it starts from these weights, if their shapes allow that"
        )
    if config.trainer.get("fast_dev_run"):
        raise SettingsError("trainer.fast_dev_run saves nothing: leave out resume=")
    if summary["status"] == Status.diverged and before.device == config.device:
        step = summary.get("diverged_step", 0)
        raise SettingsError(
            f"{folder.path} diverged at step {step:,}, and would diverge again: start "
            "a new run with a smaller optimizer.learning_rate or optimizer.clip_norm"
        )


def check_checkpoint(path: Path, checkpoint: dict[str, Any], summary: dict[str, Any]) -> None:
    """Raise DamagedFile if the checkpoint does not belong to this run."""
    try:
        fingerprint_there = checkpoint["callbacks"]["RunCheckpoint"]["fingerprint"]
    except (KeyError, TypeError) as error:
        raise DamagedFile(f"{path} is not a checkpoint of an lstm_lm run") from error
    if fingerprint_there != summary["fingerprint"]:
        raise DamagedFile(f"{path} is a checkpoint of another run")


def check_checkpoints_exist(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Raise DamagedFile if a run that had saved its state has lost its checkpoints."""
    if summary["status"] == Status.completed or folder.best.exists():
        raise DamagedFile(
            f"{folder.checkpoints} has neither last.ckpt nor previous.ckpt, so there is nothing to "
            "resume from: start a new run"
        )


def is_run_complete(
    before: RunConfig, config: RunConfig, checkpoint: dict[str, Any], summary: dict[str, Any]
) -> bool:
    """True if all steps and metrics that are asked for exist already."""
    has_figures = before.data.reset_every == config.data.reset_every
    if summary["status"] != Status.completed or not has_figures:
        return False
    timers = [state for name, state in checkpoint["callbacks"].items() if name.startswith("Timer")]
    seconds = max((state["time_elapsed"].get("train", 0.0) for state in timers), default=0.0)
    budget = config.training
    used = (
        (budget.epochs, summary["epochs"]),
        (budget.steps, checkpoint["global_step"]),
        (budget.minutes, seconds / 60),
    )
    is_used_up = any(limit is not None and done >= limit for limit, done in used)
    # A callback, such as EarlyStopping, ended it.
    is_ended = summary.get("stopped_early", False)
    return is_used_up or is_ended


def check_schedule(before: RunConfig, config: RunConfig, checkpoint: dict[str, Any]) -> None:
    """Raise SettingsError if a new budget would change what was done with the steps so far."""
    old, new = ((c.training.epochs, c.training.steps, c.training.minutes) for c in (before, config))
    if old == new:
        return
    schedule, instead = config.optimizer.schedule, "start a new run, for instance from the weights"
    instead += " of this one with init_from"
    if schedule not in (Schedule.constant, Schedule.multistep):
        raise SettingsError(
            f"optimizer.schedule={schedule} spreads over the whole budget, so a new budget would "
            f"change learning rates that were already used in the {checkpoint['global_step']:,} "
            f"steps done: {instead}"
        )
    for name, entry in config.callbacks.items():
        if entry[TARGET] == TAIL_AVERAGING:
            raise SettingsError(
                f"callbacks.{name} averages the last share of the budget, which a new budget would "
                f"move: {instead}"
            )
