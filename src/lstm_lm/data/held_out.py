"""How much of a text is learned from, and how much is held out."""

import math
from typing import NamedTuple

from lstm_lm.config import DataConfig
from lstm_lm.errors import SettingsError


class Sizes(NamedTuple):
    """In tokens, and in this order in the text."""

    training: int
    validation: int
    test: int


def sizes(tokens: int, config: DataConfig) -> Sizes:
    """
    Raises:
        SettingsError: if the text is too short to be split.
    """
    test = count(config.test_size, tokens)
    validation = count(config.validation_size, tokens)
    training = tokens - test - validation
    if training < 1 or validation < 2:
        raise SettingsError(
            f"a text of {tokens:,} tokens is too short to hold out "
            f"data.validation_size={config.validation_size:g} and "
            f"data.test_size={config.test_size:g}: use a longer text, a larger data.max_tokens, "
            "or hold out less"
        )
    if test == 1:
        raise SettingsError("one test token is none to predict: use a larger data.test_size, or 0")
    return Sizes(training, validation, test)


def count(size: float, tokens: int) -> int:
    # Rounded up, as in nanoGPT's split; the small constant is for products such as 0.07 x 100.
    return math.ceil(size * tokens - 1e-9) if size < 1 else round(size)
