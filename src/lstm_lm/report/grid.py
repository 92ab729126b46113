"""Results laid out in two settings, with a panel for each combination of the others.

hidden size × learning rate, if both vary; else whatever numbers do
seeds share a cell
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from math import fsum
from typing import Any

from lstm_lm.report.differences import differing, with_effect
from lstm_lm.saved.results import LAST, Result

PREFERRED = "model.hidden_size", "optimizer.learning_rate"
MOST_PANELS = 12
MOST_CELLS = 400  # in a panel
SPARSE = 30  # cells, from which on at least a quarter must have been tried
STATES = (  # the gravest first
    *("diverged", "failed", "infinite", "interrupted", "running", "unknown", "waiting"),
    "not tried",
)
Value = float | None  # of a setting: null is one, too


@dataclass
class Cell:
    results: list[Result] = field(default_factory=list)

    @property
    def found(self) -> list[Result]:
        """Those that came to something."""
        return [r for r in self.results if r.perplexity is not None and r.status not in LAST]

    @property
    def perplexity(self) -> float | None:
        """The mean over them."""
        count = len(self.found)  # divided by it first: the sum could overflow
        return fsum((r.perplexity or 0.0) / count for r in self.found) if count else None

    @property
    def states(self) -> Counter[str]:
        """How it stands with those that did not, and with how many."""
        others = [result for result in self.results if result not in self.found]
        if not self.results:
            return Counter(["not tried"])
        # Of a completed run a perplexity that is not finite is not on record.
        return Counter("infinite" if r.status == "completed" else r.status for r in others)

    @property
    def state(self) -> str:
        """The gravest of these."""
        return next(state for state in STATES if state in self.states)

    @property
    def is_final(self) -> bool:
        return all(result.best is not None for result in self.found)


@dataclass
class Panel:
    settings: dict[str, Any]  # of all its cells
    cells: dict[tuple[Value, Value], Cell] = field(default_factory=dict)

    @property
    def lowest(self) -> float:
        return min(
            (c.perplexity for c in self.cells.values() if c.perplexity), default=float("inf")
        )


@dataclass
class Grid:
    vertical: str  # a setting's dotted name
    horizontal: str
    rows: list[Value]
    columns: list[Value]
    panels: list[Panel]


def grid_of(results: list[Result]) -> Grid | str:
    """The grid, or why there is none."""
    known = [result for result in results if result.settings]
    names = with_effect(differing(known))
    numbers = [n for n in names if n != "seed" and all(is_number(r.settings.get(n)) for r in known)]
    numbers.sort(key=lambda name: name not in PREFERRED)
    if len(numbers) < 2:
        return "no heat map: the runs do not differ in two numbers, such as a size and a rate"
    vertical, horizontal = numbers[:2]
    others = [name for name in names if name not in (vertical, horizontal, "seed")]
    panels: dict[str, Panel] = {}
    for result in known:
        settings = {name: result.settings.get(name) for name in others}
        panel = panels.setdefault(json.dumps(settings), Panel(settings))
        place = result.settings.get(vertical), result.settings.get(horizontal)
        panel.cells.setdefault(place, Cell()).results.append(result)
    rows, columns = (
        sorted({r.settings.get(name) for r in known}, key=lambda v: (v is not None, v))
        for name in (vertical, horizontal)
    )
    cells = len(rows) * len(columns)
    fullest = max(len(panel.cells) for panel in panels.values())
    if cells > MOST_CELLS or (cells > SPARSE and fullest < cells / 4):
        return f"no heat map: the values of {vertical} and {horizontal} do not form a grid"
    return Grid(vertical, horizontal, rows, columns, list(panels.values()))


def is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
