import itertools
import random

import pytest
import torch

from lstm_lm.config import DataConfig, LossConfig, Order, RunConfig
from lstm_lm.data.batches import (
    EvaluationBatches,
    TrainingBatches,
    consecutive,
    rank_rows,
    shuffled,
    window_ends,
)
from lstm_lm.errors import SettingsError

every_order = pytest.mark.parametrize("order", list(Order))


def epoch(batches, number=0):
    drawn = batches.batches_of_epoch(number)
    return [(batch.inputs.tolist(), batch.targets.tolist()) for batch in drawn]


@every_order
def test_targets_are_the_inputs_one_step_later(order):
    for inputs, targets, _ in TrainingBatches(torch.arange(100), 4, 5, order, seed=0):
        assert inputs.shape == targets.shape == (5, 4)
        assert torch.equal(targets, inputs + 1)
        assert torch.equal(inputs[1:], inputs[:-1] + 1)


def test_rows_of_the_published_example():
    # d2l.ai, language-models-and-dataset: range(35), batch 2, steps 5, offset 0
    first, second, third = consecutive(torch.arange(35), 2, range(5, 16, 5))
    assert first.inputs.T.tolist() == [[0, 1, 2, 3, 4], [17, 18, 19, 20, 21]]
    assert second.inputs[0].tolist() == [5, 22]
    assert third.inputs[0].tolist() == [10, 27]


def test_windows_of_the_published_example():
    # The same page, random order, offset 3: three batches, whatever the order.
    batches = list(shuffled(torch.arange(3, 35), 2, 5, torch.Generator()))
    assert len(batches) == 3
    starts = sorted(start for inputs, *_ in batches for start in inputs[0].tolist())
    assert starts == [3, 8, 13, 18, 23, 28]


def test_each_row_goes_on_where_it_left_off():
    training = TrainingBatches(torch.arange(1000), 3, 7, Order.consecutive, seed=1)
    batches = list(training.batches_of_epoch(0))
    for before, after in zip(batches, batches[1:], strict=False):
        assert torch.equal(after.inputs[0], before.targets[-1])


def varying(tokens=80_000, position=lambda: (0, 0), rows=slice(None)):
    ids = torch.arange(tokens)
    return TrainingBatches(ids, 4, 70, Order.consecutive, 3, rows, position, is_variable=True)


def test_windows_of_varying_length_follow_each_other_and_read_as_much_in_every_epoch():
    fixed = TrainingBatches(torch.arange(80_000), 4, 70, Order.consecutive, seed=3)
    for number in range(5):
        batches = list(varying().batches_of_epoch(number))
        assert len(batches) == len(varying()) == round(len(fixed) / 0.975)
        assert sum(len(batch.inputs) for batch in batches) == 70 * len(fixed)
        for before, after in zip(batches, batches[1:], strict=False):
            assert torch.equal(after.inputs[0], before.targets[-1])
        assert [batch.continues for batch in batches] == [False] + [True] * (len(batches) - 1)


def test_lengths_of_windows_are_distributed_as_published():
    lengths = torch.tensor(
        [len(batch.inputs) for number in range(20) for batch in varying().batches_of_epoch(number)]
    ).float()
    short = lengths < 52
    assert short.float().mean().item() == pytest.approx(0.05, abs=0.01)
    for some, middle in (lengths[~short], 70), (lengths[short], 35):
        assert some.mean().item() == pytest.approx(middle, rel=0.02)
        assert some.std().item() == pytest.approx(5, rel=0.1)


def test_lengths_of_windows_depend_on_seed_and_epoch_alone():
    first, second = epoch(varying(), 0), epoch(varying(), 1)
    assert epoch(varying(), 0) == first
    assert [len(batch[0]) for batch in first] != [len(batch[0]) for batch in second]
    rest = list(varying(position=lambda: (1, 100)))
    assert [(batch.inputs.tolist(), batch.targets.tolist()) for batch in rest] == second[100:]
    halves = [epoch(varying(rows=rank_rows(4, rank, 2)), 0) for rank in range(2)]
    for whole, one, other in zip(first, *halves, strict=True):
        assert whole[0] == [left + right for left, right in zip(one[0], other[0], strict=True)]


@pytest.mark.parametrize("count", [1, 2, 50])
def test_no_window_is_shorter_than_four_however_they_are_scaled(count):
    for seed in range(50):
        ends = window_ends(count, 10 * count, 10, random.Random(seed))
        assert ends[-1] == 10 * count
        assert all(end - start >= 4 for start, end in itertools.pairwise([0, *ends]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": Order.random}, "data.variable_num_steps=true needs data.order=consecutive"),
        ({"num_steps": 9}, "data.variable_num_steps=true needs data.num_steps of at least 10"),
    ],
)
def test_windows_that_cannot_vary_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        DataConfig(variable_num_steps=True, **settings)


def test_a_token_ahead_of_the_shortest_window_is_refused():
    loss = LossConfig(multi_token_weight=0.3, tokens_ahead=5)
    with pytest.raises(SettingsError, match="at most 4 with data.variable_num_steps"):
        RunConfig(data=DataConfig(variable_num_steps=True), loss=loss)


