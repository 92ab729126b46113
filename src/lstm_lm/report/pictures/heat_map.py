"""A heat map of perplexities over two settings, with a panel for each combination of the others.

The two are hidden size and learning rate if both vary, else any two numbers. The seeds of one
setting share a cell.
"""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import product
from textwrap import fill
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lstm_lm.report.differences import (
    as_text,
    by_key,
    common_settings,
    differing,
    group_runs,
    perplexity_text,
    short_names,
)
from lstm_lm.report.pictures.drawing import mean, new_figure
from lstm_lm.report.pictures.learning_curves import y_label
from lstm_lm.saved.results import Result
from lstm_lm.saved.run_folder import Status

PREFERRED = "model.hidden_size", "optimizer.learning_rate"
MOST_CELLS = 400  # in a panel
SPARSE = 30  # cells; in a larger panel at least a quarter must have been tried
MOST_PANELS = 12
PANEL_LETTERS = 11  # of a panel's title, in an inch
COLORS: Colormap = colormaps["viridis_r"]  # the lower, the brighter
BEST = "#D55E00"
COLORED = 3.0  # times the lowest: all above has the same color
LOOKS: dict[Status, dict[str, Any]] = {  # of cells without a perplexity
    Status.diverged: {"facecolor": "#9E9E9E", "hatch": "xx"},
    Status.failed: {"facecolor": "#E3E3E3", "hatch": "//"},
    Status.infinite: {"facecolor": "#C4C4C4", "hatch": "++"},
    Status.interrupted: {"facecolor": "white", "hatch": "--"},
    Status.running: {"facecolor": "white", "hatch": "\\\\"},
    Status.unknown: {"facecolor": "#F2F2F2", "hatch": "||"},
    Status.waiting: {"facecolor": "white", "hatch": ".."},
    Status.not_tried: {"facecolor": "white", "hatch": ""},
}
Value = float | None  # of a setting, which may be null


@dataclass
class Cell:
    results: list[Result]

    @property
    def comparable(self) -> list[Result]:
        return [result for result in self.results if result.is_comparable]

    @property
    def perplexity(self) -> float | None:
        """The mean of the comparable results."""
        found = [result.perplexity or 0.0 for result in self.comparable]
        return mean(found) if found else None

    @property
    def others(self) -> Counter[Status]:
        """The number of other results with each status."""
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
    cells: list[Cell]  # row by row

    @property
    def perplexities(self) -> list[float]:
        return [cell.perplexity for cell in self.cells if cell.perplexity is not None]


@dataclass
class Grid:
    vertical: str  # a setting's dotted name
    horizontal: str
    rows: list[Value]
    columns: list[Value]
    panels: list[Panel]


def heat_map(results: list[Result]) -> Figure | str:
    """A panel for each combination of the other settings, or the reason why there is no picture."""
    grid = grid_of(results)
    if isinstance(grid, str):
        return grid
    best = sorted(grid.panels, key=lambda panel: min(panel.perplexities, default=math.inf))
    panels = [panel for panel in grid.panels if panel in best[:MOST_PANELS]]
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    width = max(3.4, 1.0 + 0.95 * len(grid.columns))
    height = max(2.2, 0.9 + 0.75 * len(grid.rows))
    title = common_settings(results)
    if len(panels) < len(grid.panels):
        title += f"; the best {len(panels)} of {len(grid.panels)} combinations"
    figure = new_figure(width * across + 2.2, height * down + 1.1, title)
    values = [perplexity for panel in panels for perplexity in panel.perplexities]
    low = min(values, default=1.0)
    high = max([low * 1.01, *values])
    norm = Normalize(low, min(high, COLORED * low))
    all_axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axes, panel in zip(all_axes, panels, strict=False):
        draw_panel(axes, panel, grid, norm)
        title = fill(panel_title(panel), int(PANEL_LETTERS * width))
        axes.set_title(title, fontsize=9, parse_math=False)
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    if values:
        bar = figure.colorbar(
            ScalarMappable(norm, COLORS),
            ax=figure.axes,
            shrink=0.8,
            extend="max" if high > COLORED * low else "neither",
            ticks=MaxNLocator(6, steps=[1, 2, 5, 10]),
        )
        bar.set_label(f"validation {y_label(results)}".replace(" per ", "\nper "))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    add_legend(figure, [cell for panel in panels for cell in panel.cells])
    return figure


