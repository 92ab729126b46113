"""Empty figures, axes and legends, means with their range, and line styles for color-blind readers.

Up to ten lines have a color, a dash and a marker each. Of more only the best eight have; the
others are gray.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from math import fsum
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from lstm_lm.files import atomic_file

LETTERS = 11  # of a title, in an inch
DECADES = 8.0  # ratio of highest to lowest value above which an axis is logarithmic
# Okabe and Ito (2008), without the yellow, which is hard to see on white.
COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (1, 1.2))]
MARKERS = "osD^vPX*h<"
GRAY = "#BDBDBD"
ALL_COLORED = 10
BEST_COLORED = 8
FEW_POINTS = 30  # a line with more has no markers


Style = dict[str, Any]  # of a line, as Matplotlib takes it


def line_style(
    color: str, dash: Any = "-", marker: str = "", width: float = 0.8, zorder: int = 1
) -> Style:
    look = {"color": color, "linestyle": dash, "linewidth": width, "zorder": zorder}
    return look | {"marker": marker, "markersize": 4}


OTHERS = line_style(GRAY)


def styles(count: int) -> list[Style]:
    """Styles for so many lines, the best first."""
    colored = count if count <= ALL_COLORED else BEST_COLORED
    return [
        line_style(COLORS[i % len(COLORS)], DASHES[i // len(COLORS)], MARKERS[i], 1.6, 99 - i)
        for i in range(colored)
    ] + [OTHERS] * (count - colored)


def new_figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(fill(title, int(LETTERS * width)), fontsize=11, parse_math=False)
    return figure


def new_panels(
    count: int, width: float, title: str, height: float = 4.8
) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side that share their vertical axis."""
    figure = new_figure(width, height, title)
    return figure, list(figure.subplots(1, count, sharey=True, squeeze=False).flat)


def write_figure(figure: Figure, file: Path) -> None:
    with atomic_file(file) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # of names in other alphabets
        figure.savefig(temporary, format="png", dpi=130)


def decorate(axes: Axes, x: str, y: str | None, title: str) -> None:
    axes.set_xlabel(x)
    if y is not None:
        axes.set_ylabel(y)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.grid(color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_xscale() == "linear":
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=x == "epochs", steps=[1, 2, 5, 10]))


def limit_between(axes: Axes, low: float, high: float) -> None:
    """A vertical axis that just holds these two values, logarithmic if they lie far apart."""
    if high / low > DECADES:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        margin = (high / low) ** 0.05
        axes.set_ylim(low / margin, high * margin)
    else:
        margin = 0.05 * (high - low) or 0.05 * high
        axes.set_ylim(low - margin, high + margin)


def mean(values: Sequence[float]) -> float:
    # Divided before they are summed: the sum could overflow.
    return fsum(value / len(values) for value in values)


def draw_line(axes: Axes, xs: Sequence[float], ys: Sequence[float], style: Style) -> None:
    axes.plot(xs, ys, **style if len(xs) <= FEW_POINTS else style | {"marker": ""})


def draw_means(
    axes: Axes,
    points: Iterable[tuple[float, Sequence[float]]],
    style: Style,
    average: Callable[[Sequence[float]], float] = mean,
    as_bars: bool = False,
) -> list[float]:
    """Draw a line through means and the range around it; returns the means.

    Args:
        points: each x with a value for each seed.
        as_bars: show the range as error bars, not as a band.
    """
    xs, values = zip(*points, strict=True)
    means, low, high = ([f(of_seeds) for of_seeds in values] for f in (average, min, max))
    if as_bars:
        axes.errorbar(xs, means, np.abs(np.subtract([low, high], means)), **style, capsize=3)
    else:
        draw_line(axes, xs, means, style)
        axes.fill_between(xs, low, high, color=style["color"], alpha=0.2, linewidth=0)
    return means


def legend_line(style: Style, label: str) -> Line2D:
    return Line2D([], [], **style, label=label)


def legend_mark(marker: str, label: str) -> Line2D:
    return Line2D([], [], marker=marker, markersize=8, linestyle="", color="#555555", label=label)


def legend_beside(figure: Figure, handles: Sequence[Line2D], title: str) -> None:
    # In the middle of the height, where no title reaches.
    legend = figure.legend(
        handles=handles, loc="outside right center", fontsize=8, title=title, frameon=False
    )
    legend.get_title().set_fontsize(8)
    for text in legend.get_texts():
        text.set_parse_math(False)
