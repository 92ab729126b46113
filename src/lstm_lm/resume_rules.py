"""What a run that goes on may change: nothing of what is trained."""

from pathlib import Path
from typing import Any

from lstm_lm.config import RunConfig, Schedule
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.fingerprint import fingerprint, what_is_trained
from lstm_lm.run_folder import RunFolder
from lstm_lm.training.budget import Budget


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
    changed = [f"{name} from {old[name]} to {new[name]}" for name in old if old[name] != new[name]]
    if changed:
        raise SettingsError(
            f"a run that goes on cannot change {', '.join(changed)}: start a new run; with "
            f"init_from={folder.path} it begins with these weights, as far as their shape allows"
        )
    if summary["status"] == "diverged" and before.device == config.device:
        raise SettingsError(
            f"{folder.path} diverged at step {summary['diverged_step']:,}, and would again: start "
            "a new run with a smaller optimizer.learning_rate or optimizer.clip_norm"
        )


def refuse_another_checkpoint(
    path: Path, checkpoint: dict[str, Any], summary: dict[str, Any]
) -> None:
    """
    Raises:
        DamagedFile: if the checkpoint is not one of this run.
    """
    if checkpoint["callbacks"]["Checkpoints"]["fingerprint"] != summary["fingerprint"]:
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
    before: RunConfig,
    config: RunConfig,
    steps_per_epoch: int,
    checkpoint: dict[str, Any],
    summary: dict[str, Any],
) -> bool:
    """Whether all steps and figures that are asked for are there."""
    budget = Budget(config.training, steps_per_epoch)
    budget.load_state_dict(checkpoint["callbacks"]["Budget"])
    is_used_up = budget.spent(checkpoint["global_step"]) >= 1
    has_figures = before.data.reset_every == config.data.reset_every
    return is_used_up and summary["status"] == "completed" and has_figures


def refuse_another_schedule(
    before: RunConfig, config: RunConfig, steps_per_epoch: int, checkpoint: dict[str, Any]
) -> None:
    """
    Raises:
        SettingsError: if another budget would change learning rates of the steps already done.
    """
    old, new = (Budget(c.training, steps_per_epoch).limits for c in (before, config))
    schedule = config.optimizer.schedule
    if schedule in (Schedule.linear, Schedule.cosine) and old != new:
        raise SettingsError(
            f"optimizer.schedule={schedule} spreads over the whole budget, so another one would "
            f"change learning rates that were already used in the {checkpoint['global_step']:,} "
            "steps done: start a new run, for instance from the weights of this one with init_from"
        )


def without_results(summary: dict[str, Any]) -> dict[str, Any]:
    """What stays true of a run that goes on."""
    results = {"diverged_step", "reset_every"}
    return {n: v for n, v in summary.items() if "/" not in n and n not in results}
