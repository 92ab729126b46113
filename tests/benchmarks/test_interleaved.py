import random

import pytest
from benchmarks import interleaved
from benchmarks.busy import Reading, cpu_seconds, others
from benchmarks.interleaved import Busyness, Effort, Rounds, Spread

STAT = """\
cpu  1000 0 0 0 0 0 0 0 0 0
cpu0 100 20 30 9000 500 1 2 47 0 0
cpu1 300 0 0 9000 500 0 0 0 0 0
intr 12345
"""


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when it is told to, on a machine where others use so many cores."""

    class Clock:
        now, others_used = 0.0, 0.0

        def pass_by(self, seconds, others=0.0):
            self.now += seconds
            self.others_used += seconds * others

    clock = Clock()
    monkeypatch.setattr(
        interleaved, "read", lambda: Reading(clock.now, clock.others_used + clock.now, clock.now)
    )
    return clock


def rounds(ways, count, repeats=0, busyness=None):
    effort = Effort(count, seconds=0.3, repeats=repeats)
    return Rounds(ways, effort, threads=999, busyness=busyness or Busyness())


def test_each_round_visits_all_ways_in_an_order_of_its_own(clock):
    random.seed(0)
    visited = []
    for way in rounds("abc", 20):
        visited.append(way)
        clock.pass_by(1.0)
    orders = {tuple(visited[start : start + 3]) for start in range(0, 60, 3)}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(orders) > 3


def test_ratios_pair_samples_of_the_same_round(clock):
    # The machine gets slower from round to round; one way always takes twice as long.
    taken = rounds(["fast", "slow"], 3)
    for visit, way in enumerate(taken):
        machine = 1 + visit // 2
        clock.pass_by(machine * (2.0 if way == "slow" else 1.0))
    assert taken.seconds == {"fast": [1, 2, 3], "slow": [2, 4, 6]}
    assert taken.speedup("fast", "slow") == Spread(2, 2, 2)


def test_a_disturbed_sample_is_taken_again_until_it_is_not(clock):
    busyness = Busyness()
    taken = rounds(["only"], 1, repeats=4, busyness=busyness)
    for (seconds, others_used), _ in zip([(5.0, 1.0), (4.0, 0.5), (3.0, 0.1)], taken, strict=True):
        clock.pass_by(seconds, others_used)
    assert taken.seconds == {"only": [3.0]}
    assert str(busyness) == "The machine was quiet during all 1 samples."


def test_of_disturbed_samples_the_least_disturbed_is_kept_and_counted(clock):
    busyness = Busyness()
    taken = rounds(["only"], 1, repeats=2, busyness=busyness)
    for (seconds, others_used), _ in zip([(5.0, 1.0), (4.0, 0.5), (3.0, 0.9)], taken, strict=True):
        clock.pass_by(seconds, others_used)
    assert taken.seconds == {"only": [4.0]}
    assert "other programs disturbed 1 of 1 samples" in str(busyness)


def test_where_nobody_tells_what_others_use_that_is_said(clock, monkeypatch):
    monkeypatch.setattr(interleaved, "read", lambda: Reading(clock.now, None, 0.0))
    busyness = Busyness()
    for _ in rounds(["only"], 1, busyness=busyness):
        clock.pass_by(1.0)
    assert str(busyness).startswith("This system does not show")


def test_spreads_are_percentiles_from_nine_values_on():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2, 1, 3)
    assert Spread.of([float(value) for value in range(11)]) == Spread(5, 1, 9)


def test_a_sample_has_as_many_steps_as_its_time_needs():
    effort = Effort(1, seconds=0.3, repeats=0)
    assert [effort.steps(seconds) for seconds in (0.1, 0.04, 1.0)] == [3, 8, 1]


def test_what_cores_were_used_for_leaves_out_idle_and_waiting(monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    assert cpu_seconds(STAT, {0}) == 2.0  # 100 + 20 + 30 + 1 + 2 + 47 ticks
    assert cpu_seconds(STAT, {0, 1}) == 5.0


def test_others_are_what_is_used_beside_this_program():
    before, after = Reading(10.0, 100.0, 50.0), Reading(12.0, 104.0, 53.0)
    assert others(before, after) == 0.5
    assert others(before, Reading(12.0, 102.9, 53.0)) == 0.0  # ticks are coarse
    assert others(Reading(10.0, None, 50.0), after) is None
