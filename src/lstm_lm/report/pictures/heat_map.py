"""A picture of perplexities over two settings, best seen at a glance."""

import math
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lstm_lm.report.differences import about, short, show, show_perplexity
from lstm_lm.report.grid import MOST_PANELS, Cell, Grid, Panel, Value
from lstm_lm.report.pictures.drawing import new_figure
from lstm_lm.report.pictures.learning_curves import y_label
from lstm_lm.saved.results import Result

COLORS: Colormap = colormaps["viridis_r"]  # the lower, the brighter
BEST = "#D55E00"
COLORED = 3.0  # times the lowest: all that is higher has the same color
LOOKS: dict[str, dict[str, Any]] = {
    "diverged": {"facecolor": "#9E9E9E", "hatch": "xx"},
    "failed": {"facecolor": "#E3E3E3", "hatch": "//"},
    "infinite": {"facecolor": "#C4C4C4", "hatch": "++"},
    "interrupted": {"facecolor": "white", "hatch": "--"},
    "running": {"facecolor": "white", "hatch": "\\\\"},
    "unknown": {"facecolor": "#F2F2F2", "hatch": "||"},
    "waiting": {"facecolor": "white", "hatch": ".."},
    "not tried": {"facecolor": "white", "hatch": ""},
}


def heat_map(results: list[Result], grid: Grid) -> Figure:
    """A panel for each combination of the other settings, all on one scale."""
    panels = sorted(grid.panels, key=lambda panel: panel.lowest)[:MOST_PANELS]
    panels = [panel for panel in grid.panels if panel in panels]
    values = [c.perplexity for p in panels for c in p.cells.values() if c.perplexity]
    low, high = (min(values), max(values)) if values else (1.0, 2.0)
    high = max(high, low * 1.01)
    norm = Normalize(low, min(high, COLORED * low))
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    width = max(3.4, 1.0 + 0.95 * len(grid.columns))
    height = max(2.2, 0.9 + 0.75 * len(grid.rows))
    title = about(results)
    if len(panels) < len(grid.panels):
        title += f"; the best {len(panels)} of {len(grid.panels)} combinations"
    figure = new_figure(width * across + 2.2, height * down + 1.1, title)
    drawn = list(figure.subplots(down, across, squeeze=False).flat)
    names = short(panels[0].settings)
    for axes, panel in zip(drawn, panels, strict=False):
        draw_panel(axes, panel, grid, norm)
        parts = [f"{names[name].replace('_', ' ')} {show(v)}" for name, v in panel.settings.items()]
        axes.set_title(", ".join(parts), fontsize=9, parse_math=False)
        for cell_place, cell in panel.cells.items():
            if values and cell.perplexity == low:
                outline(axes, cell_place, grid)
    for axes in drawn[len(panels) :]:
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
    add_legend(figure, panels, grid)
    return figure


def draw_panel(axes: Axes, panel: Panel, grid: Grid, norm: Normalize) -> None:
    axes.set_xlim(0, len(grid.columns))
    axes.set_ylim(0, len(grid.rows))
    several = max(len(cell.results) for cell in panel.cells.values()) > 1
    for y, row in enumerate(grid.rows):
        for x, column in enumerate(grid.columns):
            draw_cell(axes, x, y, panel.cells.get((row, column), Cell()), norm, several)
    for axis, name, values in (
        (axes.xaxis, grid.horizontal, grid.columns),
        (axes.yaxis, grid.vertical, grid.rows),
    ):
        axis.set_ticks([i + 0.5 for i in range(len(values))], [show(value) for value in values])
        axis.set_tick_params(length=0)
        axis.set_label_text(name.rpartition(".")[2].replace("_", " "))
    axes.spines[:].set_visible(False)


def draw_cell(axes: Axes, x: int, y: int, cell: Cell, norm: Normalize, several: bool) -> None:
    perplexity = cell.perplexity
    if perplexity is None:
        axes.add_patch(Rectangle((x, y), 1, 1, edgecolor="#777777", lw=0.5, **LOOKS[cell.state]))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text(x + 0.5, y + 0.5, cell.state, ha="center", va="center", fontsize=8, bbox=box)
        return
    color = COLORS(norm(perplexity))
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="white", lw=1))
    brightness = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    ink = "black" if brightness > 0.5 else "white"
    details = []
    if several:
        details.append(f"n={len(cell.found)}")
    details += [f"{count} {state}" for state, count in cell.states.items()]
    if not cell.is_final:
        details.append("so far")
    axes.text(
        x + 0.5,
        y + (0.58 if details else 0.5),
        show_perplexity(perplexity),
        ha="center",
        va="center",
        color=ink,
        fontsize=11,
    )
    axes.text(x + 0.5, y + 0.22, ", ".join(details), ha="center", color=ink, fontsize=7)


def outline(axes: Axes, place: tuple[Value, Value], grid: Grid) -> None:
    x, y = grid.columns.index(place[1]), grid.rows.index(place[0])
    inside = 0.03
    axes.add_patch(
        Rectangle(
            (x + inside, y + inside),
            1 - 2 * inside,
            1 - 2 * inside,
            facecolor="none",
            edgecolor=BEST,
            lw=3,
            zorder=9,
        )
    )


def add_legend(figure: Figure, panels: list[Panel], grid: Grid) -> None:
    cells = [
        panel.cells.get((row, column), Cell())
        for panel in panels
        for row in grid.rows
        for column in grid.columns
    ]
    handles = [Patch(facecolor="none", edgecolor=BEST, lw=2.5, label="best")]
    states = {cell.state for cell in cells if cell.perplexity is None}
    handles += [
        Patch(edgecolor="#777777", label=state, **look)
        for state, look in LOOKS.items()
        if state in states
    ]
    if any(len(cell.results) > 1 for cell in cells):
        handles.append(Patch(visible=False, label="n: runs in the mean"))
    if any(cell.perplexity is not None and not cell.is_final for cell in cells):
        handles.append(Patch(visible=False, label="so far: without final figures"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
