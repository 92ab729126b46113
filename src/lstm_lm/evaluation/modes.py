"""Ways to get more out of trained models when they are scored; all are off by default.

    dynamic evaluation     the model goes on learning from the text that it is scored on
    neural cache           what followed similar hidden states is likely to follow again
    Monte-Carlo dropout    the mean over many passes with dropout on
    temperature            flattens or sharpens the model's distribution

A score in such a mode is not that of the weights alone, so it has a name of its own everywhere.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from lstm_lm.errors import SettingsError
from lstm_lm.evaluation.dynamic_evaluation import DynamicEvaluation
from lstm_lm.evaluation.monte_carlo_dropout import MonteCarloDropout
from lstm_lm.evaluation.neural_cache import NeuralCache


@dataclass(frozen=True)
class Modes:
    """The modes to score a text in; None for those that are off.

    Args:
        temperature: the logits are divided by it; below 1 sharpens the model's distribution.

    Raises:
        SettingsError: if they cannot be combined.
    """

    dynamic_evaluation: DynamicEvaluation | None = None
    neural_cache: NeuralCache | None = None
    monte_carlo_dropout: MonteCarloDropout | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise SettingsError(
                f"the temperature must be positive and finite, not {self.temperature}"
            )
        if self.monte_carlo_dropout and (self.dynamic_evaluation or self.neural_cache):
            raise SettingsError(
                "Monte-Carlo dropout cannot be combined with dynamic evaluation or a neural cache, "
                "which would remember another thing in each pass: leave out one of them"
            )

    @property
    def names(self) -> list[str]:
        """The names of the modes that are on."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the modes that are on, by their names."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        if self.dynamic_evaluation:  # its default is that of the rule
            values["dynamic_evaluation"]["learning_rate"] = self.dynamic_evaluation.rate
        return values

    @property
    def options(self) -> str:
        """The options of the command ``evaluate`` for these modes."""
        options = []
        if dynamic := self.dynamic_evaluation:
            options += [f"--dynamic-evaluation {dynamic.rule}"]
            options += [f"--learning-rate {dynamic.rate:g}"]
            options += [f"--segment {dynamic.segment} --decay {dynamic.decay:g}"]
        if cache := self.neural_cache:
            options += [f"--neural-cache --window {cache.window}"]
            options += [f"--theta {cache.theta:g} --lambda {cache.weight:g}"]
        if dropout := self.monte_carlo_dropout:
            options += [f"--monte-carlo-dropout {dropout.passes} --seed {dropout.seed}"]
        if self.temperature is not None:
            options += [f"--temperature {self.temperature:g}"]
        return " ".join(options)