def test_random_windows_do_not_overlap_and_are_shuffled():
    batches = TrainingBatches(torch.arange(1000), 3, 7, Order.random, seed=1)
    starts = [start for inputs, _ in epoch(batches) for start in inputs[0]]
    assert len(set(starts)) == len(starts) == 3 * len(batches)
    assert {(start - min(starts)) % 7 for start in starts} == {0}
    assert starts != sorted(starts)


@every_order
def test_order_depends_on_seed_and_epoch_alone(order):
    ids = torch.arange(500)
    batches = TrainingBatches(ids, 4, 5, order, seed=3)
    first = epoch(batches, 0), epoch(batches, 1)
    torch.rand(7), random.random()
    again = TrainingBatches(ids, 4, 5, order, seed=3)
    assert (epoch(again, 1), epoch(again, 0)) == first[::-1]
    assert first[0] != first[1]
    assert epoch(TrainingBatches(ids, 4, 5, order, seed=4)) != first[0]


@every_order
@pytest.mark.parametrize(("at", "done"), [(0, 0), (0, 1), (1, 23), (2, 0)])
def test_iteration_begins_where_it_is_told(order, at, done):
    ids = torch.arange(500)
    expected = epoch(TrainingBatches(ids, 4, 5, order, seed=3), at)
    resumed = TrainingBatches(ids, 4, 5, order, seed=3, position=lambda: (at, done))
    assert len(resumed) == len(expected) == 24
    rest = list(resumed)
    assert [(batch.inputs.tolist(), batch.targets.tolist()) for batch in rest] == expected[done:]
    is_carried = order is Order.consecutive
    assert [batch.continues for batch in rest] == [is_carried and n > 0 for n in range(done, 24)]


@every_order
def test_drawing_batches_leaves_the_global_random_state_alone(order):
    before = torch.get_rng_state()
    list(TrainingBatches(torch.arange(500), 4, 5, order, seed=3))
    assert torch.equal(torch.get_rng_state(), before)


@every_order
def test_every_offset_of_the_chapter_occurs_and_every_epoch_has_eight_batches(order):
    batches = TrainingBatches(torch.arange(10_000), 32, 35, order, seed=0)
    offsets = set()
    for number in range(400):
        drawn = list(batches.batches_of_epoch(number))
        assert len(drawn) == len(batches) == 8
        offsets.add(min(inputs.min().item() for inputs, *_ in drawn) % 35)
        if order is Order.consecutive:
            offsets.add(drawn[0].inputs[0, 0].item())
    # Consecutive: 0 … 35 inclusive; random: 0 … 34. The chapter's samplers differ in this.
    assert offsets == set(range(36 if order is Order.consecutive else 35))


@every_order
@pytest.mark.parametrize("tokens", [21, 22, 25, 26, 40, 41, 45, 46])
def test_all_epochs_are_equally_long_however_short_the_text(order, tokens):
    batches = TrainingBatches(torch.arange(tokens), 4, 5, order, seed=0)
    for number in range(30):
        assert len(epoch(batches, number)) == len(batches) >= 1


@every_order
def test_a_text_shorter_than_one_batch_is_refused(order):
    with pytest.raises(SettingsError, match=r"= 21 tokens, but the training text has 20"):
        TrainingBatches(torch.arange(20), 4, 5, order, seed=0)


def test_evaluation_covers_all_but_less_than_a_token_per_row():
    evaluation = EvaluationBatches(torch.arange(1000), rows=3, vocabulary_size=2**14)
    batches = list(evaluation)
    assert len(batches) == len(evaluation) == 4
    targets = torch.cat([batch.targets for batch in batches])
    assert sorted(targets.flatten().tolist()) == list(range(1, 1000))


def test_evaluation_has_no_more_rows_than_targets():
    ((inputs, targets, continues),) = EvaluationBatches(torch.arange(3), 32, 7)
    assert (inputs.tolist(), targets.tolist(), continues) == ([[0, 1]], [[1, 2]], False)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_batches_are_the_same_however_ids_are_kept(kind):
    ids = torch.arange(100)
    for order in Order:
        for number in range(2):
            kept, plain = (
                list(TrainingBatches(some, 4, 5, order, seed=0).batches_of_epoch(number))
                for some in (ids.to(kind), ids)
            )
            assert_same_batches(kept, plain)
    assert_same_batches(EvaluationBatches(ids.to(kind), 4, 100), EvaluationBatches(ids, 4, 100))


def assert_same_batches(kept, plain):
    for batch, expected in zip(kept, plain, strict=True):
        for one, other in zip(batch[:2], expected[:2], strict=True):
            assert one.dtype is other.dtype is torch.int64
            assert torch.equal(one, other)


@pytest.mark.parametrize(("total", "count"), [(32, 2), (5, 3), (2, 4)])
def test_each_row_is_of_one_rank(total, count):
    rows = [range(total)[rank_rows(total, rank, count)] for rank in range(count)]
    assert [row for some in rows for row in some] == list(range(total))
