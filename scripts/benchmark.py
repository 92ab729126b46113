"""Speed on this machine, as ratios of what is measured in turns in one go.

    sweep   many small models side by side, one thread each, against in turn, with all threads:
            how many tokens all of them together learn from in a second

python scripts/benchmark.py sweep
"""

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lstm_lm.sweep.runner import cores

TRAIN = Path(__file__).parent / "train.py"
# The chapter's shape, on the built-in text. No validation, no final figures to speak of.
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

SIDE_BY_SIDE, IN_TURN = WAYS = "side by side", "in turn"


@dataclass
class Measured:
    """Of one sweep."""

    whole: float  # tokens per second, the start of processes included
    training: float  # the same, from each job's first step to its last


@dataclass
class Ratio:
    """Of what is measured in the same round, over all rounds."""

    what: str
    shape: str
    threads: int  # of both ways together
    device: str
    dtype: str
    ratio: float  # the median
    low: float
    high: float
    tokens_per_second: float  # of the first way, the median


def main() -> None:
    arguments = parse()
    ways = list(itertools.product(WAYS, arguments.precisions))
    rounds: list[dict[tuple[str, str], Measured]] = []
    for number in range(arguments.rounds):
        rounds.append({})
        for way, precision in random.sample(ways, len(ways)):
            measured = run_sweep(way, precision, arguments.jobs, arguments.steps)
            rounds[-1][way, precision] = measured
            print(
                f"round {number + 1}  {precision:10}  {way:17}  tokens per second: "
                f"{measured.training:,.0f} in training, {measured.whole:,.0f} with starting",
                flush=True,
            )
    first = arguments.precisions[0]
    pairs = [((SIDE_BY_SIDE, p), (IN_TURN, p)) for p in arguments.precisions]
    pairs += [((SIDE_BY_SIDE, p), (IN_TURN, first)) for p in arguments.precisions[1:]]
    rows = [compare(rounds, *pair, name) for pair in pairs for name in ("training", "whole")]
    print(f"\n{'':58}{'ratio':>7}{'lowest':>8}{'highest':>9}{'tokens per second':>19}")
    for row in rows:
        print(
            f"{row.what:58}{row.ratio:7.2f}{row.low:8.2f}{row.high:9.2f}"
            f"{row.tokens_per_second:19,.0f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["sweep"])
    parser.add_argument("--quick", action="store_true", help="too little to be trusted")
    parser.add_argument("--rounds", type=int, help="how often each way (default: 5)")
    parser.add_argument("--jobs", type=int, default=8, help="of each sweep (default: 8)")
    parser.add_argument("--steps", type=int, help="of each job (default: 300)")
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios here, too")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    arguments.steps = arguments.steps or (30 if arguments.quick else 300)
    return arguments


def run_sweep(way: str, precision: str, jobs: int, steps: int) -> Measured:
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, str(TRAIN), "-m", *SMALL_MODEL),
            f"seed={','.join(map(str, range(jobs)))}",
            f"training.steps={steps}",
            f"device.precision={precision}",
            f"hydra.sweep.dir={folder}/sweep",
            *(["hydra.launcher.jobs=1"] if way == IN_TURN else []),
        ]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds = time.monotonic() - began
        summaries = [
            json.loads(path.read_text()) for path in Path(folder).glob("sweep/*/summary.json")
        ]
    at_once = 1 if way == IN_TURN else min(jobs, cores())
    tokens = sum(summary["tokens"] for summary in summaries)
    speeds = [summary["tokens_per_second"] for summary in summaries]
    return Measured(tokens / seconds, at_once * statistics.harmonic_mean(speeds))


def compare(
    rounds: list[dict[tuple[str, str], Measured]],
    one: tuple[str, str],
    other: tuple[str, str],
    name: str,
) -> Ratio:
    speeds = [(getattr(r[one], name), getattr(r[other], name)) for r in rounds]
    ratios = [speed / than for speed, than in speeds]
    counted = "training" if name == "training" else "with starting"
    return Ratio(
        what=f"{one[0]} {one[1]} / {other[0]} {other[1]}, {counted}",
        shape="hidden 256, 35 steps, batch 32",
        threads=cores(),
        device="cpu",
        dtype=one[1],
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        tokens_per_second=statistics.median(speed for speed, _ in speeds),
    )


if __name__ == "__main__":
    main()
