import math

import pytest

from lstm_lm.errors import RunFailed, SettingsError
from lstm_lm.evaluation.dynamic_evaluation import DynamicEvaluation
from lstm_lm.evaluation.modes import Modes
from lstm_lm.evaluation.neural_cache import NeuralCache
from lstm_lm.evaluation.tuning import (
    GRIDS,
    RATES,
    check_source,
    grid_of,
    tune,
    with_starting_values,
)

RATE, DECAY = "dynamic_evaluation.learning_rate", "dynamic_evaluation.decay"


def valley(modes):
    """Lowest at a rate of 0.5 and a decay of 0.01, where the two depend on each other."""
    dynamic = modes.dynamic_evaluation
    rate = math.log(dynamic.rate / 0.5)
    return rate**2 + (200 * (dynamic.decay - 0.01) + 0.1 * rate) ** 2


def test_the_bottom_of_a_valley_is_found_and_all_that_was_tried_is_told():
    start = Modes(DynamicEvaluation("sgd", segment=33))
    tuned = tune(valley, start, [RATE, DECAY])
    assert tuned.modes == Modes(DynamicEvaluation("sgd", 0.5, 33, 0.01))
    assert tuned.tried[tuned.modes] == min(tuned.tried.values()) == 0
    assert all(loss == valley(modes) for modes, loss in tuned.tried.items())
    assert len(tuned.tried) < 20
    assert {modes.dynamic_evaluation.segment for modes in tuned.tried} == {33}
    only_decay = tune(valley, Modes(DynamicEvaluation("sgd", 0.3)), [DECAY])
    assert {modes.dynamic_evaluation.learning_rate for modes in only_decay.tried} == {0.3}


def test_what_diverges_is_not_chosen():
    def loss(modes):
        return (
            math.nan if modes.dynamic_evaluation.rate > 0.05 else 1 - modes.dynamic_evaluation.rate
        )

    tuned = tune(loss, Modes(DynamicEvaluation("sgd")), [RATE])
    assert tuned.modes.dynamic_evaluation.learning_rate == 0.05
    with pytest.raises(RunFailed, match="no loss is finite while tuning"):
        tune(lambda modes: math.inf, Modes(DynamicEvaluation("sgd")), [RATE])


def test_tuning_starts_at_the_defaults_which_lie_on_the_grids():
    for rule in RATES:
        modes = Modes(DynamicEvaluation(rule), NeuralCache(), temperature=1.0)
        start = with_starting_values(modes, [RATE, *GRIDS])
        for name in [RATE, *GRIDS]:
            mode, _, setting = name.partition(".")
            value = getattr(getattr(start, mode), setting) if setting else start.temperature
            assert value in grid_of(start, name), name
            assert list(grid_of(start, name)) == sorted(grid_of(start, name))


@pytest.mark.parametrize(
    ("source", "scored", "test_is_validation", "instead"),
    [
        ("validation", "validation", False, "training"),
        ("training", "training", False, "validation"),
        ("validation", "test", True, "training"),
    ],
)
def test_tuning_on_the_text_that_is_scored_is_refused(source, scored, test_is_validation, instead):
    with pytest.raises(SettingsError, match=f"cannot be tuned on, .* use --tune-on {instead}"):
        check_source(source, scored, test_is_validation)
    check_source(instead, scored, test_is_validation)
