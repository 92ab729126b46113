"""The settings in which runs differ, runs grouped by them, and short names for both."""

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lstm_lm.config import Effect, effect_of
from lstm_lm.saved.results import Result

TOKENS = "data.level", "data.vocabulary_size"
TEXTS = "data.text", "data.path", "data.text_sha256", *TOKENS

LONGEST_LABEL = 40  # characters

Key = TypeVar("Key", bound=Hashable)


def differing(results: Iterable[Result], with_effect: bool = True) -> list[str]:
    """The settings that are not the same in all results that have them, by their dotted names.

    Args:
        with_effect: only those that can change the result of a run.
    """
    values: dict[str, set[str]] = {}
    for result in results:
        for name, value in result.settings.items():
            values.setdefault(name, set()).add(json.dumps(value))
    names = [name for name, found in values.items() if len(found) > 1]
    return [n for n in names if not with_effect or effect_of(n) is not Effect.nothing]


def differing_texts(results: Iterable[Result]) -> list[str]:
    """The differing settings that make perplexities incomparable."""
    return [name for name in differing(results) if name in TEXTS]


def by_key(results: Iterable[Result], key: Callable[[Result], Key]) -> dict[Key, list[Result]]:
    """Results with the same key together, in the order of their first."""
    groups: dict[Key, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


@dataclass
class Group:
    label: str
    settings: dict[str, Any]  # in which the groups differ
    results: list[Result]


def group_runs(results: Sequence[Result], *varying: str) -> list[Group]:
    """Runs grouped by all their settings but the seed and the ``varying`` ones."""
    known = [result for result in results if result.settings]
    names = [name for name in differing(known) if name not in ("seed", *varying)]
    groups = by_key(known, lambda result: json.dumps([result.settings.get(n) for n in names]))
    settings = [dict(zip(names, json.loads(key), strict=True)) for key in groups]
    few = distinguishing(settings, names)
    return [
        Group(label(of_group, few), of_group, runs)
        for of_group, runs in zip(settings, groups.values(), strict=True)
    ]


def completed_groups(results: Sequence[Result], *varying: str) -> list[Group]:
    """Groups of completed runs only, sorted by their labels."""
    completed = [result for result in results if result.best is not None]
    return sorted(group_runs(completed, *varying), key=lambda group: group.label)


def distinguishing(settings: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """A minimal set of these names that distinguishes all the settings; the cell comes first."""
    needed = sorted(names, key=lambda name: name != "model.cell")
    for name in reversed(needed.copy()):
        fewer = [other for other in needed if other != name]
        if len({json.dumps([one[n] for n in fewer]) for one in settings}) == len(settings):
            needed = fewer
    return needed


def label(settings: dict[str, Any], names: Sequence[str]) -> str:
    """``lstm, forget bias 2``; a setting that is null is not mentioned."""
    parts = []
    for name, heading in short_names(names).items():
        value = settings[name]
        if value is not None:
            is_clear = isinstance(value, str) and value not in ("torch", "none")
            parts.append(value if is_clear else f"{heading.replace('_', ' ')} {as_text(value)}")
    return ", ".join(parts) or "all runs"


def labels(results: list[Result], names: Iterable[str]) -> tuple[str, list[str]]:
    """A heading and a label for each run: its values of a few settings, else its name."""
    names = list(names)
    texts = [", ".join(as_text(r.settings.get(name)) for name in names) for r in results]
    longest = max(map(len, texts), default=0)
    if not names or len(set(texts)) < len(texts) or longest > LONGEST_LABEL:
        return "name", [shortened(result.name) for result in results]
    return ", ".join(short_names(names).values()).replace("_", " "), texts


def shortened(label: str) -> str:
    """A long label's end, which distinguishes names."""
    return label if len(label) <= LONGEST_LABEL else f"…{label[1 - LONGEST_LABEL :]}"


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The last parts of dotted names, where these are unique."""
    last = {name: name.rpartition(".")[2] for name in names}
    parts = list(last.values())
    return {name: part if parts.count(part) == 1 else name for name, part in last.items()}


def as_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def perplexity_text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value < 1000 else f"{value:.3g}"


def common_settings(results: list[Result]) -> str:
    """The text and the model, as far as they are the same for all runs."""
    apart = differing(results)
    settings = next((result.settings for result in results if result.settings), {})

    def common(name: str, form: str = "{}") -> str:
        value = settings.get(name)
        return "" if name in apart or value is None else form.format(as_text(value))

    text = (common("data.path") or common("data.text")).rpartition("/")[2]
    layers = common("model.num_layers", "{} layers")
    parts = [
        f"{text} {common('data.level', 'by {}')}".strip(),
        f"{common('model.core')} {common('model.cell')}".strip(),
        layers if layers != "1 layers" else "",
        common("model.hidden_size", "hidden size {}"),
        common("optimizer.name"),
        common("optimizer.learning_rate", "learning rate {}"),
    ]
    return ", ".join(filter(None, parts))
