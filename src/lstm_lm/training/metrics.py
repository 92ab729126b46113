"""Metrics of training steps; they stay on the device until they are fetched."""

import math
import time
from operator import mul
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lstm_lm.data.splits import Length
from lstm_lm.evaluation.score import perplexity


class Means(NamedTuple):
    loss: float  # nats per token
    gradient_norm: float  # before clipping
    tokens: int
    seconds: float


class TrainingMetrics:
    """Losses and gradient norms since the last ``read``, and sums over the epoch and the run.

    Adding never waits for the device; fetching waits once. The clock runs during training, not
    during validation.
    """

    def __init__(self) -> None:
        self.losses: list[Float[Tensor, ""]] = []
        self.lengths: list[float] = []  # of the batches since the last read: their weights
        self.gradient_norms: list[Float[Tensor, ""]] = []
        self.fetched_losses: list[float] = []
        self.fetched_norms: list[float] = []
        self.not_finite: tuple[str, int] | None = None  # the first such metric, and its step
        self.learning_rate = math.nan  # of the newest step
        self.tokens = 0  # of the whole run
        self.tokens_read = 0
        self.seconds = 0.0  # of training, up to the last read
        self.seconds_unread = 0.0
        self.running_since: float | None = None
        self.epoch_nats = 0.0  # per token, summed over the epoch's batches, by their lengths
        self.epoch_batches = 0.0  # a batch counts by its length, relative to data.num_steps

    @property
    def tokens_per_second(self) -> float | None:
        """Mean over the whole run, up to the last ``read``."""
        return self.tokens_read / self.seconds if self.seconds else None

    @property
    def epoch_loss(self) -> float | None:
        """Mean over this epoch's fetched steps in nats per token; the weights change meanwhile."""
        nats, batches = self.weighted(self.fetched_losses)
        batches += self.epoch_batches
        return (self.epoch_nats + nats) / batches if batches else None

    def weighted(self, losses: list[float]) -> tuple[float, float]:
        """The sum of these losses, each times its batch's length, and the sum of these lengths."""
        lengths = self.lengths[: len(losses)]
        return sum(map(mul, losses, lengths)), sum(lengths)

    def start_epoch(self) -> None:
        self.epoch_nats, self.epoch_batches = 0.0, 0.0

    def start_clock(self) -> None:
        self.running_since = time.monotonic()

    def stop_clock(self) -> None:
        if self.running_since is not None:
            self.seconds_unread += time.monotonic() - self.running_since
            self.running_since = None

    def fetch(self, step: int, mean: Any) -> None:
        """Copy the metrics of the steps up to ``step`` from the device.

        Args:
            mean: averages a tensor over all ranks.
        """
        count = len(self.losses)
        if count == 0:
            return
        values = mean(torch.stack([*self.losses, *self.gradient_norms])).tolist()
        losses, norms = values[:count], values[count:]
        self.losses, self.gradient_norms = [], []
        self.fetched_losses += losses
        self.fetched_norms += norms
        if self.not_finite is None and not math.isfinite(sum(values)):
            self.not_finite = first_not_finite(losses, norms, step)

    def read(self, step: int, mean: Any) -> Means | None:
        """Means since the last ``read``; None if no step was completed since then.

        A step is completed only when the gradients of all its batches are accumulated.
        """
        if not (self.gradient_norms or self.fetched_norms):
            return None
        self.fetch(step, mean)
        losses, norms = self.fetched_losses, self.fetched_norms
        self.fetched_losses, self.fetched_norms = [], []
        if not (losses and norms):  # a user's own training_step records no losses
            self.gradient_norms = []
            return None
        # Fetching has waited for the device, so this is the real time of the steps.
        if self.running_since is not None:
            self.stop_clock()
            self.start_clock()
        tokens, seconds = self.tokens - self.tokens_read, self.seconds_unread
        self.tokens_read, self.seconds_unread = self.tokens, 0.0
        self.seconds += seconds
        nats, batches = self.weighted(losses)
        self.lengths = self.lengths[len(losses) :]
        self.epoch_nats += nats
        self.epoch_batches += batches
        return Means(nats / batches, sum(norms) / len(norms), tokens, seconds)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint; call ``fetch`` first: values on the device are left out."""
        if self.running_since is not None:
            self.stop_clock()
            self.start_clock()
        apart = {"losses", "gradient_norms", "running_since", "not_finite"}
        return {name: value for name, value in vars(self).items() if name not in apart}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        of_equal_lengths = {"lengths": [1.0] * len(state["fetched_losses"])}  # older checkpoints
        vars(self).update(of_equal_lengths | state)


def first_not_finite(losses: list[float], norms: list[float], step: int) -> tuple[str, int]:
    """Name and step of the first metric that is not finite; a step can have several losses.

    The search goes step by step: an infinite gradient spoils the weights and so the next loss.
    """
    steps = max(1, len(norms))
    first = step - steps + 1
    for number in range(steps):
        share = losses[number * len(losses) // steps : (number + 1) * len(losses) // steps]
        if not math.isfinite(sum(share)):
            return "loss", first + number
        if norms and not math.isfinite(norms[number]):
            return "gradient norm", first + number
    return "loss", step


# Metrics that callbacks can monitor.
METRICS = [
    *(
        f"{split}/{unit}"
        for split in ("validation", "train")
        for unit in ("loss", "perplexity", "bits_per_character", "bits_per_byte")
    ),
    *("tokens", "tokens_per_second", "learning_rate", "gradient_norm"),
]


def is_nearly_ascii(per_character: float, per_byte: float) -> bool:
    """True if bits per byte say no more than bits per character do."""
    return per_byte > 0.99 * per_character


def in_all_units(prefix: str, loss: float, length: Length | None = None) -> dict[str, float]:
    """The loss in nats per token, its perplexity and bits per character and per byte.

    Args:
        length: mean length of a token; None if it is not known, and then there are no bits.
    """
    units = {f"{prefix}/loss": loss, f"{prefix}/perplexity": perplexity(loss)}
    if length is not None:
        bits = loss / math.log(2)
        units[f"{prefix}/bits_per_character"] = bits / length.characters
        units[f"{prefix}/bits_per_byte"] = bits / length.bytes
    return units
