"""Speed of sweeps of small models: side by side with one thread each, or in turn with all.

The figure is the total number of training tokens per second, from the runs' own summaries. The
sweeps are real, with their own processes.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.interleaved import Busyness, Effort, Rounds, Spread
from benchmarks.rows import Row
from lstm_lm.machine import cpu_cores

# The chapter's shape, on the built-in text; hardly any validation and final figures.
SMALL_MODEL = [
    "data.cleaning=letters",
    "data.max_tokens=400000",
    "data.validation_size=500",
    "data.test_size=0",
    "data.batch_size=32",
    "data.num_steps=35",
    "model.hidden_size=256",
    "model.embedding_size=null",
    "samples.tokens=1",
    "device=cpu",
]

SIDE_BY_SIDE, IN_TURN = "side by side", "in turn"


class Way(NamedTuple):
    order: str
    precision: str


@dataclass
class Measured:
    """Speed of one sweep, in tokens per second."""

    whole: float  # including the start of processes
    training: float  # from each job's first step to its last


def measure(
    train: Path,
    precisions: Sequence[str],
    jobs: int,
    steps: int,
    rounds: int,
    busyness: Busyness,
) -> list[Row]:
    """The rows that compare side by side with in turn, in each precision.

    Args:
        train: path of the training script.
        steps: training steps of each job.
    """
    ways = [Way(*way) for way in itertools.product((SIDE_BY_SIDE, IN_TURN), precisions)]
    measured: dict[Way, list[Measured]] = {way: [] for way in ways}
    # No repeats: a sample takes half a minute, so a second one is hardly ever undisturbed, either.
    effort = Effort(rounds, seconds=0, repeats=0)
    for way in Rounds(ways, effort, cpu_cores(), busyness):
        measured[way].append(run_sweep(train, way, jobs, steps))
    first = precisions[0]
    pairs = [(Way(SIDE_BY_SIDE, p), Way(IN_TURN, p)) for p in precisions]
    pairs += [(Way(SIDE_BY_SIDE, p), Way(IN_TURN, first)) for p in precisions[1:]]
    return [
        compare(measured, *pair, counted) for pair in pairs for counted in ("training", "whole")
    ]


def run_sweep(train: Path, way: Way, jobs: int, steps: int) -> Measured:
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, str(train), "-m", *SMALL_MODEL),
            f"seed={','.join(map(str, range(jobs)))}",
            f"training.steps={steps}",
            f"device.precision={way.precision}",
            f"hydra.sweep.dir={folder}/sweep",
            *(["hydra.launcher.jobs=1"] if way.order == IN_TURN else []),
        ]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds = time.monotonic() - began
        summaries = [
            json.loads(path.read_text()) for path in Path(folder).glob("sweep/*/summary.json")
        ]
    at_once = 1 if way.order == IN_TURN else min(jobs, cpu_cores())
    tokens = sum(summary["tokens"] for summary in summaries)
    speeds = [summary["tokens_per_second"] for summary in summaries]
    return Measured(tokens / seconds, at_once * statistics.harmonic_mean(speeds))


def compare(measured: dict[Way, list[Measured]], one: Way, other: Way, counted: str) -> Row:
    speeds, others = ([getattr(m, counted) for m in measured[way]] for way in (one, other))
    ratio = Spread.of([speed / than for speed, than in zip(speeds, others, strict=True)])
    included = "training" if counted == "training" else "with starting"
    return Row(
        what=f"{one.order} {one.precision} / {other.order} {other.precision}, {included}",
        shape="hidden 256, 35 steps, batch 32",
        threads=cpu_cores(),  # in total, the same for both
        device="cpu",
        dtype=one.precision,
        ratio=ratio.median,
        low=ratio.low,
        high=ratio.high,
        tokens_per_second=statistics.median(speeds),
    )
