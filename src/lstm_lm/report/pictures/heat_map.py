"""A heat map of perplexities over two settings."""

import math
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lstm_lm.report.differences import as_text, common_settings, perplexity_text, short_names
from lstm_lm.report.grid import Cell, Grid, Panel
from lstm_lm.report.pictures.drawing import new_figure
from lstm_lm.report.pictures.learning_curves import y_label
from lstm_lm.saved.results import Result
from lstm_lm.saved.run_folder import Status

MOST_PANELS = 12
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


def heat_map(results: list[Result], grid: Grid) -> Figure:
    """A panel for each combination of the other settings, all on one color scale."""
    best = sorted(grid.panels, key=lambda panel: panel.lowest)[:MOST_PANELS]
    panels = [panel for panel in grid.panels if panel in best]
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    width = max(3.4, 1.0 + 0.95 * len(grid.columns))
    height = max(2.2, 0.9 + 0.75 * len(grid.rows))
    title = common_settings(results)
    if len(panels) < len(grid.panels):
        title += f"; the best {len(panels)} of {len(grid.panels)} combinations"
    figure = new_figure(width * across + 2.2, height * down + 1.1, title)
    values = [c.perplexity for p in panels for c in p.cells.values() if c.perplexity]
    low = min(values, default=1.0)
    high = max([low * 1.01, *values])
    norm = Normalize(low, min(high, COLORED * low))
    all_axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axes, panel in zip(all_axes, panels, strict=False):
        draw_panel(axes, panel, grid, norm)
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
    add_legend(figure, panels, grid)
    return figure


def draw_panel(axes: Axes, panel: Panel, grid: Grid, norm: Normalize) -> None:
    axes.set_xlim(0, len(grid.columns))
    axes.set_ylim(0, len(grid.rows))
    has_seeds = max(len(cell.results) for cell in panel.cells.values()) > 1
    for y, row in enumerate(grid.rows):
        for x, column in enumerate(grid.columns):
            cell = panel.cells.get((row, column), Cell())
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
    names = short_names(panel.settings)
    parts = [f"{names[n].replace('_', ' ')} {as_text(v)}" for n, v in panel.settings.items()]
    axes.set_title(", ".join(parts), fontsize=9, parse_math=False)


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


def add_legend(figure: Figure, panels: list[Panel], grid: Grid) -> None:
    places = [(row, column) for row in grid.rows for column in grid.columns]
    cells = [panel.cells.get(place, Cell()) for panel in panels for place in places]
    handles = [Patch(facecolor="none", edgecolor=BEST, lw=2.5, label="best")]
    found = {cell.status for cell in cells if cell.perplexity is None}
    handles += [
        Patch(edgecolor="#777777", label=status, **look)
        for status, look in LOOKS.items()
        if status in found
    ]
    if any(len(cell.results) > 1 for cell in cells):
        handles.append(Patch(visible=False, label="n: runs in the mean"))
    if not all(cell.is_final for cell in cells if cell.perplexity is not None):
        handles.append(Patch(visible=False, label="so far: without final figures"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
