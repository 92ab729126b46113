"""Sizes of the training, validation and test splits of a text."""

import math
from typing import NamedTuple

from lstm_lm.config import DataConfig
from lstm_lm.errors import SettingsError


class Sizes(NamedTuple):
    """Sizes of the splits in tokens, in the order of the text."""

    training: int
    validation: int
    test: int


def sizes(tokens: int, config: DataConfig) -> Sizes:
    """The sizes of the splits of a text with ``tokens`` tokens.

    Raises:
        SettingsError: if the text is too short to split.
    """
    test = count(config.test_size, tokens)
    validation = count(config.validation_size, tokens)
    training = tokens - test - validation
    is_capped = tokens == config.max_tokens
    longer = "set a larger data.max_tokens" if is_capped else "use a longer text"
    if training < 1:
        shares = sum(size for size in (config.validation_size, config.test_size) if size < 1)
        less = "hold out less, with a smaller data.validation_size or data.test_size"
        # No shares of three tokens suffice; shares that add up to 1 leave nothing of any text.
        ways = [longer] * (shares < 1) + [less] * (tokens > 3) or [f"{longer} and {less}"]
        raise SettingsError(
            f"a text of {tokens:,} tokens is too short to hold out "
            f"data.validation_size={config.validation_size:g} and "
            f"data.test_size={config.test_size:g}: {' or '.join(ways)}"
        )
    if validation < 2:
        raise too_small_error("validation", config.validation_size, tokens, longer)
    if test == 1:
        raise too_small_error("test", config.test_size, tokens, longer, " or 0")
    return Sizes(training, validation, test)


def too_small_error(
    part: str, size: float, tokens: int, longer: str, none: str = ""
) -> SettingsError:
    """The error for a split of one token, which has no next token to predict."""
    larger = f"set a larger data.{part}_size{none}"
    if size >= 1:
        return SettingsError(
            f"data.{part}_size={size:g} holds out one token, which leaves nothing to predict: "
            f"{larger}; a value from 1 on is a number of tokens, below 1 a share of the text"
        )
    return SettingsError(
        f"a text of {tokens:,} tokens is too short to hold out data.{part}_size={size:g}, which "
        f"leaves nothing to predict: {longer} or {larger}"
    )


def count(size: float, tokens: int) -> int:
    # Rounded up, as in nanoGPT. 1e-9 absorbs rounding errors of products such as 0.07 x 100.
    return math.ceil(size * tokens - 1e-9) if size < 1 else round(size)
