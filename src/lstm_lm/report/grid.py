"""Results as a grid over two settings, with a panel for each combination of the others.

The two are hidden size and learning rate if both vary, else any two numbers. The seeds of one
setting share a cell.
"""

from collections import Counter
from dataclasses import dataclass, field
from math import fsum
from typing import Any

from lstm_lm.report.differences import by_key, differing, group_runs
from lstm_lm.saved.results import Result
from lstm_lm.saved.run_folder import Status

PREFERRED = "model.hidden_size", "optimizer.learning_rate"
MOST_CELLS = 400  # in a panel
SPARSE = 30  # cells; in a larger panel at least a quarter must have been tried
Value = float | None  # of a setting, which may be null


@dataclass
class Cell:
    results: list[Result] = field(default_factory=list)

    @property
    def comparable(self) -> list[Result]:
        return [result for result in self.results if result.is_comparable]

    @property
    def perplexity(self) -> float | None:
        """The mean of the comparable results."""
        found = [result.perplexity or 0.0 for result in self.comparable]
        # Divided before they are summed: the sum could overflow.
        return fsum(value / len(found) for value in found) if found else None

    @property
    def others(self) -> Counter[Status]:
        """How many of the other results have each status."""
        if not self.results:
            return Counter([Status.not_tried])
        others = [result.status for result in self.results if not result.is_comparable]
        # The summary of a completed run leaves out a perplexity that is not finite.
        return Counter(Status.infinite if s == Status.completed else s for s in others)

    @property
    def status(self) -> Status:
        """The gravest of the others."""
        return min(self.others, key=list(Status).index)

    @property
    def is_final(self) -> bool:
        return all(result.best is not None for result in self.comparable)


@dataclass
class Panel:
    settings: dict[str, Any]  # of all its cells
    cells: dict[tuple[Value, Value], Cell]

    @property
    def lowest(self) -> float:
        found = [cell.perplexity for cell in self.cells.values() if cell.perplexity]
        return min(found, default=float("inf"))


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
    names = [name for name in differing(known) if name != "seed"]
    numbers = [name for name in names if all(is_number(r.settings.get(name)) for r in known)]
    numbers.sort(key=lambda name: name not in PREFERRED)
    if len(numbers) < 2:
        return "no heat map: the runs do not differ in two numbers, such as a size and a rate"
    vertical, horizontal = numbers[:2]

    def position(result: Result) -> tuple[Value, Value]:
        return result.settings.get(vertical), result.settings.get(horizontal)

    panels = [
        Panel(g.settings, {key: Cell(some) for key, some in by_key(g.results, position).items()})
        for g in group_runs(known, vertical, horizontal)
    ]
    rows, columns = (
        sorted(set(values), key=lambda value: (value is not None, value))
        for values in zip(*map(position, known), strict=True)
    )
    cells = len(rows) * len(columns)
    fullest = max(len(panel.cells) for panel in panels)
    if cells > MOST_CELLS or (cells > SPARSE and fullest < cells / 4):
        return f"no heat map: the values of {vertical} and {horizontal} do not form a grid"
    return Grid(vertical, horizontal, rows, columns, panels)


def is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
