"""Record scores in modes in a run's summary, under names of their own.

    test/dynamic_evaluation/loss, …/perplexity, …    the figures
    test/dynamic_evaluation/settings                 what they were reached with

A resume drops them with the other figures of the old weights.
"""

from typing import Any

from lstm_lm.errors import SettingsError
from lstm_lm.evaluation.score import Score, summary_entries
from lstm_lm.saved.load_model import TrainedModel
from lstm_lm.saved.run_folder import RunFolder

SUMMARY_NAMES = {"training": "train", "validation": "validation", "test": "test"}


def record(
    run: TrainedModel, split: str, modes: list[str], settings: dict[str, Any], score: Score
) -> str:
    """Record a score; return the beginning of its names in the summary.

    Args:
        split: the name of the split that was scored.
        modes: the names of the modes.
        settings: what the score was reached with.

    Raises:
        SettingsError: if another process trains there, the run has been trained further meanwhile,
            or the folder cannot be written.
    """
    folder, prefix = RunFolder(run.folder), f"{SUMMARY_NAMES[split]}/{'+'.join(modes)}"
    with folder.locked():
        summary = folder.read_summary()
        if summary["steps"] != run.summary["steps"]:
            raise SettingsError(f"{run.folder} has been trained further meanwhile: score it again")
        folder.values = {n: v for n, v in summary.items() if not n.startswith(f"{prefix}/")}
        try:
            folder.record(**summary_entries(prefix, score), **{f"{prefix}/settings": settings})
        except OSError as error:
            raise SettingsError(f"cannot write {folder.summary}: {error.strerror}") from error
    return prefix
