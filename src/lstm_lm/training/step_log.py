"""What each training step measured, left on the device until somebody asks."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lstm_lm.errors import Diverged
from lstm_lm.ranks import ALONE, Ranks


class Means(NamedTuple):
    loss: float  # nats per token
    gradient_norm: float  # before clipping
    steps: int


class StepLog:
    """Losses and gradient norms since the last reading.

    Adding never waits for the device; fetching does, once. Every step is checked for being
    finite, so the first bad one can be named although it is noticed later. Losses are means over
    the ranks, which therefore must fetch them at the same steps.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self.losses: list[Float[Tensor, ""]] = []
        self.gradient_norms: list[Float[Tensor, ""]] = []
        self.fetched: list[tuple[float, float]] = []  # loss and gradient norm of a step

    def fetch(self, last_step: int) -> None:
        """Get what the steps up to ``last_step`` measured from the device.

        Raises:
            Diverged: if one of them is not finite; names the first.
        """
        steps = len(self.gradient_norms)
        if steps == 0:
            return
        both = self.ranks.mean(torch.stack([*self.losses[:steps], *self.gradient_norms])).tolist()
        self.losses, self.gradient_norms = [], []
        # Step by step: a gradient that overflows spoils the weights, and so the loss after it.
        for step, (loss, norm) in enumerate(
            zip(both[:steps], both[steps:], strict=True), start=last_step - steps + 1
        ):
            for what, value in ("loss", loss), ("gradient norm", norm):
                if not math.isfinite(value):
                    raise Diverged(what, step)
            self.fetched.append((loss, norm))

    def read(self, last_step: int) -> Means | None:
        """Means over the steps up to ``last_step`` that were not read yet; None without any.

        Raises:
            Diverged: if one of them is not finite; names the first.
        """
        self.fetch(last_step)
        if not self.fetched:
            return None
        losses, norms = zip(*self.fetched, strict=True)
        self.fetched = []
        return Means(sum(losses) / len(losses), sum(norms) / len(norms), len(losses))
