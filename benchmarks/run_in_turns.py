"""Train a run and a bare loop in turns, within one process.

    the run's batches    ──►  50 of them  ──►             ──►  50 more  ──►
    the bare loop                              50 steps                      50 steps

When the run requests the first batch of its next turn, the bare loop trains for a turn before the
batch is returned. The bare loop has only the same model, batches, loss, clipping and optimizer.
In the end both must have the same weights, to the last bit.
"""

import copy
import io
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr
from itertools import islice

import torch
from jaxtyping import Integer
from torch import Tensor, nn

from benchmarks.interleaved import Rounds
from benchmarks.training_step import BareTraining
from lstm_lm.command_line.instantiate import typed_entries
from lstm_lm.config import RunConfig
from lstm_lm.data.batches import Batch, TrainingBatches
from lstm_lm.errors import RunFailed, Stopped
from lstm_lm.experiment import initial_summary, prepare
from lstm_lm.model.core import State
from lstm_lm.process import StopSignals
from lstm_lm.saved.run_folder import RunFolder

RUN, BARE = "run", "bare loop"
WARM_UP = 2  # turns that are not measured: the first, and one to make both loops end alike


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
    """A run's batches; trains the bare loop in between, and stops the run after the last turn."""

    def __init__(
        self,
        config: RunConfig,
        ids: Integer[Tensor, " tokens"],
        bare: BareLoop,
        rounds: Rounds[str],
        chunk: int,
    ) -> None:
        data = config.data
        super().__init__(ids, data.batch_size, data.num_steps, data.order, config.seed)
        self.bare, self.rounds, self.chunk = bare, rounds, chunk
        self.are_over = False

    def __iter__(self) -> Iterator[Batch]:
        batches, given = super().__iter__(), self.chunk
        yield from islice(batches, self.chunk)  # not measured, because the first steps are slow
        self.bare.train(self.chunk)
        for whose in self.rounds:
            if whose == BARE:
                self.bare.train(self.chunk)
            else:
                yield from islice(batches, self.chunk)
                given += self.chunk
        # Lightning prefetches a batch or two.
        yield from islice(batches, max(0, self.bare.steps - given) + 3)
        self.are_over = True
        raise Stopped(signal.SIGTERM)


def train_in_turns(config: RunConfig, folder: RunFolder, rounds: Rounds[str], chunk: int) -> None:
    with StopSignals() as signals, folder.locked(), redirect_stderr(Terminal()):
        session = prepare(config, folder, signals, typed_entries(config))
        ids, data = session.splits.training.ids.to(session.device), config.data
        batches = TrainingBatches(ids, data.batch_size, data.num_steps, data.order, config.seed)
        bare = BareLoop(copy.deepcopy(session.module.model), config, batches)
        turns = InTurns(config, ids, bare, rounds, chunk)
        session.data.train_dataloader = lambda: turns  # type: ignore[method-assign]
        folder.create(config, session.splits.vocabulary, initial_summary(session, None))
        try:
            session.run()
        except Stopped:
            if not turns.are_over:  # the user stopped it
                raise
        bare.train(folder.values["steps"] - bare.steps)
        require_equal_weights(session.module.model, bare.training.model)


@torch.no_grad()
def require_equal_weights(model: nn.Module, other: nn.Module) -> None:
    for (name, weight), same in zip(model.named_parameters(), other.parameters(), strict=True):
        if not torch.equal(weight, same):
            raise RunFailed(
                f"the run and the bare loop do not learn the same, so their speeds cannot be "
                f"compared: {name} differs by {float((weight - same).abs().max()):.2g}"
            )


class Terminal(io.StringIO):
    """A terminal that shows nothing, for the progress bar."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)
