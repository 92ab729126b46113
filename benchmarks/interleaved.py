"""Interleaved measurements: each round measures all candidates, in a random order.

    round 1    scratch  builtin  naive
    round 2    builtin  naive    scratch        ratio of a round: builtin's time / scratch's
    round 3    naive    scratch  builtin        result: the median of the rounds' ratios

A machine's speed drifts by more than candidates differ, but it drifts less within one round.
"""

import math
import random
import statistics
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from benchmarks.busy import allowed, others, read

Way = TypeVar("Way", bound=Hashable)
ENOUGH_FOR_PERCENTILES = 9


@dataclass(frozen=True)
class Effort:
    rounds: int
    seconds: float  # minimum duration of a sample
    repeats: int  # at most, of a sample that other programs disturbed

    def steps(self, step_seconds: float) -> int:
        """Number of steps in a sample."""
        return max(1, math.ceil(self.seconds / step_seconds))


THOROUGH = Effort(rounds=9, seconds=0.3, repeats=4)
QUICK = Effort(rounds=2, seconds=0.02, repeats=0)


@dataclass
class Busyness:
    """Counts of samples that other programs disturbed, among all samples that were kept."""

    samples: int = 0
    disturbed: int = 0
    unknown: int = 0

    def __str__(self) -> str:
        if self.unknown:
            return "This system does not show whether other programs disturbed the measurement."
        if not self.disturbed:
            return f"The machine was quiet during all {self.samples} samples."
        return (
            f"The machine was too busy to trust these figures: other programs disturbed "
            f"{self.disturbed} of {self.samples} samples, even after repeats."
        )


class Spread(NamedTuple):
    median: float
    low: float  # 10th percentile; the lowest of fewer than nine rounds
    high: float  # 90th percentile; the highest of fewer than nine rounds

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) < ENOUGH_FOR_PERCENTILES:
            return cls(statistics.median(values), min(values), max(values))
        tenths = statistics.quantiles(values, n=10, method="inclusive")
        return cls(statistics.median(values), tenths[0], tenths[-1])


class Rounds(Generic[Way]):
    """Iterate over the candidates in rounds, and time the body of the loop for each:

        for way in rounds:
            work(way)

    If other programs disturb a sample, it is repeated up to ``effort.repeats`` times. The least
    disturbed one is kept.

    Args:
        finish: waits until the device has finished its work.
    """

    def __init__(
        self,
        ways: Sequence[Way],
        effort: Effort,
        threads: int,
        busyness: Busyness,
        finish: Callable[[], None] = lambda: None,
    ) -> None:
        self.ways, self.effort, self.threads = ways, effort, threads
        self.busyness = busyness
        self.finish = finish
        self.seconds: dict[Way, list[float]] = {way: [] for way in ways}

    def __iter__(self) -> Iterator[Way]:
        for _ in range(self.effort.rounds):
            for way in random.sample(self.ways, len(self.ways)):
                yield from self.sample(way)

    def sample(self, way: Way) -> Iterator[Way]:
        limit = allowed(self.threads)
        taken: list[tuple[float, float]] = []
        for _ in range(1 + self.effort.repeats):
            self.finish()
            before = read()
            yield way
            self.finish()
            after = read()
            disturbance = others(before, after)
            taken.append((disturbance or 0.0, after.clock - before.clock))
            if taken[-1][0] <= limit:
                break
        least, seconds = min(taken)
        self.seconds[way].append(seconds)
        self.busyness.samples += 1
        self.busyness.disturbed += least > limit
        self.busyness.unknown += disturbance is None

    def speedup(self, way: Way, reference: Way) -> Spread:
        """Speed of a candidate relative to a reference that does the same work."""
        pairs = zip(self.seconds[reference], self.seconds[way], strict=True)
        return Spread.of([slow / fast for slow, fast in pairs])

    def difference(self, way: Way, reference: Way) -> Spread:
        """Seconds by which a candidate's samples take longer than the reference's."""
        pairs = zip(self.seconds[way], self.seconds[reference], strict=True)
        return Spread.of([one - other for one, other in pairs])