def grid_of(results: list[Result]) -> Grid | str:
    """The grid, or the reason why there is none."""
    known = [result for result in results if result.settings]
    if any(result.change is not None for result in known):
        return "an ablation changes one setting at a time, so its runs form no grid"
    names = [name for name in differing(known) if name != "seed"]
    numbers = [name for name in names if all(is_number(r.settings.get(name)) for r in known)]
    numbers.sort(key=lambda name: name not in PREFERRED)
    if len(numbers) < 2:
        return "the runs do not differ in two numbers, such as a size and a rate"
    vertical, horizontal = numbers[:2]

    def position(result: Result) -> tuple[Value, Value]:
        return result.settings.get(vertical), result.settings.get(horizontal)

    rows, columns = (
        sorted(set(values), key=lambda value: (value is not None, value))
        for values in zip(*map(position, known), strict=True)
    )
    groups = group_runs(known, vertical, horizontal)
    size, tried = len(rows) * len(columns), [by_key(group.results, position) for group in groups]
    if size > MOST_CELLS or (size > SPARSE and max(map(len, tried)) < size / 4):
        return f"the values of {vertical} and {horizontal} do not form a grid"
    panels = [
        Panel(group.settings, [Cell(of_panel.get(key, [])) for key in product(rows, columns)])
        for group, of_panel in zip(groups, tried, strict=True)
    ]
    return Grid(vertical, horizontal, rows, columns, panels)


def is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def draw_panel(axes: Axes, panel: Panel, grid: Grid, norm: Normalize) -> None:
    axes.set_xlim(0, len(grid.columns))
    axes.set_ylim(0, len(grid.rows))
    has_seeds = max(len(cell.results) for cell in panel.cells) > 1
    for number, cell in enumerate(panel.cells):
        y, x = divmod(number, len(grid.columns))
        draw_cell(axes, x, y, cell, norm, has_seeds)
        if cell.perplexity == norm.vmin:
            corner = x + 0.03, y + 0.03
            axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, ec=BEST, lw=3, zorder=9))
    for axis, name, values in (
        (axes.xaxis, grid.horizontal, grid.columns),
        (axes.yaxis, grid.vertical, grid.rows),
    ):
        axis.set_ticks([i + 0.5 for i in range(len(values))], [as_text(value) for value in values])
        axis.set_tick_params(length=0)
        axis.set_label_text(name.rpartition(".")[2].replace("_", " "))
    axes.spines[:].set_visible(False)


def panel_title(panel: Panel) -> str:
    names = short_names(panel.settings)
    parts = [f"{names[n].replace('_', ' ')} {as_text(v)}" for n, v in panel.settings.items()]
    return ", ".join(parts)


def draw_cell(axes: Axes, x: int, y: int, cell: Cell, norm: Normalize, has_seeds: bool) -> None:
    centered: dict[str, Any] = {"ha": "center", "va": "center"}
    if cell.perplexity is None:
        look = LOOKS[cell.status]
        axes.add_patch(Rectangle((x, y), 1, 1, edgecolor="#777777", lw=0.5, **look))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text(x + 0.5, y + 0.5, cell.status, fontsize=8, bbox=box, **centered)
        return
    color = COLORS(norm(cell.perplexity))
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="white", lw=1))
    brightness = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    ink = "black" if brightness > 0.5 else "white"
    details = [f"n={len(cell.comparable)}"] if has_seeds else []
    details += [f"{count} {status}" for status, count in cell.others.items()]
    details += [] if cell.is_final else ["so far"]
    height = 0.58 if details else 0.5
    text = perplexity_text(cell.perplexity)
    axes.text(x + 0.5, y + height, text, color=ink, fontsize=11, **centered)
    axes.text(x + 0.5, y + 0.22, ", ".join(details), ha="center", color=ink, fontsize=7)


def add_legend(figure: Figure, cells: list[Cell]) -> None:
    handles = [Patch(facecolor="none", edgecolor=BEST, lw=2.5, label="best")]
    found = {cell.status for cell in cells if cell.perplexity is None}
    handles += [
        Patch(edgecolor="#777777", label=status, **LOOKS[status])
        for status in Status
        if status in found
    ]
    if any(len(cell.results) > 1 for cell in cells):
        handles.append(Patch(visible=False, label="n: runs in the mean"))
    if not all(cell.is_final for cell in cells if cell.perplexity is not None):
        handles.append(Patch(visible=False, label="so far: without final figures"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
