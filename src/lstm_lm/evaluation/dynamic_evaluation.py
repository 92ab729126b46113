"""Dynamic evaluation: the model goes on learning from the text that it is scored on.

Each segment is scored before the model learns from it, so what is scored is always a prediction:

    segment 1 → losses → one step of learning → segment 2 → losses → one step of learning → …

    sgd   θ ← θ − η g + λ (θ₀ − θ)
    rms   θ ← θ − η g / (r + ε) + λ min(1/λ, r / mean r) (θ₀ − θ)

g is the gradient of the segment's mean loss, θ₀ are the trained weights, and r² are the mean
squares of the gradients over the training text. What is seldom used in training learns faster
here, and what is often used decays faster towards the trained weights.

Source: Krause, Kahembwe, Murray & Renals (2018), with the authors' program for ε and the mean of r.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum, auto

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from lstm_lm.data.batches import as_rows
from lstm_lm.errors import SettingsError
from lstm_lm.model.core import detach
from lstm_lm.model.language_model import LanguageModel

EPSILON = 2e-5
# Of the training text: so many rows side by side, and at most so many segments of each.
ROWS, SEGMENTS, STEPS = 100, 200, 20


class Rule(StrEnum):
    """Rule by which the weights follow a gradient; the equations are in this module."""

    sgd = auto()
    rms = auto()


LEARNING_RATES = {Rule.sgd: 0.1, Rule.rms: 5e-5}  # the defaults


@dataclass(frozen=True)
class DynamicEvaluation:
    """The settings of dynamic evaluation.

    Args:
        rule: sgd or rms.
        learning_rate: η; None for the default of the rule.
        segment: number of tokens that are scored, then learned from.
        decay: λ, the pull towards the trained weights in each step, from 0 to 1.
    """

    rule: str = Rule.sgd
    learning_rate: float | None = None
    segment: int = 20
    decay: float = 0.002

    def __post_init__(self) -> None:
        if self.rule not in list(Rule):
            raise SettingsError(f"the rule must be one of {', '.join(Rule)}, not {self.rule}")
        if not 0 <= self.rate < math.inf:
            raise SettingsError(f"learning_rate must be >= 0 and finite, not {self.rate}")
        if self.segment < 1:
            raise SettingsError(f"segment must be at least 1 token, not {self.segment}")
        if not 0 <= self.decay <= 1:
            raise SettingsError(f"decay must be from 0 to 1, not {self.decay}")

    @property
    def rate(self) -> float:
        default = LEARNING_RATES[Rule(self.rule)]
        return default if self.learning_rate is None else self.learning_rate


class Learner:
    """Lets a model learn from one segment after the other.

    Args:
        model: changed by every step.
        root_mean_squares: r of each parameter, which only the rule ``rms`` needs.
    """

    def __init__(
        self,
        model: LanguageModel,
        settings: DynamicEvaluation,
        root_mean_squares: list[Tensor] | None = None,
    ) -> None:
        self.parameters = parameters_of(model)
        self.trained = [parameter.detach().clone() for parameter in self.parameters]
        self.rate, self.decay = settings.rate, settings.decay
        self.scales: list[Tensor] | None = None  # of the gradients
        self.decays: list[Tensor] = []
        if root_mean_squares is not None and settings.rule == Rule.rms:
            mean = torch.stack([root.mean() for root in root_mean_squares]).mean()
            self.scales = [1 / (root + EPSILON) for root in root_mean_squares]
            self.decays = [(self.decay * r / mean).clamp(max=1) for r in root_mean_squares]

    def learn(self, loss: Float[Tensor, ""]) -> None:
        """Take a step that lowers a segment's loss, and one towards the trained weights."""
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        with torch.no_grad():
            for i, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
                if self.decay > 0:
                    parameter.lerp_(self.trained[i], self.decays[i] if self.decays else self.decay)
                if self.scales is None:
                    parameter.add_(gradient, alpha=-self.rate)
                else:
                    parameter.addcmul_(gradient, self.scales[i], value=-self.rate)


def parameters_of(model: LanguageModel) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def root_mean_squares(
    model: LanguageModel, ids: Integer[Tensor, " tokens"]
) -> list[Float[Tensor, "..."]]:
    """The root of the mean square of each parameter's gradient, over segments of a text.

    Args:
        ids: the training text; its rows are spread over all of it.
    """
    rows = max(1, min(ROWS, (len(ids) - 1) // STEPS))
    ids = ids.to(next(model.parameters()).device)
    inputs, targets = as_rows(ids, rows)
    segments = list(zip(inputs.split(STEPS), targets.split(STEPS), strict=True))[:SEGMENTS]
    parameters, state = parameters_of(model), None
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    with differentiable(model):
        for some_inputs, some_targets in tqdm(
            segments, "gathering gradients", leave=False, disable=None, delay=2
        ):
            logits, state = model(some_inputs.long(), state)
            state = detach(state)
            loss = cross_entropy(logits.flatten(0, 1), some_targets.flatten().long())
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
            for square, gradient in zip(squares, gradients, strict=True):
                square.addcmul_(gradient, gradient)
    return [(square / len(segments)).sqrt() for square in squares]


@contextlib.contextmanager
def differentiable(model: LanguageModel) -> Iterator[None]:
    """Context manager in which a model in evaluation mode can be differentiated.

    cuDNN's backward pass needs training mode. Only the cores are in it, and a core has no dropout.
    """
    model.cores.train()
    try:
        with torch.enable_grad():
            yield
    finally:
        model.cores.eval()
