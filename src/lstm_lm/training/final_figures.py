"""Final metrics of a run, exact: every held-out token is scored, in one stream."""

import logging
import math
from typing import Any

from lstm_lm.config import DataConfig
from lstm_lm.data.splits import Splits
from lstm_lm.errors import DamagedFile, Diverged
from lstm_lm.evaluation import Score, evaluate, perplexity
from lstm_lm.files import copy_atomically
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.saved.checkpoint_file import load_checkpoint
from lstm_lm.saved.load_model import load_weights
from lstm_lm.saved.run_folder import RunFolder
from lstm_lm.training.checkpoint import RunCheckpoint

log = logging.getLogger(__name__)


def final_figures(
    config: DataConfig,
    splits: Splits,
    model: LanguageModel,
    folder: RunFolder,
    checkpoint_callback: RunCheckpoint,
) -> dict[str, Any]:
    """Exact metrics: final weights on the validation text, best weights on validation and test."""
    log.info("scoring every token of the held-out text, one after the other")
    final = best = evaluate(model, splits.validation)
    best_step = last_step = checkpoint_callback.saved_step or 0
    if checkpoint_callback.best_step != last_step:
        try:
            checkpoint = load_checkpoint(folder.best)
            load_weights(model, folder.best, checkpoint)
            best_step = checkpoint["global_step"]
            best = evaluate(model, splits.validation)
        except DamagedFile as error:
            log.warning("warning: %s; the final weights are used instead", error)
            copy_atomically(folder.best, folder.last)
    if math.isinf(best.perplexity):
        raise Diverged("validation perplexity", last_step)
    test = best if splits.test_is_validation else evaluate(model, splits.test)
    figures: dict[str, Any] = {
        **summary_entries("validation", final),
        **summary_entries("best/validation", best),
        **summary_entries("test", test),
        "best/step": best_step,
    }
    if config.reset_every is not None:
        reset = evaluate(model, splits.test, config.reset_every)
        figures |= {**summary_entries("test/reset", reset), "reset_every": config.reset_every}
    return figures


def summary_entries(prefix: str, score: Score) -> dict[str, float | None]:
    above = score.above_floor
    of_floor = (
        {}
        if above is None
        else {
            f"{prefix}/floor": above.floor,
            f"{prefix}/floor_perplexity": perplexity(above.floor),
            f"{prefix}/gap": above.gap,
            f"{prefix}/memory_gap": above.memory_gap,
        }
    )
    return of_floor | {
        f"{prefix}/loss": score.loss,
        f"{prefix}/perplexity": score.perplexity,
        f"{prefix}/bits_per_character": score.bits_per_character,
        f"{prefix}/bits_per_byte": score.bits_per_byte,
        f"{prefix}/unknown_tokens": score.unknown,
    }
