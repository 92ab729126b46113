"""Empty pictures, axes that show perplexities, and line styles that color-blind readers can tell.

Up to ten runs have a color, a dash and a marker each; of more only the best eight, and the others
are gray.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from lstm_lm.files import whole_or_absent

LETTERS = 11  # of a title, in an inch
SPANS_DECADES = 8.0  # from there on an axis is logarithmic


def new_figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(fill(title, int(LETTERS * width)), fontsize=11, parse_math=False)
    return figure


def write_figure(figure: Figure, file: Path) -> None:
    with whole_or_absent(file) as temporary, warnings.catch_warnings():
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


def show_between(axes: Axes, low: float, high: float) -> None:
    """A vertical axis that just holds these two values, logarithmic if they lie far apart."""
    if high / low > SPANS_DECADES:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        margin = (high / low) ** 0.05
        axes.set_ylim(low / margin, high * margin)
    else:
        margin = 0.05 * (high - low) or 0.05 * high
        axes.set_ylim(low - margin, high + margin)


def legend_beside(figure: Figure, handles: Sequence[Line2D], title: str) -> None:
    # In the middle of the height, where no title reaches.
    legend = figure.legend(
        handles=handles, loc="outside right center", fontsize=8, title=title, frameon=False
    )
    legend.get_title().set_fontsize(8)
    for text in legend.get_texts():
        text.set_parse_math(False)


def inside(axes: Axes, share: float) -> float:
    """The value at a share of the vertical axis."""
    return float(axes.transData.inverted().transform(axes.transAxes.transform((0, share)))[1])


# Okabe and Ito (2008), without the yellow, which is hard to see on white.
COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (1, 1.2))]
MARKERS = "osD^vPX*h<"
GRAY = "#BDBDBD"
ALL_COLORED = 10
BEST_COLORED = 8
FEW_POINTS = 30  # up to which each has its marker


@dataclass(frozen=True)
class Style:
    color: str = GRAY
    dash: Any = "-"
    marker: str = ""
    width: float = 0.8
    height: float = 1  # above lines with less

    @property
    def is_colored(self) -> bool:
        return self.color != GRAY

    def line(self, has_markers: bool = True) -> dict[str, Any]:
        return {
            "color": self.color,
            "linestyle": self.dash,
            "linewidth": self.width,
            "marker": self.marker if has_markers else "",
            "markersize": 4,
            "zorder": self.height,
        }


def styles(count: int) -> list[Style]:
    """For so many lines, the best first."""
    colored = count if count <= ALL_COLORED else BEST_COLORED
    return [
        Style(
            COLORS[index % len(COLORS)],
            DASHES[index // len(COLORS)],
            MARKERS[index],
            1.6,
            99 - index,
        )
        for index in range(colored)
    ] + [Style()] * (count - colored)
