"""Score texts in modes, by one run or by an ensemble: the mean of the probabilities of several.

Each token is scored by what came before it, and no weight of a run is changed.
"""

import copy
import math
from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from lstm_lm.data.batches import evaluation_steps
from lstm_lm.data.splits import Split
from lstm_lm.errors import RunFailed, SettingsError
from lstm_lm.evaluation.dynamic_evaluation import (
    Learner,
    Rule,
    differentiable,
    root_mean_squares,
)
from lstm_lm.evaluation.modes import Modes
from lstm_lm.evaluation.monte_carlo_dropout import has_dropout, monte_carlo_losses
from lstm_lm.evaluation.neural_cache import Cache
from lstm_lm.evaluation.score import Score, score_of, split_of_run, text_losses
from lstm_lm.model.core import detach
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.saved.load_model import TrainedModel


class Scorer:
    """Scores texts by the mean of the probabilities of one or several runs.

    Args:
        data_root: the data folder, if it is not the one that the runs used.
        text_path: the path of the runs' own text, if it was moved.

    Raises:
        SettingsError: if the runs do not predict the same tokens.
    """

    def __init__(
        self,
        runs: Sequence[TrainedModel],
        data_root: str | None = None,
        text_path: str | None = None,
    ) -> None:
        self.runs, self.data_root, self.text_path = runs, data_root, text_path
        for run in runs[1:]:
            check_same_tokens(runs[0], run)

    def names(self, modes: Modes) -> list[str]:
        """The names of what makes the score another one than that of a run's weights."""
        return [*modes.names, *(["ensemble"] if len(self.runs) > 1 else [])]

    def check(self, modes: Modes, reset_every: int | None) -> None:
        """Raise SettingsError if the modes do not fit the runs, or resets of the state."""
        names = [name for name in modes.names if name != "temperature"]
        if reset_every is not None and names:
            raise SettingsError(
                f"{' and '.join(names).replace('_', ' ')} cannot be combined with resets of the "
                "state: leave out one of them"
            )
        for run in self.runs if modes.monte_carlo_dropout else ():
            if not has_dropout(run.model):
                raise SettingsError(
                    f"{run.folder} was trained without dropout: leave out Monte-Carlo dropout"
                )

    def split(self, name: str) -> Split:
        """A split of the runs' text.

        Raises:
            SettingsError: if it cannot be found, or is not the same for all runs.
        """
        first, *others = (
            split_of_run(run, name, self.data_root, self.text_path) for run in self.runs
        )
        for run, other in zip(self.runs[1:], others, strict=True):
            if not torch.equal(first.ids, other.ids):
                raise SettingsError(
                    f"{run.folder} has another {name} text than {self.runs[0].folder}: an ensemble "
                    "needs runs on the same text with the same splits, or --text FILE"
                )
        return first

    @cached_property
    def roots(self) -> list[list[Tensor]]:
        """The root mean squares of each run's gradients over its training text."""
        return [
            root_mean_squares(
                run.model,
                split_of_run(run, "training", self.data_root, self.text_path).ids,
            )
            for run in self.runs
        ]

    def score(self, split: Split, modes: Modes, reset_every: int | None = None) -> Score:
        """The score of a text in these modes.

        Raises:
            SettingsError: if the modes cannot be combined with ``reset_every``.
            RunFailed: if the loss is not finite.
        """
        losses = self.losses(split.ids, modes, reset_every)
        if modes.names and not losses.isfinite().all():
            dynamic = modes.dynamic_evaluation
            raise RunFailed(
                f"dynamic evaluation diverged: choose a learning rate below {dynamic.rate:g}"
                if dynamic
                else f"the loss is not finite with {modes.options}"
            )
        return score_of(losses, split, reset_every)

    def losses(
        self, ids: Integer[Tensor, " tokens"], modes: Modes, reset_every: int | None = None
    ) -> Float[Tensor, " targets"]:
        """Loss of each token but the first in nats, on the CPU."""
        self.check(modes, reset_every)
        each = [self.losses_of_run(n, ids, modes, reset_every) for n in range(len(self.runs))]
        return mean_of_probabilities(torch.stack(each))

    def losses_of_run(
        self, number: int, ids: Integer[Tensor, " tokens"], modes: Modes, reset_every: int | None
    ) -> Float[Tensor, " targets"]:
        run, temperature = self.runs[number], modes.temperature or 1.0
        dynamic, dropout = modes.dynamic_evaluation, modes.monte_carlo_dropout
        if dropout:
            steps = run.config.data.num_steps
            return monte_carlo_losses(run.model, ids, dropout, steps, temperature)
        if dynamic or modes.neural_cache:
            roots = self.roots[number] if dynamic and dynamic.rule == Rule.rms else None
            return adaptive_losses(run.model, ids, modes, roots)
        return text_losses(run.model, ids, reset_every, temperature)


def adaptive_losses(
    model: LanguageModel,
    ids: Integer[Tensor, " tokens"],
    modes: Modes,
    roots: list[Tensor] | None = None,
) -> Float[Tensor, " targets"]:
    """Losses with dynamic evaluation, a neural cache, or both; the model stays as it is.

    Args:
        roots: what :class:`lstm_lm.evaluation.dynamic_evaluation.Learner` needs.
    """
    learner, steps = None, evaluation_steps(1, model.vocabulary_size)
    if modes.dynamic_evaluation:
        model, steps = copy.deepcopy(model), modes.dynamic_evaluation.segment
        for part in model.modules():
            if isinstance(part, nn.RNNBase):
                part.flatten_parameters()  # a copy is not, and cuDNN would warn at each segment
        learner = Learner(model, modes.dynamic_evaluation, roots)
    cache = Cache(modes.neural_cache) if modes.neural_cache else None
    ids, temperature = ids.to(next(model.parameters()).device), modes.temperature or 1.0
    losses, state = [], None
    segments = list(zip(ids[:-1].split(steps), ids[1:].split(steps), strict=True))
    with differentiable(model) if learner else torch.inference_mode():
        for inputs, targets in tqdm(segments, "scoring", leave=False, disable=None, delay=2):
            inputs, targets = inputs.long(), targets.long()
            _, hidden, state = model.run_cores(inputs.unsqueeze(1), state)
            state, logits = detach(state), model.output(hidden)[:, 0]
            nats = cross_entropy(logits.detach() / temperature, targets, reduction="none")
            losses.append(cache.mix(hidden[:, 0].detach(), targets, nats) if cache else nats)
            if learner:
                learner.learn(cross_entropy(logits, targets))
    return torch.cat(losses).cpu()


def mean_of_probabilities(
    losses: Float[Tensor, "members targets"],
) -> Float[Tensor, " targets"]:
    """The loss of the mean of the probabilities that several models give to each target."""
    if len(losses) == 1:
        return losses[0]
    return math.log(len(losses)) - (-losses.double()).logsumexp(0)


def check_same_tokens(first: TrainedModel, other: TrainedModel) -> None:
    """Raise SettingsError unless two runs predict the same tokens of a text."""
    here, there = first.config.data, other.config.data
    differing = [
        f"data.{name} is {getattr(here, name)} and {getattr(there, name)}"
        for name in ("level", "cleaning")
        if getattr(here, name) != getattr(there, name)
    ]
    if not differing and first.vocabulary.for_json() != other.vocabulary.for_json():
        sizes = f"{len(first.vocabulary):,} and {len(other.vocabulary):,} tokens"
        differing = [f"their vocabularies differ, with {sizes}"]
    if differing:
        raise SettingsError(
            f"{first.folder} and {other.folder} cannot be an ensemble: {', '.join(differing)}"
        )
