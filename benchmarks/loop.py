"""Overhead of a run per training step, relative to a bare loop in PyTorch.

A real run has Lightning, a progress bar on a terminal, TensorBoard and default settings; see
:mod:`benchmarks.run_in_turns`. Work between epochs is not measured, since the run is one epoch.
"""

import random
import statistics
import string
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.device import finish
from benchmarks.interleaved import Busyness, Effort, Rounds
from benchmarks.rows import Row
from benchmarks.run_in_turns import BARE, RUN, WARM_UP, train_in_turns
from benchmarks.shapes import Shape
from benchmarks.training_step import BareTraining, random_ids, step_seconds
from lstm_lm.config import Accelerator, Cell, DataConfig, DeviceConfig, RunConfig, TextName
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.saved.run_folder import RunFolder

HELD_OUT = 100  # tokens; required, but not used
MOST_CHARACTERS = len(string.printable)  # of a vocabulary, besides <unk>


def measure(
    shapes: Sequence[Shape],
    threads: Sequence[int],
    device: torch.device,
    effort: Effort,
    busyness: Busyness,
) -> Iterator[list[Row]]:
    """The row for each number of threads and shape in turn.

    Raises:
        RunFailed: if the run and the bare loop do not learn the same.
    """
    for number in threads:
        torch.set_num_threads(number)
        for shape in shapes:
            yield [measure_one(shape, number, device, effort, busyness)]


def measure_one(
    shape: Shape, threads: int, device: torch.device, effort: Effort, busyness: Busyness
) -> Row:
    rounds = Rounds([RUN, BARE], effort, threads, busyness, lambda: finish(device))
    with tempfile.TemporaryDirectory() as folder:
        config = config_of_run(shape, device, Path(folder) / "text.txt")
        chunk = steps_of_a_turn(shape, device, config, effort)
        turns = effort.rounds * (1 + effort.repeats) + WARM_UP
        letters = string.printable[: shape.vocabulary_size - 1]  # one id is for <unk>
        text = random.choices(letters, k=(turns + 1) * chunk * shape.tokens + HELD_OUT)
        Path(str(config.data.path)).write_text("".join(text))
        train_in_turns(config, RunFolder(Path(folder) / "run"), rounds, chunk)
    ratio = rounds.speedup(BARE, RUN)
    return Row(
        what="run with Lightning, bar and TensorBoard / bare loop, in time",
        shape=str(shape),
        threads=threads,
        device=device.type,
        dtype=config.device.precision,
        ratio=ratio.median,
        low=ratio.low,
        high=ratio.high,
        tokens_per_second=chunk * shape.tokens / statistics.median(rounds.seconds[RUN]),
        milliseconds=1000 * rounds.difference(RUN, BARE).median / chunk,
    )


def config_of_run(shape: Shape, device: torch.device, text: Path) -> RunConfig:
    """The config of a run with this shape; other settings have their defaults."""
    return RunConfig(
        data=DataConfig(
            text=TextName.file,
            path=str(text),
            batch_size=shape.batch_size,
            num_steps=shape.num_steps,
            validation_size=HELD_OUT,
            test_size=0,
        ),
        model=shape.model(Cell.lstm),
        device=DeviceConfig(Accelerator.gpu if device.type == "cuda" else Accelerator.cpu),
    )


def steps_of_a_turn(shape: Shape, device: torch.device, config: RunConfig, effort: Effort) -> int:
    """Steps per turn: a multiple of ``log_every``, so that each turn logs equally often."""
    model = LanguageModel(config.model, shape.vocabulary_size).to(device)
    training = BareTraining(model, config.optimizer, config.device.precision)
    steps = effort.steps(step_seconds(training, random_ids(shape, device)))
    return -(-steps // config.training.log_every) * config.training.log_every
