"""Bar chart of ratios: one row of panels per shape, one column per number of threads."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.rows import Row, count
from lstm_lm.report.pictures.drawing import COLORS, GRAY, new_figure, write_figure

BAR, AROUND = 0.3, 0.9  # inches: height of a bar, and of a panel's margins


def write_chart(rows: Sequence[Row], title: str, notes: Sequence[str], file: Path) -> None:
    """Write the chart of some rows as PNG.

    Args:
        notes: explanations printed below the chart.
    """
    rows = [row for row in rows if not row.is_reference]
    shapes = list(dict.fromkeys(row.shape for row in rows))
    threads = sorted({row.threads for row in rows})
    names = {shape: in_order(rows, shape) for shape in shapes}
    bars = [len(names[shape]) for shape in shapes]
    labels = 0.075 * max(len(row.what) for row in rows)  # inches
    height = BAR * sum(bars) + AROUND * len(shapes) + 1
    figure = new_figure(labels + 4.2 * len(threads), height, title)
    panels = figure.subplots(
        len(shapes), len(threads), sharex=True, sharey="row", squeeze=False, height_ratios=bars
    )
    for shape, across in zip(shapes, panels, strict=True):
        for number, axes in zip(threads, across, strict=True):
            shown = [row for row in rows if (row.shape, row.threads) == (shape, number)]
            draw(axes, shown, names[shape])
            axes.set_title(f"{shape}\n{count(number, 'thread')}", fontsize=9)
        across[0].invert_yaxis()  # the axis is shared by this row of panels
    figure.get_axes()[0].set_xlim(0, 1.12 * max(row.high for row in rows))
    figure.supxlabel("\n".join(["ratio; thin lines: low to high", *notes]), fontsize=8)
    write_figure(figure, file)


def in_order(rows: Sequence[Row], shape: str) -> list[str]:
    """The names compared at a shape, in the order of the rows."""
    return list(dict.fromkeys(row.what for row in rows if row.shape == shape))


def draw(axes: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    for row in rows:
        place = names.index(row.what)
        strength = 1.0 if row.dtype == "32-true" else 0.55
        axes.barh(place, row.ratio, height=0.66, color=color(row.what), alpha=strength)
        axes.plot([row.low, row.high], [place, place], color="black", linewidth=1)
        right = max(row.ratio, row.high)
        number = axes.annotate(
            f"{row.ratio:.2f}", (right, place), (4, 0), textcoords="offset points", va="center"
        )
        number.set(fontsize=8, bbox={"color": "white", "pad": 0.6})
    axes.axvline(1, color="black", linewidth=1, linestyle=(0, (4, 2)))
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def color(what: str) -> str:
    """The color of a core or order; the same in all panels."""
    known = "scratch", "fused cpp", "fused torch", "fused triton", "run", "side by side"
    for name, own in zip(known, COLORS, strict=False):
        if what.startswith(name):
            return own
    return GRAY
