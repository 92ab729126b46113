"""Monte-Carlo dropout: the mean of the probabilities over many passes with dropout on.

A model trained with dropout is an average over networks; without dropout one pass approximates it.
Each pass carries a state of its own through the text. Passes are rows of one batch, so they share
what a model draws once a batch, such as dropped weights.

Source: Gal & Ghahramani (2016).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn.functional import cross_entropy
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
        steps: number of steps at a time: as in training, where masks can last as long.
    """
    ids = ids.to(next(model.parameters()).device).long()
    inputs, targets = as_rows(ids, 1)
    rows = max(1, min(settings.passes, LARGEST_LOGITS // (steps * model.vocabulary_size)))
    passes = [min(rows, settings.passes - first) for first in range(0, settings.passes, rows)]
    chunks = list(zip(inputs.split(steps), targets.split(steps), strict=True))
    totals = []
    with (
        torch.random.fork_rng(devices=[ids.device] if ids.is_cuda else []),
        tqdm(
            total=len(passes) * len(chunks), desc="scoring", leave=False, disable=None, delay=2
        ) as bar,
    ):
        torch.manual_seed(settings.seed)
        model.train()
        try:
            for count in passes:
                state, logs = None, []
                for some_inputs, some_targets in chunks:
                    logits, state = model(some_inputs.expand(-1, count), state)
                    losses = cross_entropy(
                        logits.flatten(0, 1) / temperature,
                        some_targets.expand(-1, count).flatten(),
                        reduction="none",
                    )
                    logs.append((-losses.view(-1, count)).logsumexp(1))
                    bar.update()
                totals.append(torch.cat(logs))
        finally:
            model.eval()
    return (math.log(settings.passes) - torch.stack(totals).logsumexp(0)).cpu()
