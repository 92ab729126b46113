"""What it costs to look inside a run, beside an epoch of its training.

Of the run that is trained by default, with a look as it is every ``inside.every_epochs`` epochs
and gradient flow as it is before training and after it.
"""

import statistics
import tempfile
from collections.abc import Iterator, Sequence

import torch
from torch.utils.tensorboard import SummaryWriter

from benchmarks.device import finish
from benchmarks.interleaved import Busyness, Effort, Rounds
from benchmarks.rows import Row
from benchmarks.run_in_turns import BareLoop
from lstm_lm.config import RunConfig
from lstm_lm.data.batches import TrainingBatches
from lstm_lm.data.splits import read_splits
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.training.inside_callback import STRETCH, Inside

LOOK, FLOW, EPOCH = "look", "gradient flow", "epoch"


def measure(
    threads: Sequence[int], device: torch.device, effort: Effort, busyness: Busyness
) -> Iterator[list[Row]]:
    for number in threads:
        torch.set_num_threads(number)
        with tempfile.TemporaryDirectory() as folder:
            yield measure_one(number, device, effort, busyness, folder)


def measure_one(
    threads: int, device: torch.device, effort: Effort, busyness: Busyness, folder: str
) -> list[Row]:
    config = RunConfig()
    data = config.data
    splits = read_splits(data)
    model = LanguageModel(config.model, len(splits.vocabulary)).to(device)
    ids = splits.training.ids.to(device)
    batches = TrainingBatches(ids, data.batch_size, data.num_steps, data.order, config.seed)
    training = BareLoop(model, config, batches)
    writer = SummaryWriter(folder)
    inside = Inside(config.model.cell, model, splits, every=1, writer=writer)
    rounds = Rounds([LOOK, FLOW, EPOCH], effort, threads, busyness, lambda: finish(device))
    for what in rounds:
        if what == LOOK:
            inside.keep_weights()
            inside.write_norms(0)
            inside.look(0)
        elif what == FLOW:
            inside.write_gradient_flow("start")
        else:
            training.train(len(batches))
    writer.close()

    def row(what: str, tokens: int | None = None) -> Row:
        ratio = rounds.speedup(EPOCH, what)
        return Row(
            what=f"{what} / {EPOCH}, in time",
            shape=f"hidden {config.model.hidden_size}, {len(batches)} steps an epoch",
            threads=threads,
            device=device.type,
            dtype=config.device.precision,
            ratio=ratio.median,
            low=ratio.low,
            high=ratio.high,
            tokens_per_second=tokens and tokens / statistics.median(rounds.seconds[what]),
        )

    return [row(LOOK, STRETCH), row(FLOW)]
