"""A long row of ids cut into batches, and the orders in which batches go through it.

Targets lie one step ahead of inputs. Twenty-one ids in batches of two rows and three steps,
*consecutive*: each row goes on where it left off, so the state can be carried from batch to
batch; *random*: each window stands alone.

    consecutive   0  1  2   |   3  4  5   |   6  7  8        random    9 10 11   |  ...
                 10 11 12   |  13 14 15   |  16 17 18                  3  4  5   |  ...

Each epoch starts at another offset, so that windows are cut elsewhere. Order and offset are
a function of (seed, epoch) and of nothing else. Every epoch has as many batches as the largest
offset leaves. Offsets, rows and windows are those of the chapter of d2l.ai.
"""

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple, assert_never

import torch
from jaxtyping import Int, Integer, Shaped
from torch import Tensor

from lstm_lm.config import Order
from lstm_lm.errors import SettingsError

EVERY = slice(None)
LARGEST_LOGITS = 2**22  # numbers that an evaluation computes at a time, 16 MiB in float32


class Batch(NamedTuple):
    inputs: Int[Tensor, "time batch"]
    targets: Int[Tensor, "time batch"]
    continues: bool = False  # whether each row goes on where it ended in the batch before


class TrainingBatches:
    """The batches of an epoch, as many in each.

    Args:
        rows: which of each batch's rows are wanted here, if not all.
        position: the epoch, and how many of its batches are done already; asked for when
            iteration begins, so that a resumed run goes on where it was.
    """

    def __init__(
        self,
        ids: Integer[Tensor, " tokens"],
        batch_size: int,
        num_steps: int,
        order: Order,
        seed: int,
        rows: slice = EVERY,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self.ids, self.batch_size, self.num_steps = ids, batch_size, num_steps
        self.rows, self.position = rows, position
        self.order, self.seed = order, seed
        # One more for consecutive batches: the chapter's samplers differ in this.
        largest_offset = num_steps if order is Order.consecutive else num_steps - 1
        self.length = count_batches(len(ids), batch_size, num_steps, largest_offset)
        spare = len(ids) - 1 - self.length * batch_size * num_steps
        self.largest_offset = min(largest_offset, spare)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        yield from self.batches_of_epoch(*self.position())

    # Lightning takes a loader for one that can go on in mid-epoch if it has these two. What they
    # would hold is in the trainer's own counters.
    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None: ...

    def batches_of_epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        generator = epoch_generator(self.seed, epoch)
        offset = int(torch.randint(self.largest_offset + 1, (), generator=generator))
        ids = self.ids[offset:]
        match self.order:
            case Order.consecutive:
                batches = consecutive(ids, self.batch_size, self.num_steps, first, self.rows)
            case Order.random:
                batches = shuffled(
                    ids, self.batch_size, self.num_steps, generator, first, self.rows
                )
            case unhandled:
                assert_never(unhandled)
        return islice(batches, self.length - first)


def consecutive(
    ids: Integer[Tensor, " tokens"],
    batch_size: int,
    num_steps: int,
    first: int = 0,
    rows: slice = EVERY,
) -> Iterator[Batch]:
    """Batches in which row ``r`` goes on where row ``r`` of the batch before left off."""
    inputs, targets = (every[:, rows] for every in as_rows(ids, batch_size))
    for batch in range(first, len(inputs) // num_steps):
        steps = slice(batch * num_steps, (batch + 1) * num_steps)
        yield Batch(inputs[steps].long(), targets[steps].long(), continues=batch > 0)


def shuffled(
    ids: Integer[Tensor, " tokens"],
    batch_size: int,
    num_steps: int,
    generator: torch.Generator,
    first: int = 0,
    rows: slice = EVERY,
) -> Iterator[Batch]:
    """Batches of windows that do not overlap, in a random order."""
    num_windows = (len(ids) - 1) // num_steps
    starts = torch.randperm(num_windows, generator=generator).to(ids.device) * num_steps
    steps = torch.arange(num_steps, device=ids.device).unsqueeze(1)
    for batch in range(first, num_windows // batch_size):
        positions = starts[batch * batch_size : (batch + 1) * batch_size][rows] + steps
        yield Batch(ids[positions].long(), ids[positions + 1].long())


class EvaluationBatches:
    """A text cut into rows that are gone through side by side, always the same.

    Each row starts without a past, and less than one token per row is left over at the end. With
    several ranks, each gets its share of the rows, in equally many batches; or all of them, where
    there are fewer rows than ranks, which leaves their mean loss the same.
    """

    def __init__(
        self,
        ids: Integer[Tensor, " tokens"],
        rows: int,
        vocabulary_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        rows = min(rows, len(ids) - 1)
        share = rows_of_rank(rows, rank, world_size) if rows >= world_size else EVERY
        self.inputs, self.targets = (every[:, share] for every in as_rows(ids, rows))
        self.num_steps = evaluation_steps(-(-rows // world_size), vocabulary_size)

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.num_steps)

    def __iter__(self) -> Iterator[Batch]:
        steps = self.num_steps
        parts = zip(self.inputs.split(steps), self.targets.split(steps), strict=True)
        for number, (inputs, targets) in enumerate(parts):
            yield Batch(inputs.long(), targets.long(), continues=number > 0)


def rows_of_rank(total: int, rank: int, world_size: int) -> slice:
    """Which of so many rows a rank computes; none, perhaps, if there are fewer than ranks."""
    return slice(rank * total // world_size, (rank + 1) * total // world_size)


def evaluation_steps(rows: int, vocabulary_size: int) -> int:
    """How many steps to score at a time; memory, not results, depends on it."""
    return max(1, min(1024, LARGEST_LOGITS // (rows * vocabulary_size)))


def as_rows(
    ids: Shaped[Tensor, " tokens"], rows: int
) -> tuple[Shaped[Tensor, "steps rows"], Shaped[Tensor, "steps rows"]]:
    """Ids, or what belongs to each, and their targets as equally long rows, side by side; views."""
    columns = (len(ids) - 1) // rows
    used = rows * columns
    return ids[:used].view(rows, columns).T, ids[1 : used + 1].view(rows, columns).T


def count_batches(tokens: int, batch_size: int, num_steps: int, largest_offset: int) -> int:
    """Batches that fit behind the largest offset; one, if that much fits behind none."""
    needed = batch_size * num_steps + 1
    if tokens < needed:
        raise SettingsError(
            f"a batch needs data.batch_size x data.num_steps + 1 = {needed:,} tokens, but the "
            f"training text has {tokens:,}: use a longer text, or a smaller data.batch_size or "
            "data.num_steps; more is left to learn from with a smaller data.validation_size or "
            "data.test_size, or a larger data.max_tokens"
        )
    return max(1, (tokens - 1 - largest_offset) // (batch_size * num_steps))


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    digest = hashlib.sha256(f"order of epoch {epoch}, seed {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
