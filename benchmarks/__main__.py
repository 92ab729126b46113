"""Measure speed on this machine, as ratios of interleaved measurements.

    cores      a whole training step, on every core that can run here
    loop       a full run, compared with a bare loop in PyTorch
    generate   text generated token by token, on every core that can run here
    sweep      many small models: side by side with one thread each, or in turn with all threads

python -m benchmarks cores
python -m benchmarks cores --shapes small --cells lstm gru --threads 1 --json cores.json
"""

import argparse
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import cores, generate, loop, sweep
from benchmarks.chart import write_chart
from benchmarks.device import describe_machine, in_one_line, native, prepare
from benchmarks.interleaved import QUICK, THOROUGH, Busyness
from benchmarks.loop import MOST_CHARACTERS
from benchmarks.rows import Row, table, write_json
from benchmarks.shapes import BLOCKS, SHAPES
from lstm_lm.config import Cell
from lstm_lm.machine import cpu_cores
from lstm_lm.process import printing, run_program

TRAIN = Path(__file__).parents[1] / "scripts/train.py"
TITLES = {
    "cores": "A whole training step: how many times as fast",
    "loop": "A run, and a bare loop that does the same: how many times as long",
    "generate": "Text generated token by token: how many times as fast",
    "sweep": "Many small models: how many times as many tokens in the same time",
}
LEGEND = (
    "Ratios are medians over the rounds; low and high are the 10th and 90th percentile, or\n"
    "the lowest and highest of fewer than nine rounds."
)
SHAPES_OF = {
    "cores": ["small", "medium", "large", "words"],
    "loop": ["tiny", "small"],
    "generate": ["small", "large"],
}
NOT_TO_BE_TRUSTED = "Do not trust these figures: --quick measures too little."


def main() -> None:
    arguments = parse()
    device = prepare(arguments.device)
    if arguments.precisions:
        arguments.precisions = native(arguments.precisions, device.type)
    known = describe_machine(device)
    with printing():
        print(in_one_line(known))
    busyness, rows = Busyness(), []
    for some in measurements(arguments, device, busyness):
        with printing():
            print(table(some))
        rows += some
    notes = [LEGEND, str(busyness), *([NOT_TO_BE_TRUSTED] if arguments.quick else [])]
    with printing():
        print("", *notes, sep="\n")
    if arguments.json:
        write_json(known, rows, arguments.json)
    if arguments.chart:
        write_chart(rows, TITLES[arguments.what], [*notes, in_one_line(known)], arguments.chart)


def measurements(
    arguments: argparse.Namespace, device: torch.device, busyness: Busyness
) -> Iterator[list[Row]]:
    quick, rounds = arguments.quick, arguments.rounds
    if arguments.what == "sweep":
        steps = arguments.steps or (30 if quick else 300)
        rounds = rounds or (1 if quick else 5)
        precisions, jobs = arguments.precisions, arguments.jobs
        yield sweep.measure(TRAIN, precisions, jobs, steps, rounds, busyness)
        return
    effort = QUICK if quick else THOROUGH
    if rounds is not None:
        effort = dataclasses.replace(effort, rounds=rounds)
    threads = arguments.threads
    shapes = [SHAPES[name] for name in arguments.shapes]
    match arguments.what:
        case "loop":
            yield from loop.measure(shapes, threads, device, effort, busyness)
        case "generate":
            yield from generate.measure(shapes, threads, device, effort, busyness)
        case "cores":
            yield from cores.measure(
                shapes,
                [Cell(cell) for cell in arguments.cells],
                threads,
                arguments.precisions,
                device,
                effort,
                busyness,
            )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(device="cpu", precisions=None)
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    of_cores, of_loop, of_generate, of_sweep = every = [
        commands.add_parser(name) for name in ("cores", "loop", "generate", "sweep")
    ]
    for command in every:
        command.add_argument("--quick", action="store_true", help="measure too little to trust")
        rounds = 5 if command is of_sweep else THOROUGH.rounds
        command.add_argument(
            "--rounds", type=positive, help=f"measurements of each candidate (default: {rounds})"
        )
        command.add_argument("--json", type=output, metavar="FILE", help="write the ratios here")
        command.add_argument("--chart", type=output, metavar="FILE", help="draw them here, as PNG")
    for command in of_cores, of_sweep:
        command.add_argument(
            "--precisions", nargs="+", choices=cores.DTYPES, default=list(cores.DTYPES)
        )
    for command in of_cores, of_loop, of_generate:
        of_characters = [n for n, s in SHAPES.items() if s.vocabulary_size <= MOST_CHARACTERS]
        possible = of_characters if command is of_loop else list(SHAPES)
        command.add_argument("--shapes", nargs="+", choices=possible)
    for command in of_cores, of_loop, of_generate:
        command.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
        default = "1" if command is of_loop else "1, and as many as there are cores"
        command.add_argument("--threads", nargs="+", type=threads, help=f"(default: {default})")
    of_cores.add_argument("--cells", nargs="+", choices=list(BLOCKS), default=[Cell.lstm])
    of_sweep.add_argument("--jobs", type=positive, default=8, help="of each sweep (default: 8)")
    of_sweep.add_argument("--steps", type=positive, help="of each job (default: 300)")
    arguments = parser.parse_args()
    if arguments.what in SHAPES_OF and arguments.shapes is None:
        arguments.shapes = ["small"] if arguments.quick else SHAPES_OF[arguments.what]
    if arguments.what != "sweep" and arguments.threads is None:
        few, many = 1, cpu_cores()
        arguments.threads = [few] if arguments.what == "loop" else sorted({few, many})
        if arguments.device == "cuda":
            arguments.threads = [many]
    return arguments


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def threads(text: str) -> int:
    number = positive(text)
    if number > cpu_cores():
        raise argparse.ArgumentTypeError(f"{number} is more than the {cpu_cores()} cores here")
    return number


def output(text: str) -> Path:
    """The path of a file to write, checked as far as possible before there is any content."""
    path = Path(text)
    if os.path.isdir(path) or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {path}: name a file in a writable folder")
    return path


if __name__ == "__main__":
    run_program(main)
