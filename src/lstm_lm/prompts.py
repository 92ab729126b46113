"""The texts that a model is to continue while it is trained, in ids."""

import logging

from lstm_lm.config import RunConfig
from lstm_lm.data.splits import Splits
from lstm_lm.data.text import tokenize_prompt
from lstm_lm.errors import SettingsError

DEFAULT_PROMPT = 16  # tokens of the validation text

log = logging.getLogger(__name__)


def encode_prompts(config: RunConfig, splits: Splits) -> list[list[int]]:
    """The prompts in ids; without any, the validation text's beginning.

    Raises:
        SettingsError: if one of them has no token.
    """
    encoded = []
    for prompt in config.samples.prompts:
        tokens = tokenize_prompt(prompt, config.data.level, config.data.cleaning)
        if not tokens:
            raise SettingsError(f"samples.prompts: {prompt!r} has no token to start from")
        if unknown := splits.vocabulary.unknown(tokens):
            log.warning("samples.prompts: %s are not in the vocabulary", unknown)
        encoded.append(splits.vocabulary.encode(tokens))
    return encoded or [splits.validation.ids[:DEFAULT_PROMPT].tolist()]
