"""Cut a long row of ids into training and evaluation batches.

Targets lie one step ahead of inputs. Twenty-one ids in batches of two rows and three steps.
*consecutive*: each row continues where it ended, so the state can be carried from batch to
batch; *random*: each window stands alone.

    consecutive   0  1  2   |   3  4  5   |   6  7  8        random    9 10 11   |  ...
                 10 11 12   |  13 14 15   |  16 17 18                  3  4  5   |  ...

Each epoch starts at another offset, so windows are cut at other places. Order and offset depend
only on (seed, epoch). All epochs have equally many batches: those that fit behind the largest
offset. Offsets, rows and windows are those of the chapter of d2l.ai.

With ``data.variable_num_steps`` the lengths of windows vary (Merity et al. 2018, section 5); see
:func:`window_ends`.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice, pairwise
from random import Random
from typing import NamedTuple, assert_never

import torch
from jaxtyping import Int, Integer, Shaped
from torch import Tensor

from lstm_lm.config import SHORTEST_WINDOW, Order
from lstm_lm.errors import SettingsError

EVERY = slice(None)
LARGEST_LOGITS = 2**22  # logits that an evaluation computes at a time: 16 MiB in float32
FULL_WINDOWS = 0.95  # share of windows about as long as data.num_steps; the rest are half as long
JITTER = 5.0  # standard deviation of a window's length, in tokens
SHORTEST_DRAWN = 5  # tokens; afterwards all lengths are scaled


class Batch(NamedTuple):
    inputs: Int[Tensor, "time batch"]
    targets: Int[Tensor, "time batch"]
    continues: bool = False  # True if each row continues the same row of the previous batch


class TrainingBatches:
    """Iterable over the batches of an epoch; all epochs have equally many.

    Args:
        rows: the rows of each batch to return; by default all.
        position: returns the epoch, and how many of its batches are done. Called when iteration
            begins, so that a resumed run continues where it stopped.
        is_variable: draw the lengths of windows around ``num_steps``; only if consecutive.
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
        is_variable: bool = False,
    ) -> None:
        self.ids, self.batch_size, self.num_steps = ids, batch_size, num_steps
        self.rows, self.position = rows, position
        self.order, self.seed, self.is_variable = order, seed, is_variable
        # The chapter's samplers differ: the consecutive one has one offset more.
        largest_offset = num_steps if order is Order.consecutive else num_steps - 1
        self.length = count_batches(len(ids), batch_size, num_steps, largest_offset)
        spare = len(ids) - 1 - self.length * batch_size * num_steps
        self.largest_offset = min(largest_offset, spare)
        self.columns = self.length * num_steps  # that an epoch reads of each row
        if is_variable:
            self.length = max(1, round(self.length / (FULL_WINDOWS + (1 - FULL_WINDOWS) / 2)))

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        yield from self.batches_of_epoch(*self.position())

    # Lightning resumes a loader in mid-epoch only if it has these two methods. They need no state,
    # because the trainer's own counters have it.
    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None: ...

    def batches_of_epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        generator = epoch_generator(self.seed, epoch)
        offset = int(torch.randint(self.largest_offset + 1, (), generator=generator))
        ids = self.ids[offset:]
        match self.order:
            case Order.consecutive:
                batches = consecutive(ids, self.batch_size, self.ends(epoch), first, self.rows)
            case Order.random:
                batches = shuffled(
                    ids, self.batch_size, self.num_steps, generator, first, self.rows
                )
            case unhandled:
                assert_never(unhandled)
        return islice(batches, self.length - first)

    def ends(self, epoch: int) -> Sequence[int]:
        """The columns before which each window of an epoch ends."""
        if self.is_variable:
            draw = Random(f"lengths of epoch {epoch}, seed {self.seed}")
            return window_ends(self.length, self.columns, self.num_steps, draw)
        return range(self.num_steps, self.columns + 1, self.num_steps)


