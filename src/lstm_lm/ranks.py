"""The processes that train one run together, its *ranks*, and all that they tell each other.

Each owns some rows of every batch. Two ranks and a batch of six rows:

    rank 0    rows 0 1 2   →  gradient ┐
                                       ├  mean  →  the same step on both
    rank 1    rows 3 4 5   →  gradient ┘

Weights start equal and take equal steps, so they stay equal without being sent around. Whatever
else decides how a run goes on must be equal too: the clock, signals, losses.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lstm_lm.errors import LostRank


def somebody() -> str:
    return "another process of this run ended"


class Ranks:
    """One rank and, behind it, the others, of which each must make the same calls in turn.

    Alone, which is the default, a rank gets back what it gave, at once and unchanged.

    Raises:
        LostRank: in any of the calls, once another rank has ended.
    """

    def __init__(
        self, number: int = 0, count: int = 1, who_ended: Callable[[], str] = somebody
    ) -> None:
        self.number = number
        self.count = count
        self.who_ended = who_ended
        self.has_told = False
        self.now = 0.0  # when all last agreed, by the first one's clock
        if count > 1:
            self.agree(None)

    @property
    def is_first(self) -> bool:
        """Whether this one writes, prints and decides."""
        return self.number == 0

    def rows(self, total: int) -> slice:
        """Which of so many rows are this rank's; none, perhaps, if there are fewer than ranks."""
        return slice(self.number * total // self.count, (self.number + 1) * total // self.count)

    def clock(self) -> float:
        """Seconds, the same on all ranks and on one only as new as what they last agreed on."""
        return time.monotonic() if self.count == 1 else self.now

    def agree(self, signal: int | None) -> int | None:
        """A signal that any rank has received; all clocks are set to the first one's."""
        if self.count == 1:
            return signal
        own_time = time.monotonic() if self.is_first else 0.0
        both = torch.tensor([own_time, signal or 0], dtype=torch.float64)
        with self.in_touch():
            distributed.all_reduce(both, distributed.ReduceOp.MAX)
        self.now, number = both.tolist()
        return int(number) or None

    def sum(self, values: Tensor) -> Tensor:
        if self.count == 1:
            return values
        total = values.clone()
        with self.in_touch():
            distributed.all_reduce(total)
        return total

    def mean(self, values: Tensor) -> Tensor:
        return values if self.count == 1 else self.sum(values) / self.count

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their means over the ranks.

        They are laid out in the same way in every step. PyTorch's DistributedDataParallel changes
        that after its first; three ranks then add in another order, and a resumed run would not
        end with the same bits (tried).
        """
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        means = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, means.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))

    @torch.no_grad()
    def copy_from_first(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters if self.count > 1 else ():
            with self.in_touch():
                distributed.broadcast(parameter.data, 0)

    def gather(self, value: Any) -> list[Any]:
        """What each rank gave, in their order."""
        every = [value] * self.count
        if self.count > 1:
            with self.in_touch():
                distributed.all_gather_object(every, value)
        return every

    def tell(self, value: Any = None) -> Any:
        """What the first rank gave."""
        self.has_told = True
        only = [value]
        if self.count > 1:
            with self.in_touch():
                distributed.broadcast_object_list(only, 0)
        return only[0]

    def dismiss(self) -> None:
        """Let the others go, if they still wait to be told what to do."""
        if not self.has_told:
            with suppress(LostRank):
                self.tell(None)

    @contextmanager
    def in_touch(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # which is how gloo and NCCL tell
            raise LostRank(self.who_ended()) from error


ALONE = Ranks()
