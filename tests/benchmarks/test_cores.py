import pytest
import torch
from benchmarks.cores import Way, comparisons, require_equal_learning
from benchmarks.models import builders
from benchmarks.naive import NaiveModel
from benchmarks.shapes import SHAPES, Shape
from benchmarks.training_step import BareTraining
from torch.testing import assert_close

from lstm_lm.config import Cell, OptimizerConfig
from lstm_lm.errors import RunFailed
from lstm_lm.model.language_model import LanguageModel

CPU = torch.device("cpu")


@pytest.mark.parametrize("embedding_size", [None, 3])
def test_the_naive_model_computes_what_the_builtin_one_does(embedding_size):
    shape = Shape(7, 5, 4, 2, embedding_size)
    model = LanguageModel(shape.model(Cell.lstm), shape.vocabulary_size)
    naive = NaiveModel(model)
    ids = torch.randint(7, (4, 2))
    logits, state = model(ids)
    naive_logits, naive_state = naive(ids)
    assert_close(naive_logits, logits)
    again, _ = model(ids, state)
    assert_close(naive(ids, naive_state)[0], again)


def test_models_differ_in_their_cores_only():
    ids = torch.randint(28, (4, 4))
    outputs = {
        name: build()(ids)[0] for name, build in builders(SHAPES["tiny"], Cell.lstm, CPU).items()
    }
    assert list(outputs)[0] == "builtin"
    assert {"scratch", "naive"} <= set(outputs)
    for logits in outputs.values():
        assert_close(logits, outputs["builtin"])


def test_work_of_a_step_by_hand():
    # A token costs 2 x 4 x 8 x 8 for the cell and 2 x 8 x 28 for the output layer, three times.
    assert SHAPES["tiny"].step_flop(Cell.lstm) == 16 * 3 * (2 * 4 * 8 * 8 + 2 * 8 * 28)
    embedded = Shape(28, 8, 4, 4, embedding_size=2)
    assert embedded.step_flop(Cell.gru) == 16 * 3 * (2 * 3 * 8 * 10 + 2 * 8 * 28)


def test_what_is_compared_with_what():
    ways = [Way(core, p) for core in ("builtin", "scratch") for p in ("32-true", "bf16-mixed")]
    ways.append(Way("naive", "32-true"))
    builtin, builtin_half, scratch, scratch_half, naive = ways
    assert comparisons(ways) == [
        *((way, builtin) for way in ways),
        (scratch_half, builtin_half),
        (scratch, naive),
    ]


def trained(build, rate=1.0, precision="32-true"):
    training = BareTraining(build(), OptimizerConfig(learning_rate=rate), precision)
    ids = torch.randint(28, (5, 4), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        training.step(ids[:-1], ids[1:])
    return training


def test_cores_that_learn_otherwise_are_noticed():
    build = builders(SHAPES["tiny"], Cell.lstm, CPU)
    same = {Way(name, "32-true"): trained(build[name]) for name in build}
    require_equal_learning(same, CPU)
    with pytest.raises(RunFailed, match="do not compute the same"):
        require_equal_learning(
            same | {Way("wrong", "32-true"): trained(build["builtin"], 2.0)}, CPU
        )


@pytest.mark.parametrize(
    "precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.bf16)]
)
def test_a_core_that_computes_nothing_is_noticed_in_either_precision(precision):
    build = builders(SHAPES["small"], Cell.lstm, CPU)
    right = {Way("builtin", p): trained(build["builtin"], 0.01, p) for p in ("32-true", precision)}
    right[Way("scratch", precision)] = trained(build["scratch"], 0.01, precision)
    require_equal_learning(right, CPU)
    wrong = build["scratch"]()
    wrong.cores[0].register_forward_hook(lambda core, inputs, outputs: (outputs[0] * 0, outputs[1]))
    with pytest.raises(RunFailed, match="do not compute the same"):
        require_equal_learning(
            right | {Way("wrong", precision): trained(lambda: wrong, 0.01, precision)}, CPU
        )
