"""Speed of a whole training step on each core, relative to PyTorch's own.

A step is forward, loss, backward, clipping and plain gradient descent; all cores have the same
weights and see the same ids over and over. Losses and gradients must agree, else speeds mean
nothing.
"""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from benchmarks.device import finish
from benchmarks.interleaved import Busyness, Effort, Rounds
from benchmarks.models import BUILTIN, NAIVE, SCRATCH, builders
from benchmarks.peak import peak
from benchmarks.rows import Row
from benchmarks.shapes import Shape
from benchmarks.training_step import (
    BareTraining,
    largest_difference,
    random_ids,
    step_seconds,
)
from lstm_lm.config import Cell, OptimizerConfig
from lstm_lm.errors import RunFailed

FULL, HALF = "32-true", "bf16-mixed"
DTYPES = {FULL: torch.float32, HALF: torch.bfloat16}  # of the operands of matrix products
LEARNING_RATE = 0.01  # so small that rounding errors do not grow over the steps
# Relative differences of losses and gradient norms; on a GPU TF32 rounds. On a CPU we measured
# 1e-5 and 4e-3.
TOLERANCES = {"cpu": {FULL: 1e-3, HALF: 2e-2}, "cuda": {FULL: 1e-2, HALF: 2e-2}}


class Way(NamedTuple):
    core: str
    precision: str


def measure(
    shapes: Sequence[Shape],
    cells: Sequence[Cell],
    threads: Sequence[int],
    precisions: Sequence[str],
    device: torch.device,
    effort: Effort,
    busyness: Busyness,
) -> Iterator[list[Row]]:
    """The rows for each shape, cell and number of threads in turn.

    Raises:
        RunFailed: if losses or gradients differ that should be equal.
    """
    for shape, cell, number in itertools.product(shapes, cells, threads):
        torch.set_num_threads(number)
        yield measure_one(shape, cell, number, precisions, device, effort, busyness)


def measure_one(
    shape: Shape,
    cell: Cell,
    threads: int,
    precisions: Sequence[str],
    device: torch.device,
    effort: Effort,
    busyness: Busyness,
) -> list[Row]:
    peaks = {p: peak(device, DTYPES[p], effort.rounds) for p in precisions}
    ids = random_ids(shape, device)
    trainings = {
        Way(core, precision): BareTraining(
            build(), OptimizerConfig(learning_rate=LEARNING_RATE), precision
        )
        for core, build in builders(shape, cell, device).items()
        for precision in precisions
        if core != NAIVE or precision == FULL
    }
    steps = effort.steps(min(step_seconds(training, ids) for training in trainings.values()))
    rounds = Rounds(list(trainings), effort, threads, busyness, lambda: finish(device))
    for way in rounds:
        for _ in range(steps):
            trainings[way].step(ids[:-1], ids[1:])
    # Again, because other programs may have disturbed the first measurement.
    peaks = {p: max(peaks[p], peak(device, DTYPES[p], effort.rounds)) for p in precisions}
    require_equal_learning(trainings, device)

    def row(way: Way, reference: Way) -> Row:
        seconds = statistics.median(rounds.seconds[way]) / steps
        ratio = rounds.speedup(way, reference)
        return Row(
            what=name(way, reference, cell),
            shape=str(shape),
            threads=threads,
            device=device.type,
            dtype=way.precision,
            ratio=ratio.median,
            low=ratio.low,
            high=ratio.high,
            tokens_per_second=shape.tokens / seconds,
            share_of_peak=shape.step_flop(cell) / seconds / peaks[way.precision],
        )

    return [row(way, reference) for way, reference in comparisons(list(trainings))]


def comparisons(ways: list[Way]) -> list[tuple[Way, Way]]:
    """Pairs of candidate and reference; the main reference is the first core and precision."""
    builtin = ways[0]
    pairs = [(way, builtin) for way in ways]
    for way in ways:
        in_same_precision = Way(BUILTIN, way.precision)
        if in_same_precision not in (way, builtin):
            pairs.append((way, in_same_precision))
    scratch, naive = Way(SCRATCH, FULL), Way(NAIVE, FULL)
    if scratch in ways and naive in ways:
        pairs.append((scratch, naive))
    return pairs


def name(way: Way, reference: Way, cell: Cell) -> str:
    one, other = (
        f"{core} {cell}" + ("" if precision == FULL else f" {precision}")
        for core, precision in (way, reference)
    )
    return one if way == reference else f"{one} / {other}"


def require_equal_learning(trainings: dict[Way, BareTraining], device: torch.device) -> None:
    """Check losses and gradients within each precision, and against builtin in full precision.

    Raises:
        RunFailed: if they differ by more than the tolerance.
    """
    for precision, tolerance in TOLERANCES[device.type].items():
        some = {
            way: training
            for way, training in trainings.items()
            if way.precision == precision or way == Way(BUILTIN, FULL)
        }
        if not some:
            continue
        difference = largest_difference(list(some.values()))
        if not difference <= tolerance:
            last = ", ".join(
                f"{core} {precision} {training.losses[-1]:.6f}, {training.gradient_norms[-1]:.6f}"
                for (core, precision), training in some.items()
            )
            raise RunFailed(
                "these cores do not compute the same, so their speeds cannot be compared: losses "
                f"or gradient norms of the same step differ by {difference:.2g} of their "
                f"value ({last})"
            )
