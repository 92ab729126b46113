"""What a run that goes on may change: nothing of what is trained."""

from pathlib import Path
from typing import Any

from lstm_lm.config import RunConfig, Schedule
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.fingerprint import fingerprint, what_is_trained
from lstm_lm.run_folder import RunFolder


def refuse_first_version(folder: RunFolder, summary: dict[str, Any]) -> None:
    """
    Raises:
        SettingsError: if the run was trained before its checkpoints were Lightning's.
    """
    if "lstm_lm" not in (summary["versions"] or {}):
        raise SettingsError(
            f"{folder.path} was trained by lstm_lm 0.1.0, from whose checkpoints this version "
            f"cannot go on: start a new run, with init_from={folder.path} from its best weights"
        )


def refuse_another_run(
    folder: RunFolder, before: RunConfig, config: RunConfig, summary: dict[str, Any]
) -> None:
    """
    Raises:
        SettingsError: if the settings make it another run; names those that do.
    """
    known = fingerprint(before, summary["text_sha256"], summary["started_from"])
    if known != summary["fingerprint"]:
        raise DamagedFile(
            f"{folder.config} is not what this run was started with: it was edited, or written "
            "by another version of lstm_lm"
        )
    old, new = (what_is_trained(c) | {"init_from": c.init_from} for c in (before, config))
    changed = [
        f"{name} from {old.get(name, 'unset')} to {new.get(name, 'unset')}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise SettingsError(
            f"a run that goes on cannot change {', '.join(changed)}: start a new run; with "
            f"init_from={folder.path} it begins with these weights, as far as their shape allows"
        )
    if summary["status"] == "diverged" and before.device == config.device:
        step = summary.get("diverged_step", 0)
        raise SettingsError(
            f"{folder.path} diverged at step {step:,}, and would again: start "
            "a new run with a smaller optimizer.learning_rate or optimizer.clip_norm"
        )


def refuse_another_checkpoint(
    path: Path, checkpoint: dict[str, Any], summary: dict[str, Any]
) -> None:
    """
    Raises:
        DamagedFile: if the checkpoint is not one of this run.
    """
    try:
        fingerprint_there = checkpoint["callbacks"]["RunCheckpoint"]["fingerprint"]
    except (KeyError, TypeError) as error:
        raise DamagedFile(f"{path} is no checkpoint of a run of lstm_lm's") from error
    if fingerprint_there != summary["fingerprint"]:
        raise DamagedFile(f"{path} is a checkpoint of another run")


def refuse_lost_checkpoints(folder: RunFolder, summary: dict[str, Any]) -> None:
    """
    Raises:
        DamagedFile: if a run that had saved its state has no checkpoint to go on from.
    """
    if summary["status"] == "completed" or folder.best.exists():
        raise DamagedFile(
            f"{folder.checkpoints} has neither last.ckpt nor previous.ckpt, so nothing to go on "
            "from: start a new run"
        )


def nothing_to_do(
    before: RunConfig, config: RunConfig, checkpoint: dict[str, Any], summary: dict[str, Any]
) -> bool:
    """Whether all steps and figures that are asked for are there."""
    has_figures = before.data.reset_every == config.data.reset_every
    if summary["status"] != "completed" or not has_figures:
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
    # By a callback, such as EarlyStopping.
    is_ended = summary.get("stopped_early", False)
    return is_used_up or is_ended


def refuse_another_schedule(
    before: RunConfig, config: RunConfig, checkpoint: dict[str, Any]
) -> None:
    """
    Raises:
        SettingsError: if another budget would change learning rates of the steps already done.
    """
    old, new = ((c.training.epochs, c.training.steps, c.training.minutes) for c in (before, config))
    schedule = config.optimizer.schedule
    if schedule is not Schedule.constant and old != new:
        raise SettingsError(
            f"optimizer.schedule={schedule} spreads over the whole budget, so another one would "
            f"change learning rates that were already used in the {checkpoint['global_step']:,} "
            "steps done: start a new run, for instance from the weights of this one with init_from"
        )


def without_results(summary: dict[str, Any]) -> dict[str, Any]:
    """What stays true of a run that goes on."""
    results = {"diverged_step", "reset_every", "stopped_early"}
    return {n: v for n, v in summary.items() if "/" not in n and n not in results}
