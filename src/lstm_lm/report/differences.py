"""In which settings runs differ, what these are called in little room, and runs grouped by them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lstm_lm.config import Effect, effect_of
from lstm_lm.saved.results import Result

TEXTS = "data.text", "data.path", "data.text_sha256", "data.level"

LABEL = 40  # characters


def differing(results: Iterable[Result]) -> list[str]:
    """The settings that are not the same in all results that have them, by their dotted names."""
    values: dict[str, set[str]] = {}
    for result in results:
        for name, value in result.settings.items():
            values.setdefault(name, set()).add(json.dumps(value))
    return [name for name, found in values.items() if len(found) > 1]


def with_effect(names: Iterable[str]) -> list[str]:
    """Those that can change what a run comes to."""
    return [name for name in names if effect_of(name) is not Effect.nothing]


def texts_apart(results: Iterable[Result]) -> list[str]:
    """The settings for which perplexities of these results cannot be compared."""
    return [name for name in differing(results) if name in TEXTS]


def short(names: Iterable[str]) -> dict[str, str]:
    """The last parts of dotted names, where these tell them apart."""
    names = list(names)
    last = [name.rpartition(".")[2] for name in names]
    return {
        name: part if last.count(part) == 1 else name
        for name, part in zip(names, last, strict=True)
    }


def show(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)


def show_perplexity(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value < 1000 else f"{value:.3g}"


def labels(results: list[Result], names: Iterable[str]) -> tuple[str, list[str]]:
    """A heading, and under it what sets each run apart: a few settings, else its name."""
    names = list(names)
    values = [", ".join(show(r.settings.get(name)) for name in names) for r in results]
    if not names or len(set(values)) < len(values) or any(len(value) > LABEL for value in values):
        return "name", [shortened(result.name) for result in results]
    return ", ".join(part.replace("_", " ") for part in short(names).values()), values


def shortened(label: str) -> str:
    """Its end, which tells names apart, if it is long."""
    return label if len(label) <= LABEL else f"…{label[1 - LABEL :]}"


def about(results: list[Result]) -> str:
    """The text and the model, as far as they are the same everywhere."""
    apart = set(differing(results))
    settings = next((result.settings for result in results if result.settings), {})

    def common(name: str, form: str = "{}") -> str:
        value = settings.get(name)
        return "" if name in apart or value is None else form.format(show(value))

    text = common("data.path") or common("data.text")
    model = [common("model.core"), common("model.cell")]
    layers = common("model.num_layers")
    parts = [
        " ".join(filter(None, [text.rpartition("/")[2], common("data.level", "by {}")])),
        " ".join(filter(None, model)),
        "" if layers in ("", "1") else f"{layers} layers",
        common("model.hidden_size", "hidden size {}"),
        common("optimizer.name"),
        common("optimizer.learning_rate", "learning rate {}"),
    ]
    return ", ".join(filter(None, parts))


@dataclass
class Contender:
    label: str
    results: list[Result]


def contenders(results: Sequence[Result], *along: str) -> list[Contender]:
    """Those that are completed, in alphabetical order.

    Args:
        along: settings that may differ within one, besides the seed.
    """
    completed = [result for result in results if result.settings and result.best is not None]
    names = [n for n in with_effect(differing(completed)) if n not in ("seed", *along)]
    groups: dict[str, list[Result]] = {}
    for result in completed:
        key = json.dumps([result.settings.get(name) for name in names])
        groups.setdefault(key, []).append(result)
    firsts = [group[0].settings for group in groups.values()]
    telling = telling_apart(firsts, names)
    labels = [label(settings, telling) for settings in firsts]
    found = [Contender(*pair) for pair in zip(labels, groups.values(), strict=True)]
    return sorted(found, key=lambda contender: contender.label)


def telling_apart(settings: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """As few of these names as tell all settings apart; a cell's name before all numbers."""
    needed = sorted(names, key=lambda name: name != "model.cell")
    for name in reversed(needed.copy()):
        fewer = [other for other in needed if other != name]
        if len({values(s, fewer) for s in settings}) == len({values(s, names) for s in settings}):
            needed = fewer
    return needed


def values(settings: dict[str, Any], names: Sequence[str]) -> str:
    return json.dumps([settings.get(name) for name in names])


def label(settings: dict[str, Any], names: Sequence[str]) -> str:
    """``lstm, forget bias 2``: what is null goes without saying."""
    parts = []
    for name, called in short(names).items():
        value = settings.get(name)
        if value is not None:
            shown = show(value)
            is_named = not isinstance(value, str) or shown in ("torch", "none")
            parts.append(f"{called.replace('_', ' ')} {shown}" if is_named else shown)
    return ", ".join(parts) or "all runs"
