"""How well a model predicts a text: every token but the first, nothing dropped."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Integer
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from lstm_lm.data.corpora import decode, read_file
from lstm_lm.data.splits import Split, read_splits
from lstm_lm.data.tokenized import Tokenized
from lstm_lm.data.windows import as_rows, evaluation_steps
from lstm_lm.errors import SettingsError
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.restore import Run

ROWS = 64  # stretches scored side by side where the state is reset


class Score(NamedTuple):
    """A text's total negative log-likelihood, and what to divide it by.

    Perplexities of different vocabularies cannot be compared; bits per character and per byte
    can, as far as neither model was spared rare words, as ``<unk>``, or runs of blanks, which
    words do not keep.
    """

    nats: float
    tokens: int  # that were predicted
    characters: int
    bytes: int
    unknown: int  # of those tokens, how many are <unk>

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    @property
    def bits_per_character(self) -> float:
        return self.nats / math.log(2) / self.characters

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


def perplexity(loss: float) -> float:
    """exp of the mean loss in nats per token; infinite where that is beyond a float."""
    return math.exp(loss) if loss < 709 else math.inf


def evaluate(model: LanguageModel, split: Split, reset_every: int | None = None) -> Score:
    """The score of a text as one stream with the state carried from end to end.

    The model must be in evaluation mode.

    Args:
        reset_every: tokens after which the state starts from zero again, as it does where a
            model sees the text only in windows.

    Raises:
        SettingsError: if ``reset_every`` is not positive.
    """
    if reset_every is not None and reset_every < 1:
        raise SettingsError(f"reset_every must be at least 1 token, not {reset_every}")
    device = next(model.parameters()).device
    ids = split.ids.to(device)
    if reset_every is None or reset_every >= split.predictions:
        nats = score(model, *as_rows(ids, 1))
    else:
        nats = score_in_stretches(model, ids, reset_every)
    unknown = int((ids[1:] == 0).sum())
    return Score(nats, split.predictions, split.characters, split.bytes, unknown)


def split_of_run(run: Run, name: str, root: str | None = None) -> Split:
    """The training, validation or test split of the text that a run was made with.

    Args:
        root: the folder texts are kept in, if not the one that the run used.

    Raises:
        SettingsError: if the text cannot be had, or is not the same as then.
    """
    config = replace(run.config.data, root=root or run.config.data.root)
    splits = read_splits(config, run.vocabulary, run.summary["text_sha256"])
    parts = {"training": splits.training, "validation": splits.validation, "test": splits.test}
    return parts[name]


def split_of_file(run: Run, path: str) -> Split:
    """A text of the user's own in the ids of a run.

    Raises:
        SettingsError: if it cannot be read or has nothing to predict.
    """
    data = run.config.data
    tokens = Tokenized.of(decode(read_file(path), path), data.level, data.cleaning)
    if len(tokens) < 2:
        raise SettingsError(f"{path} has {len(tokens)} tokens, so there is nothing to predict")
    return Split.of(tokens, run.vocabulary, data.level)


@torch.inference_mode()
def score(
    model: LanguageModel,
    inputs: Integer[Tensor, "time batch"],
    targets: Integer[Tensor, "time batch"],
) -> float:
    """Nats of all targets; each row starts from a zero state, which is then carried."""
    total, state = torch.zeros((), dtype=torch.float64, device=inputs.device), None
    steps = evaluation_steps(inputs.shape[1], model.vocabulary_size)
    chunks = list(zip(inputs.split(steps), targets.split(steps), strict=True))
    for some_inputs, some_targets in tqdm(chunks, "scoring", leave=False, disable=None, delay=2):
        logits, state = model(some_inputs.long(), state)
        targets = some_targets.flatten().long()
        losses = cross_entropy(logits.flatten(0, 1), targets, reduction="none")
        total += losses.sum(dtype=torch.float64)
    return total.item()


def score_in_stretches(model: LanguageModel, ids: Integer[Tensor, " tokens"], length: int) -> float:
    """Nats of all targets, each stretch of ``length`` starting from a zero state."""
    stretches = (len(ids) - 1) // length
    inputs, targets = as_rows(ids[: stretches * length + 1], stretches)
    side_by_side = zip(inputs.split(ROWS, 1), targets.split(ROWS, 1), strict=True)
    nats = sum(score(model, *rows) for rows in side_by_side)
    rest = ids[stretches * length :]
    return nats + (score(model, *as_rows(rest, 1)) if len(rest) > 1 else 0.0)
