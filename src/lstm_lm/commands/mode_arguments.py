"""Arguments of the modes of the command ``evaluate``, and what was typed for them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_lm.errors import SettingsError

if TYPE_CHECKING:
    from lstm_lm.evaluation.modes import Modes

# Options of each mode, by the names of its settings.
DYNAMIC = {"learning_rate": "--learning-rate", "segment": "--segment", "decay": "--decay"}
TUNE_TOKENS = 20_000
CACHE = {"weight": "--lambda", "theta": "--theta", "window": "--window"}


def add_modes(parser: argparse.ArgumentParser) -> None:
    """Add the modes; all are off by default."""
    modes = parser.add_argument_group(
        "modes", "off by default, named in the output, and recorded in summary.json on their own"
    )
    add = modes.add_argument
    add(
        "--dynamic-evaluation",
        choices=["sgd", "rms"],
        help="learn from each segment after it is scored (Krause et al. 2018)",
    )
    add("--learning-rate", type=float, metavar="RATE", help="default: 0.1; of rms: 5e-05")
    add("--segment", type=int, metavar="TOKENS", help="tokens to learn from (default: 20)")
    add(
        "--decay",
        type=float,
        metavar="SHARE",
        help="pull to the trained weights, 0 to 1 (default: 0.002)",
    )
    add_cache(add)
    add_averages(add)


def add_cache(add: Callable[..., object]) -> None:
    add(
        "--neural-cache",
        action="store_true",
        help="what followed similar hidden states is likely to follow again (Grave et al. 2017)",
    )
    add("--window", type=int, metavar="TOKENS", help="tokens to remember (default: 500)")
    add(
        "--theta",
        type=float,
        metavar="FACTOR",
        help="how similar hidden states must be (default: 0.3)",
    )
    add(
        "--lambda",
        type=float,
        dest="weight",
        metavar="SHARE",
        help="share of the cache (default: 0.1)",
    )


def add_averages(add: Callable[..., object]) -> None:
    add(
        "--monte-carlo-dropout",
        type=int,
        metavar="PASSES",
        help="average over so many passes with dropout on (Gal & Ghahramani 2016)",
    )
    add("--seed", type=int, help="what is dropped (default: 0)")
    add(
        "--temperature",
        type=float,
        metavar="T",
        nargs="?",
        const=True,
        help="below 1 sharpens the model's distribution; without a number it is tuned",
    )
    add(
        "--ensemble",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="average the probabilities with those of other runs",
    )


def add_tuning(parser: argparse.ArgumentParser) -> None:
    """Add the tuning of the modes' settings."""
    tuning = parser.add_argument_group("tuning")
    tuning.add_argument(
        "--tune", action="store_true", help="choose the modes' settings that are not given"
    )
    on = "the text to tune on, never the one that is scored (default: validation)"
    tuning.add_argument("--tune-on", choices=["training", "validation"], help=on)
    tokens = "its end or beginning: as many tokens (default: 20000)"
    tuning.add_argument("--tune-tokens", type=int, metavar="TOKENS", help=tokens)


def read_modes(arguments: argparse.Namespace) -> "tuple[Modes, list[str]]":
    """The modes that were typed, and the names of their settings that are to be tuned.

    Raises:
        SettingsError: if they cannot be combined, or something is given or tuned in vain.
    """
    from lstm_lm.evaluation.dynamic_evaluation import DynamicEvaluation, Rule
    from lstm_lm.evaluation.modes import Modes
    from lstm_lm.evaluation.monte_carlo_dropout import MonteCarloDropout
    from lstm_lm.evaluation.neural_cache import NeuralCache

    dynamic, cache = given(arguments, DYNAMIC), given(arguments, CACHE)
    seed = given(arguments, {"seed": "--seed"})
    passes, rule = arguments.monte_carlo_dropout, arguments.dynamic_evaluation
    check_needed("--dynamic-evaluation", rule is not None, [DYNAMIC[name] for name in dynamic])
    check_needed("--neural-cache", arguments.neural_cache, [CACHE[name] for name in cache])
    check_needed("--monte-carlo-dropout", passes is not None, ["--seed"] * len(seed))
    tunes_temperature = arguments.temperature is True
    modes = Modes(
        dynamic_evaluation=DynamicEvaluation(Rule(rule), **dynamic) if rule else None,
        neural_cache=NeuralCache(**cache) if arguments.neural_cache else None,
        monte_carlo_dropout=None if passes is None else MonteCarloDropout(passes, **seed),
        temperature=1.0 if tunes_temperature else arguments.temperature,
    )
    free = [f"dynamic_evaluation.{name}" for name in DYNAMIC if rule and name not in dynamic]
    free += [
        f"neural_cache.{name}" for name in CACHE if arguments.neural_cache and name not in cache
    ]
    free += ["temperature"] * tunes_temperature
    check_tuning(arguments, free)
    return modes, free if arguments.tune else []


def where_to_tune(arguments: argparse.Namespace, test_is_validation: bool) -> tuple[str, int]:
    """The split to tune on, and the number of tokens.

    Raises:
        SettingsError: if it is the text that is scored.
    """
    from lstm_lm.evaluation.tuning import check_source

    source = arguments.tune_on or "validation"
    if arguments.text is None:
        check_source(source, arguments.split, test_is_validation)
    tokens = arguments.tune_tokens
    return source, TUNE_TOKENS if tokens is None else tokens


def given(arguments: argparse.Namespace, options: dict[str, str]) -> dict[str, Any]:
    """The settings that were typed."""
    values = {name: getattr(arguments, name) for name in options}
    return {name: value for name, value in values.items() if value is not None}


def check_needed(mode: str, is_on: bool, options: list[str]) -> None:
    """Raise SettingsError if options were typed whose mode is off."""
    if options and not is_on:
        raise SettingsError(f"{options[0]} has no effect without {mode}: type both or none")


def check_tuning(arguments: argparse.Namespace, free: list[str]) -> None:
    """Raise SettingsError if there is nothing to tune, or tuning was not asked for."""
    check_needed("--tune", arguments.tune, ["--tune-on"] * (arguments.tune_on is not None))
    check_needed("--tune", arguments.tune, ["--tune-tokens"] * (arguments.tune_tokens is not None))
    if arguments.temperature is True and not arguments.tune:
        raise SettingsError("--temperature without a number needs --tune: type a number or --tune")
    if arguments.tune and not free:
        raise SettingsError(
            "--tune has nothing to choose: type --dynamic-evaluation, --neural-cache or "
            "--temperature, and leave out the numbers that are to be chosen"
        )
