"""Score a model on a text: every token but the first is predicted, nothing is dropped."""

import codecs
import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from lstm_lm.config import DataConfig, Level, TextName
from lstm_lm.data.batches import as_rows, evaluation_steps
from lstm_lm.data.corpora import not_utf8_error, out_of_memory_error, read_file
from lstm_lm.data.generated import Floor
from lstm_lm.data.splits import Split, read_splits
from lstm_lm.data.subwords import tokenize_subwords
from lstm_lm.data.text import characters
from lstm_lm.data.tokenized import Tokenized
from lstm_lm.errors import SettingsError
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.saved.load_model import TrainedModel

SPLITS = "training", "validation", "test"
ROWS = 64  # stretches scored side by side if the state is reset


class AboveFloor(NamedTuple):
    """The loss on a generated text, split into floor and gap, in nats per token.

    The floor is the loss of the generating process; see :mod:`lstm_lm.data.generated`.
    """

    floor: float
    gap: float  # loss above the floor, over tokens whose string the model has seen from the start
    memory_gap: float | None  # the same, over tokens determined by symbols long ago; None if none

    @classmethod
    def of(
        cls,
        losses: Float[Tensor, "..."],
        floor: Floor,
        rows: int = 1,
        reset_every: int | None = None,
    ) -> "AboveFloor":
        """Floor and gaps from the loss of each token.

        A model cannot know enough of a string that began in another row, or before the state was
        reset. Tokens of such strings do not count in the gaps.

        Args:
            losses: of all tokens but the first, or of as many as fill equally long rows.
        """
        nats, from_memory = (
            as_rows(torch.from_numpy(part), rows)[1] for part in (floor.nats, floor.from_memory)
        )
        begins = as_rows(torch.from_numpy(floor.begins), rows)[0]
        stretches = begins.split(reset_every or len(begins))
        known = torch.cat([stretch.cumsum(0) > 0 for stretch in stretches])
        gaps = losses.double().view_as(nats) - nats
        of_memory = from_memory & known
        memory_gap = float(gaps[of_memory].mean()) if of_memory.any() else None
        return cls(float(nats.mean()), float(gaps[known].mean()), memory_gap)


class Score(NamedTuple):
    """The total negative log-likelihood of a text, and the counts to divide it by.

    Perplexities of different vocabularies cannot be compared. Bits per character and per byte can,
    unless one model is spared rare words, by ``<unk>``, or runs of blanks, which words drop.
    """

    nats: float
    tokens: int  # predicted tokens
    characters: int
    bytes: int
    unknown: int  # predicted tokens that are <unk>
    above_floor: "AboveFloor | None" = None  # only for a generated text

    @property
    def loss(self) -> float:
        """The mean loss in nats per token."""
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
    """The exponential of the mean loss in nats per token; infinite if too large for a float."""
    return math.exp(loss) if loss < 709 else math.inf


def summary_entries(prefix: str, score: Score) -> dict[str, float | None]:
    """The entries of a score in a run's summary."""
    above = score.above_floor
    of_floor = (
        {}
        if above is None
        else {
            f"{prefix}/floor": above.floor,
            f"{prefix}/floor_perplexity": perplexity(above.floor),
            f"{prefix}/gap": above.gap,
            f"{prefix}/memory_gap": above.memory_gap,
        }
    )
    return of_floor | {
        f"{prefix}/loss": score.loss,
        f"{prefix}/perplexity": score.perplexity,
        f"{prefix}/bits_per_character": score.bits_per_character,
        f"{prefix}/bits_per_byte": score.bits_per_byte,
        f"{prefix}/unknown_tokens": score.unknown,
    }


def evaluate(model: LanguageModel, split: Split, reset_every: int | None = None) -> Score:
    """The score of a text as one stream with the state carried from end to end.

    The model must be in evaluation mode.

    Args:
        reset_every: number of tokens after which the state is reset to zero, as for a model that
            sees the text only in windows.

    Raises:
        SettingsError: if ``reset_every`` is not positive.
    """
    losses = text_losses(model, split.ids, reset_every)
    return score_of(losses, split, reset_every)


def text_losses(
    model: LanguageModel,
    ids: Integer[Tensor, " tokens"],
    reset_every: int | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, " targets"]:
    """Loss of each token but the first in nats, on the CPU; arguments: :func:`evaluate`.

    Args:
        temperature: the logits are divided by it.
    """
    if reset_every is not None and reset_every < 1:
        raise SettingsError(f"reset_every must be at least 1 token, not {reset_every}")
    ids = ids.to(next(model.parameters()).device)
    if reset_every is None or reset_every >= len(ids) - 1:
        return token_losses(model, *as_rows(ids, 1), temperature).flatten()
    return losses_in_stretches(model, ids, reset_every, temperature)


