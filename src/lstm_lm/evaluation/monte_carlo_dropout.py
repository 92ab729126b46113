"""Monte-Carlo dropout: the mean of the probabilities over many passes with dropout on.

A model trained with dropout is an average over networks; without dropout one pass approximates it.
Each pass carries a state of its own through the text.

Source: Gal & Ghahramani (2016).
"""

import math
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from tqdm import tqdm

from lstm_lm.data.batches import LARGEST_LOGITS, as_rows
from lstm_lm.errors import SettingsError
from lstm_lm.model.language_model import LanguageModel


@dataclass(frozen=True)
class MonteCarloDropout:
    """The settings of Monte-Carlo dropout.

    Args:
        passes: number of passes through the text.
        seed: of all that is dropped.
    """

    passes: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise SettingsError(f"Monte-Carlo dropout needs at least 1 pass, not {self.passes}")
        if not 0 <= self.seed < 2**63:
            raise SettingsError(f"the seed must be from 0 to 2**63 - 1, not {self.seed}")


@torch.inference_mode()
def monte_carlo_losses(
    model: LanguageModel,
    ids: Integer[Tensor, " tokens"],
    settings: MonteCarloDropout,
    steps: int,
    temperature: float = 1.0,
) -> Float[Tensor, " targets"]:
    """Loss of each target in nats, on the CPU; the model is in evaluation mode again afterwards.

    The global random state does not change.

    Args:
        steps: number of steps for which masks can last, as in a window of the training.
    """
    ids = ids.to(next(model.parameters()).device)
    windows = list(zip(*(every.split(steps) for every in as_rows(ids, 1)), strict=True))
    rows = max(1, min(settings.passes, LARGEST_LOGITS // (steps * model.vocabulary_size)))
    if model.embedding_dropout.p > 0 or model.weight_drop.p > 0:
        rows = 1  # the rows of a batch would share the tokens and weights that are dropped
    batches = [min(rows, settings.passes - first) for first in range(0, settings.passes, rows)]
    total = len(batches) * len(windows)
    with (
        torch.random.fork_rng(devices=[ids.device] if ids.is_cuda else []),
        tqdm(total=total, desc="scoring", leave=False, disable=None, delay=2) as bar,
    ):
        torch.manual_seed(settings.seed)
        model.train()
        try:
            sums = (log_of_sum(model, windows, count, temperature, bar) for count in batches)
            log_of_all = reduce(torch.logaddexp, sums)  # keeps only the sum so far
        finally:
            model.eval()
    return (math.log(settings.passes) - log_of_all).cpu()


def log_of_sum(
    model: LanguageModel,
    windows: list[tuple[Tensor, ...]],
    rows: int,
    temperature: float,
    bar: tqdm,
) -> Float[Tensor, " targets"]:
    """The logarithm of the sum of each target's probabilities, over passes side by side.

    Args:
        windows: inputs and targets, each [time, 1].
    """
    state, logs = None, []
    for inputs, targets in windows:
        logits, state = model(inputs.long().expand(-1, rows), state)
        log_probabilities = (logits / temperature).log_softmax(-1)
        of_targets = log_probabilities.gather(-1, targets.long().expand(-1, rows).unsqueeze(-1))
        logs.append(of_targets[..., 0].logsumexp(1))
        bar.update()
    return torch.cat(logs)


def has_dropout(model: LanguageModel) -> bool:
    """True if anything in the model is dropped in training."""
    return any(module.p > 0 for module in model.modules() if isinstance(module, nn.Dropout))
