"""Choose the settings of modes on a text that is not the one to be scored.

One setting after the other is moved along its grid while the loss falls, until none moves any more
or the rounds are used up. That takes some twenty passes through the tuning text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from jaxtyping import Integer
from torch import Tensor
from tqdm import tqdm

from lstm_lm.errors import RunFailed, SettingsError
from lstm_lm.evaluation.dynamic_evaluation import Rule
from lstm_lm.evaluation.modes import Modes
from lstm_lm.evaluation.scorer import Scorer

ROUNDS = 3
LEARNING_RATE = "dynamic_evaluation.learning_rate"
RATES = {
    Rule.sgd: (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
    Rule.rms: (1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3),
}
GRIDS: dict[str, tuple[float, ...]] = {
    "temperature": (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3),
    "dynamic_evaluation.segment": (5, 10, 20, 40, 80),
    "dynamic_evaluation.decay": (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    "neural_cache.theta": (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5),
    "neural_cache.weight": (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4),
    "neural_cache.window": (50, 100, 200, 500, 1000, 2000, 4000, 8000, 16000),
}
TRAINING, VALIDATION = "training", "validation"


@dataclass(frozen=True)
class Tuned:
    """The modes with the lowest loss, and the loss of all that were tried, in nats per token."""

    modes: Modes
    tried: dict[Modes, float]


def tune(loss: Callable[[Modes], float], modes: Modes, free: Sequence[str]) -> Tuned:
    """Choose the free settings of the modes.

    Args:
        loss: the loss of the tuning text.
        modes: the modes, with the settings that are given, and any value of the free ones.
        free: names of the free settings, such as ``neural_cache.theta``.

    Raises:
        RunFailed: if no loss is finite.
    """
    tried: dict[Modes, float] = {}
    with tqdm(desc="tuning", unit="pass", leave=False, disable=None, delay=2) as bar:

        def loss_once(candidate: Modes) -> float:
            if candidate not in tried:
                value = loss(candidate)
                tried[candidate] = value if math.isfinite(value) else math.inf
                bar.update()
            return tried[candidate]

        best = with_starting_values(modes, free)
        for _ in range(ROUNDS):
            before = best
            for name in free:
                best = descend(best, name, loss_once)
            if best == before:
                break
    if math.isinf(tried[best]):
        raise RunFailed(f"no loss is finite while tuning {', '.join(free)}: nothing can be chosen")
    return Tuned(best, tried)


def descend(best: Modes, name: str, loss: Callable[[Modes], float]) -> Modes:
    """Move one setting along its grid, to the side on which the loss falls, while it falls."""
    grid = grid_of(best, name)
    # Where the loss is infinite, smaller rates may do.
    for step in (1, -1) if math.isfinite(loss(best)) else (-1,):
        start, place = best, grid.index(value_of(best, name)) + step
        while 0 <= place < len(grid):
            candidate = with_value(best, name, grid[place])
            if loss(candidate) < loss(best):
                best = candidate
            elif math.isfinite(loss(best)):
                break
            place += step
        if best != start:
            break
    return best


def tuning_ids(scorer: Scorer, source: str, tokens: int) -> Integer[Tensor, " tokens"]:
    """The end of the training text, or the beginning of the validation text.

    Args:
        tokens: the largest number of tokens to predict.
    """
    if tokens < 1:
        raise SettingsError(f"tuning needs at least 1 token, not {tokens}")
    ids = scorer.split(source).ids
    return ids[-tokens - 1 :] if source == TRAINING else ids[: tokens + 1]


def check_source(source: str, scored: str, test_is_validation: bool) -> None:
    """Raise SettingsError if the modes would be tuned on the text that is scored.

    Args:
        source: the split to tune on.
        scored: the name of the split to score.
    """
    is_test_too = scored == "test" and test_is_validation and source == VALIDATION
    if source == scored or is_test_too:
        other = VALIDATION if source == TRAINING else TRAINING
        what = "the validation text is the test text of this run" if is_test_too else "it is scored"
        raise SettingsError(
            f"the {source} text cannot be tuned on, because {what}: use --tune-on {other}"
        )


def grid_of(modes: Modes, name: str) -> tuple[float, ...]:
    if name == LEARNING_RATE and modes.dynamic_evaluation:
        return RATES[Rule(modes.dynamic_evaluation.rule)]
    return GRIDS[name]


def with_starting_values(modes: Modes, free: Sequence[str]) -> Modes:
    """The modes with the default of each free setting, which is a point of its grid."""
    if LEARNING_RATE in free and modes.dynamic_evaluation:
        modes = with_value(modes, LEARNING_RATE, modes.dynamic_evaluation.rate)
    if "temperature" in free:
        modes = replace(modes, temperature=1.0)
    return modes


def value_of(modes: Modes, name: str) -> float:
    return attrgetter(name)(modes)


def with_value(modes: Modes, name: str, value: float) -> Modes:
    mode, _, setting = name.partition(".")
    changed: Any = replace(getattr(modes, mode), **{setting: value}) if setting else value
    return replace(modes, **{mode: changed})