def score_of(
    losses: Float[Tensor, " targets"], split: Split, reset_every: int | None = None
) -> Score:
    """The score of a text from the loss of each token but the first."""
    above_floor = None
    if split.floor is not None:
        above_floor = AboveFloor.of(losses, split.floor, reset_every=reset_every)
    return Score(
        nats=float(losses.sum(dtype=torch.float64)),
        tokens=split.predictions,
        characters=split.characters,
        bytes=split.bytes,
        unknown=int((split.ids[1:] == 0).sum()),
        above_floor=above_floor,
    )


def split_of_run(
    run: TrainedModel, name: str, root: str | None = None, path: str | None = None
) -> Split:
    """The training, validation or test split of the text that a run was trained on.

    Args:
        root: the data folder, if it is not the one that the run used.
        path: the path of the run's own text, if it was moved.

    Raises:
        SettingsError: if there is no such split, or the text cannot be found or has changed.
    """
    if name not in SPLITS:
        raise SettingsError(f"there is no {name} split; there are {', '.join(SPLITS)}")
    data = run.config.data
    if path is not None and data.text is not TextName.file:
        raise SettingsError(
            f"this run was trained on data={data.text}, whose folder is --data-root: leave out "
            "--text-path"
        )
    config = replace(data if path is None else moved(data, path), root=root or data.root)
    splits = read_splits(config, run.vocabulary, run.summary["text_sha256"])
    parts = splits.training, splits.validation, splits.test
    return dict(zip(SPLITS, parts, strict=True))[name]


def moved(data: DataConfig, path: str) -> DataConfig:
    """The settings of a text of the user's own that now is at ``path``, other files beside it."""

    def beside(other: str | None) -> str | None:
        return None if other is None else str(Path(path).parent / Path(other).name)

    validation, test = beside(data.validation_path), beside(data.test_path)
    return replace(data, path=path, validation_path=validation, test_path=test)


def split_of_file(run: TrainedModel, path: str) -> Split:
    """The user's own text as ids of a run.

    Raises:
        SettingsError: if the file cannot be read or has nothing to predict.
    """
    content = read_file(path, is_read_once=True).removeprefix(codecs.BOM_UTF8)
    return split_of_text(run, content, path)


def split_of_text(run: TrainedModel, text: str | bytes, name: str = "the text") -> Split:
    """A text, in UTF-8 if it is bytes, as ids of a run; SettingsError if nothing is to predict."""
    data = run.config.data
    try:
        tokens = tokens_of(text, run)
        if len(tokens) < 2:
            raise SettingsError(
                f"{name} has {len(tokens)} tokens, so there is nothing to predict: use a longer one"
            )
        return Split.of(tokens, run.vocabulary, data.level)
    except UnicodeEncodeError as error:
        wrong = error.object[error.start]
        raise SettingsError(f"{name} contains {wrong!r}, which is no character") from error
    except UnicodeDecodeError as error:
        raise not_utf8_error(name, error) from error
    except MemoryError as error:
        raise out_of_memory_error(name, len(text)) from error


def tokens_of(text: str | bytes, run: TrainedModel) -> Tokenized:
    data = run.config.data
    if data.level is not Level.subword:
        return Tokenized.of(text, data.level, data.cleaning)
    content = text.encode() if isinstance(text, str) else text
    return tokenize_subwords(characters(content.decode(), data.cleaning), run.vocabulary)


@torch.inference_mode()
def token_losses(
    model: LanguageModel,
    inputs: Integer[Tensor, "time batch"],
    targets: Integer[Tensor, "time batch"],
    temperature: float = 1.0,
) -> Float[Tensor, "time batch"]:
    """Loss of each target in nats, on the CPU; each row starts from zero state and carries it."""
    losses, state = [], None
    steps = evaluation_steps(inputs.shape[1], model.vocabulary_size)
    chunks = list(zip(inputs.split(steps), targets.split(steps), strict=True))
    for some_inputs, some_targets in tqdm(chunks, "scoring", leave=False, disable=None, delay=2):
        logits, state = model(some_inputs.long(), state)
        flat = cross_entropy(
            logits.flatten(0, 1) / temperature, some_targets.flatten().long(), reduction="none"
        )
        losses.append(flat.view(some_targets.shape))
    return torch.cat(losses).cpu()  # one copy at the end, so that the GPU is waited for only once


def losses_in_stretches(
    model: LanguageModel, ids: Integer[Tensor, " tokens"], length: int, temperature: float = 1.0
) -> Float[Tensor, " targets"]:
    """Loss of each target in nats; each stretch of ``length`` tokens starts from zero state."""
    stretches = (len(ids) - 1) // length
    inputs, targets = as_rows(ids[: stretches * length + 1], stretches)
    side_by_side = zip(inputs.split(ROWS, 1), targets.split(ROWS, 1), strict=True)
    losses = [token_losses(model, *rows, temperature).T.flatten() for rows in side_by_side]
    rest = ids[stretches * length :]
    if len(rest) > 1:
        losses.append(token_losses(model, *as_rows(rest, 1), temperature).flatten())
    return torch.cat(losses)
