"""The neural cache: what followed similar hidden states a short while ago is likely to follow now.

    p_cache(w | h_t)  ∝  Σ exp(θ h_t · h_i)    over the i of the window with x_{i+1} = w
    p(w)              =  (1 - λ) p_model(w) + λ p_cache(w)

h_i is what the output layer reads at step i, and x_{i+1} the token that followed. The window holds
the last steps before t. Nothing is trained, and the memory is that of the text alone.

Source: Grave, Joulin & Usunier (2017).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from lstm_lm.errors import SettingsError

LARGEST_SCORES = 2**22  # of pairs of steps at a time: 16 MiB in float32


@dataclass(frozen=True)
class NeuralCache:
    """The settings of a neural cache.

    Args:
        window: number of steps that are remembered.
        theta: θ; the larger it is, the more similar a hidden state must be to count.
        weight: λ, the share of the cache in the prediction, from 0 to below 1.
    """

    window: int = 500
    theta: float = 0.3
    weight: float = 0.1

    def __post_init__(self) -> None:
        if self.window < 1:
            raise SettingsError(f"window must be at least 1 token, not {self.window}")
        if not 0 <= self.theta < math.inf:
            raise SettingsError(f"theta must be >= 0 and finite, not {self.theta}")
        if not 0 <= self.weight < 1:
            raise SettingsError(f"lambda must be at least 0 and below 1, not {self.weight}")


class Cache:
    """The last hidden states of a text, each with the token that followed it."""

    def __init__(self, settings: NeuralCache) -> None:
        self.settings = settings
        self.hidden: Float[Tensor, "before hidden"] | None = None
        self.following: Integer[Tensor, " before"] | None = None

    def mix(
        self,
        hidden: Float[Tensor, "time hidden"],
        targets: Integer[Tensor, " time"],
        losses: Float[Tensor, " time"],
    ) -> Float[Tensor, " time"]:
        """The losses of model and cache together; the steps then belong to the cache."""
        window = self.settings.window
        known = 0 if self.following is None else len(self.following)
        steps = max(1, LARGEST_SCORES // (min(window, known + len(hidden)) + 1))
        parts = zip(hidden.split(steps), targets.split(steps), losses.split(steps), strict=True)
        return torch.cat([self.mix_block(*part) for part in parts])

    def mix_block(
        self,
        hidden: Float[Tensor, "time hidden"],
        targets: Integer[Tensor, " time"],
        losses: Float[Tensor, " time"],
    ) -> Float[Tensor, " time"]:
        window, theta, weight = vars(self.settings).values()
        if self.hidden is None or self.following is None:
            self.hidden, self.following = hidden[:0], targets[:0]
        keys, following = torch.cat([self.hidden, hidden]), torch.cat([self.following, targets])
        # How many steps ago each key was: only what lies in the past is known.
        place = torch.arange(len(keys), device=keys.device)
        ago = place[len(self.hidden) :, None] - place
        remembered = (ago > 0) & (ago <= window)
        scores = (theta * hidden @ keys.T).masked_fill(~remembered, -torch.inf)
        of_target = scores.masked_fill(following != targets[:, None], -torch.inf)
        cached = of_target.logsumexp(1) - scores.logsumexp(1)
        self.hidden, self.following = keys[-window:], following[-window:]
        mixed = -torch.logaddexp(math.log1p(-weight) - losses, log(weight) + cached)
        return torch.where(remembered.any(1), mixed, losses)  # at first nothing is remembered


def log(weight: float) -> float:
    return math.log(weight) if weight > 0 else -math.inf