def window_ends(count: int, columns: int, num_steps: int, draw: Random) -> list[int]:
    """The columns before which windows of varying length end, the last of them ``columns``.

    A length is normally distributed around ``num_steps``, or one time in twenty around half of it,
    and at least five tokens (Merity et al. 2018, section 5). All are then scaled by the same factor
    to add up, so an epoch has equally many windows whatever was drawn. If one falls below four
    tokens, as it can in a very short text, all are drawn again.
    """
    drawn = []
    for _ in range(count):
        middle = num_steps if draw.random() < FULL_WINDOWS else num_steps / 2
        drawn.append(max(SHORTEST_DRAWN, int(draw.gauss(middle, JITTER))))
    total = sum(drawn)
    ends = [round(end * columns / total) for end in accumulate(drawn)]
    shortest = min(end - start for start, end in pairwise([0, *ends]))
    return ends if shortest >= SHORTEST_WINDOW else window_ends(count, columns, num_steps, draw)


def consecutive(
    ids: Integer[Tensor, " tokens"],
    batch_size: int,
    ends: Sequence[int],
    first: int = 0,
    rows: slice = EVERY,
) -> Iterator[Batch]:
    """Batches in which row ``r`` continues row ``r`` of the previous batch.

    Args:
        ends: the columns before which the windows end.
    """
    inputs, targets = (every[:, rows] for every in as_rows(ids, batch_size))
    for start, end in islice(pairwise([0, *ends]), first, None):
        yield Batch(inputs[start:end].long(), targets[start:end].long(), continues=start > 0)


def shuffled(
    ids: Integer[Tensor, " tokens"],
    batch_size: int,
    num_steps: int,
    generator: torch.Generator,
    first: int = 0,
    rows: slice = EVERY,
) -> Iterator[Batch]:
    """Batches of windows in random order; windows do not overlap."""
    num_windows = (len(ids) - 1) // num_steps
    starts = torch.randperm(num_windows, generator=generator).to(ids.device) * num_steps
    steps = torch.arange(num_steps, device=ids.device).unsqueeze(1)
    for batch in range(first, num_windows // batch_size):
        positions = starts[batch * batch_size : (batch + 1) * batch_size][rows] + steps
        yield Batch(ids[positions].long(), ids[positions + 1].long())


class EvaluationBatches:
    """A text cut into rows that are read side by side, in the same batches every time.

    Each row starts from zero state; fewer than ``rows`` tokens are dropped at the end. With
    several ranks, each gets its share of the rows, in equally many batches. With fewer rows than
    ranks, each rank gets all rows, so that the mean loss over ranks stays the same.
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
        share = rank_rows(rows, rank, world_size) if rows >= world_size else EVERY
        self.inputs, self.targets = (every[:, share] for every in as_rows(ids, rows))
        self.num_steps = evaluation_steps(-(-rows // world_size), vocabulary_size)

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.num_steps)

    def __iter__(self) -> Iterator[Batch]:
        steps = self.num_steps
        parts = zip(self.inputs.split(steps), self.targets.split(steps), strict=True)
        for number, (inputs, targets) in enumerate(parts):
            yield Batch(inputs.long(), targets.long(), continues=number > 0)


def rank_rows(total: int, rank: int, world_size: int) -> slice:
    """The rows that a rank computes; can be none if there are fewer rows than ranks."""
    return slice(rank * total // world_size, (rank + 1) * total // world_size)


def evaluation_steps(rows: int, vocabulary_size: int) -> int:
    """Number of steps to score at a time; it affects memory, not results."""
    return max(1, min(1024, LARGEST_LOGITS // (rows * vocabulary_size)))


def as_rows(
    ids: Shaped[Tensor, " tokens"], rows: int
) -> tuple[Shaped[Tensor, "steps rows"], Shaped[Tensor, "steps rows"]]:
    """Ids (or one value per id) and their targets as equally long rows, side by side; views."""
    columns = (len(ids) - 1) // rows
    used = rows * columns
    return ids[:used].view(rows, columns).T, ids[1 : used + 1].view(rows, columns).T


def count_batches(tokens: int, batch_size: int, num_steps: int, largest_offset: int) -> int:
    """Number of batches that fit behind the largest offset, at least one."""
    needed = batch_size * num_steps + 1
    if tokens < needed:
        raise SettingsError(
            f"a batch needs data.batch_size x data.num_steps + 1 = {needed:,} tokens, but the "
            f"training text has {tokens:,}: use a longer text, a smaller data.batch_size or "
            "data.num_steps, a smaller data.validation_size or data.test_size, or a larger "
            "data.max_tokens"
        )
    return max(1, (tokens - 1 - largest_offset) // (batch_size * num_steps))


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    digest = hashlib.sha256(f"order of epoch {epoch}, seed {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
