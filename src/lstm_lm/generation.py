"""Continue a prompt, one token at a time; and encode the prompts of a run's settings."""

import logging
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lstm_lm.config import Cleaning, DataConfig, Level, RunConfig
from lstm_lm.data.splits import Splits
from lstm_lm.data.subwords import subwords_of
from lstm_lm.data.text import bytes_of, letters_only, tokenize_prompt
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import SettingsError
from lstm_lm.model.language_model import LanguageModel

DEFAULT_PROMPT = 16  # tokens of the validation text
log = logging.getLogger(__name__)


def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    samples: int = 1,
    seed: int = 0,
) -> Iterator[list[int]]:
    """Endless ids that continue the prompt, one per sample; needs a model in evaluation mode.

    The state is carried from step to step, so each id costs one step of the cores. The global
    random state does not change.

    Args:
        prompt: ids, at least one; the same for all samples.
        temperature: below 1 sharpens the model's distribution, above 1 flattens it, 0 always
            takes the likeliest token.
        top_k: sample only from this many likeliest tokens (Fan et al. 2018).
        top_p: sample only from the likeliest tokens that together have this probability, the
            one that reaches it included (Holtzman et al. 2020).

    Raises:
        SettingsError: if the prompt is empty or a number is out of range.
    """
    if not prompt:
        raise SettingsError("a prompt needs at least one token to start from")
    if not temperature >= 0:
        raise SettingsError(f"the temperature must be >= 0, not {temperature}")
    if top_k is not None and top_k < 1:
        raise SettingsError(f"top-k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise SettingsError(f"top-p must be above 0 and at most 1, not {top_p}")
    if not 0 <= seed < 2**63:
        raise SettingsError(f"the seed must be from 0 to 2**63 - 1, not {seed}")
    if samples < 1:
        raise SettingsError(f"samples must be at least 1, not {samples}")
    return follow(model, prompt, temperature, top_k, top_p, samples, seed)


@torch.inference_mode()
def follow(
    model: LanguageModel,
    prompt: Sequence[int],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    samples: int,
    seed: int,
) -> Iterator[list[int]]:
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    ids = torch.tensor(prompt, device=device).unsqueeze(1).expand(-1, samples)
    state = None
    while True:
        logits, state = model(ids, state)
        ids = draw(logits[-1].float(), temperature, top_k, top_p, generator).unsqueeze(0)
        yield ids[0].tolist()


def draw(
    logits: Float[Tensor, "batch vocabulary"],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> Int[Tensor, " batch"]:
    if temperature == 0:
        return logits.argmax(dim=-1)
    # Shift the largest logit to zero first, so that no temperature makes it overflow.
    logits = (logits - logits.max(dim=-1, keepdim=True).values) / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    probabilities = logits.softmax(dim=-1)
    if top_p is not None:
        descending, order = probabilities.sort(descending=True)
        before = descending.cumsum(dim=-1) - descending
        probabilities = probabilities.masked_fill(
            (before >= top_p).gather(-1, order.argsort()), 0.0
        )
    # Exponential race: equivalent to torch.multinomial, without its check of all probabilities.
    # Of waiting times with these rates, each is the smallest with the probability of its rate.
    waiting = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / waiting).argmax(dim=-1)


def encode_prompts(config: RunConfig, splits: Splits) -> list[list[int]]:
    """The prompts of the settings as ids; by default, the beginning of the validation text.

    Raises:
        SettingsError: if a prompt has no token.
    """
    encoded = []
    for prompt in config.samples.prompts:
        tokens = prompt_tokens(prompt, config.data, splits.vocabulary)
        if not tokens:
            raise SettingsError(f"samples.prompts: {prompt!r} has no token to start from")
        encoded.append(splits.vocabulary.encode(tokens))
    return encoded or [splits.validation.ids[:DEFAULT_PROMPT].tolist()]


def prompt_tokens(prompt: str, config: DataConfig, vocabulary: Vocabulary) -> list[str]:
    """The tokens of a prompt; logs a warning of those that the vocabulary lacks."""
    if config.level is Level.subword:
        text = prompt if config.cleaning is Cleaning.none else letters_only(prompt)
        return subwords_of(text, vocabulary)
    tokens = tokenize_prompt(prompt, config.level, config.cleaning)
    if unknown := vocabulary.unknown(tokens):
        is_bytes = config.level is Level.byte
        names = ", ".join(repr(bytes_of(token) if is_bytes else token) for token in unknown)
        log.warning("warning: not in the vocabulary, taken as <unk>: %s", names)
    return tokens
