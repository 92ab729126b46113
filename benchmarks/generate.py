"""Speed of generation on each core, in tokens per second, one token at a time."""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from benchmarks.device import finish, seconds
from benchmarks.interleaved import Busyness, Effort, Rounds
from benchmarks.models import BUILTIN, builders
from benchmarks.rows import Row
from benchmarks.shapes import Shape
from lstm_lm.config import Cell
from lstm_lm.generation import generate
from lstm_lm.model.language_model import LanguageModel

TEMPERATURES = {0.0: "greedy", 0.8: "temperature 0.8"}
PROMPT = [0]
WARM_UP = 10  # tokens


class Way(NamedTuple):
    core: str
    temperature: float


def measure(
    shapes: Sequence[Shape],
    threads: Sequence[int],
    device: torch.device,
    effort: Effort,
    busyness: Busyness,
) -> Iterator[list[Row]]:
    """The rows for each shape and number of threads in turn."""
    for shape, number in itertools.product(shapes, threads):
        torch.set_num_threads(number)
        yield measure_one(shape, number, device, effort, busyness)


def measure_one(
    shape: Shape, threads: int, device: torch.device, effort: Effort, busyness: Busyness
) -> list[Row]:
    models = {
        core: model.eval()
        for core, build in builders(shape, Cell.lstm, device).items()
        if isinstance(model := build(), LanguageModel)
    }
    ways = [Way(*way) for way in itertools.product(models, TEMPERATURES)]

    def write(way: Way, tokens: int) -> None:
        for _ in itertools.islice(generate(models[way.core], PROMPT, way.temperature), tokens):
            pass

    def token_seconds(way: Way) -> float:
        write(way, WARM_UP)
        return seconds(lambda: write(way, WARM_UP), device) / WARM_UP

    tokens = effort.steps(min(map(token_seconds, ways)))
    rounds = Rounds(ways, effort, threads, busyness, lambda: finish(device))
    for way in rounds:
        write(way, tokens)

    def row(way: Way) -> Row:
        reference = Way(BUILTIN, way.temperature)
        compared = way.core if way == reference else f"{way.core} / {BUILTIN}"
        ratio = rounds.speedup(way, reference)
        return Row(
            what=f"{compared}, {TEMPERATURES[way.temperature]}",
            shape=f"hidden {shape.hidden_size}, vocabulary {shape.vocabulary_size:,}, batch 1",
            threads=threads,
            device=device.type,
            dtype="32-true",
            ratio=ratio.median,
            low=ratio.low,
            high=ratio.high,
            tokens_per_second=tokens / statistics.median(rounds.seconds[way]),
        )

    return [row(way) for way in sorted(ways, key=lambda way: way.temperature)]
