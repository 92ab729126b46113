"""What a run adds to a training step, beside a bare loop in PyTorch.

A real run, with Lightning, the progress bar at a terminal, TensorBoard and all settings as they
are by default. It takes turns with a loop that has nothing but the same model, batches, loss,
clipping and optimizer, within one process: whenever the run asks for its next batch after some
hundred steps, the bare loop does as many before it is answered. At the end both must have the
same weights, to the last bit. What happens between epochs is not measured, all being one.
"""

import copy
import io
import random
import signal
import statistics
import string
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, suppress
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lstm_lm.benchmark.device import finish
from lstm_lm.benchmark.interleaved import Busyness, Effort, Rounds
from lstm_lm.benchmark.rows import Row
from lstm_lm.benchmark.shapes import Shape
from lstm_lm.benchmark.training_step import BareTraining, random_ids, step_seconds
from lstm_lm.config import (
    Accelerator,
    Cell,
    DataConfig,
    DeviceConfig,
    RunConfig,
    TextName,
)
from lstm_lm.data.windows import Batch, TrainingBatches
from lstm_lm.errors import RunFailed, Stopped
from lstm_lm.experiment import known_before, prepare
from lstm_lm.model.language_model import LanguageModel, State
from lstm_lm.ranks import ALONE
from lstm_lm.run_folder import RunFolder
from lstm_lm.training.stop_signals import StopSignals

RUN, BARE = "run", "bare loop"
WARM_UP = 2  # turns
HELD_OUT = 100  # tokens; they are not used


class BareLoop:
    def __init__(self, model: nn.Module, config: RunConfig, batches: TrainingBatches) -> None:
        self.training = BareTraining(model, config.optimizer, config.device.precision)
        self.batches = iter(batches)
        self.state: State | None = None
        self.steps = 0

    def train(self, steps: int) -> None:
        for batch in islice(self.batches, steps):
            self.state = self.training.step(batch.inputs, batch.targets, self.state)
        self.steps += steps


class InTurns(TrainingBatches):
    """A run's batches. The bare loop has its turns in between, and after the last the run ends."""

    def __init__(
        self,
        config: RunConfig,
        ids: Int[Tensor, " tokens"],
        bare: BareLoop,
        rounds: Rounds[str],
        chunk: int,
    ) -> None:
        data = config.data
        super().__init__(ids, data.batch_size, data.num_steps, data.order, config.seed)
        self.bare, self.rounds, self.chunk = bare, rounds, chunk

    def __iter__(self) -> Iterator[Batch]:
        batches, given = super().__iter__(), self.chunk
        yield from islice(batches, self.chunk)  # not measured, as the first steps are slow
        self.bare.train(self.chunk)
        for whose in self.rounds:
            if whose == BARE:
                self.bare.train(self.chunk)
            else:
                yield from islice(batches, self.chunk)
                given += self.chunk
        # Lightning asks for a batch or two before it needs them.
        yield from islice(batches, max(0, self.bare.steps - given) + 3)
        raise Stopped(signal.SIGTERM)


def measure(
    shapes: Sequence[Shape],
    threads: Sequence[int],
    device: torch.device,
    effort: Effort,
    busyness: Busyness,
) -> Iterator[list[Row]]:
    """
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
        letters = string.printable[: shape.vocabulary_size - 1]  # and one for what is unknown
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
    """All that the shape does not say is as it is by default."""
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
    """A multiple of how often the run logs, so that it does so equally often in each turn."""
    model = LanguageModel(config.model, shape.vocabulary_size).to(device)
    training = BareTraining(model, config.optimizer, config.device.precision)
    steps = effort.steps(step_seconds(training, random_ids(shape, device)))
    return -(-steps // config.training.log_every) * config.training.log_every


def train_in_turns(config: RunConfig, folder: RunFolder, rounds: Rounds[str], chunk: int) -> None:
    with StopSignals() as signals, folder.held(), redirect_stderr(Terminal()):
        session = prepare(config, folder, signals, ALONE)
        batches = session.data.training
        batches.ids = batches.ids.to(session.device)
        bare = BareLoop(copy.deepcopy(session.model), config, batches)
        session.data.training = InTurns(config, batches.ids, bare, rounds, chunk)
        folder.create(config, session.splits.vocabulary, known_before(session, None))
        with suppress(Stopped):
            session.run()
        bare.train(folder.values["steps"] - bare.steps)
        require_equal_weights(session.model, bare.training.model)


@torch.no_grad()
def require_equal_weights(model: nn.Module, other: nn.Module) -> None:
    for (name, weight), same in zip(model.named_parameters(), other.parameters(), strict=True):
        if not torch.equal(weight, same):
            raise RunFailed(
                f"the run and the bare loop do not learn the same, so their speeds cannot be "
                f"compared: {name} differs by {float((weight - same).abs().max()):.2g}"
            )


class Terminal(io.StringIO):
    """One that shows nothing, for the bar to be drawn on."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)
