"""Runs that differ in nothing but their seeds, and perhaps in a setting more, taken together."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lstm_lm.comparison.differences import differing, short, show, with_effect
from lstm_lm.comparison.results import Result


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
