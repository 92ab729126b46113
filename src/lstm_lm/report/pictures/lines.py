"""Runs as lines in a picture: how each is drawn, called and marked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lstm_lm.report.differences import differing, labels, show_perplexity, with_effect
from lstm_lm.report.pictures.drawing import FEW_POINTS, Style, inside, show_between, styles
from lstm_lm.saved.results import Result

VALIDATION = "validation/perplexity"
TRAINING = "train/perplexity"
FLOOR = "floor/perplexity"  # of a generated text: no model can be below it on average
OF_FLOOR = Style("#000000", (0, (1, 1.5)), width=1.2)
DRAWABLE = 1e6  # times the top of a picture: higher points cannot be drawn
CROSS = 0.97  # of the height of a picture: where lines that leave it are crossed


@dataclass
class Line:
    """A run that was validated, and how it is drawn."""

    result: Result
    style: Style
    label: str

    @property
    def diverged(self) -> bool:
        return self.result.status == "diverged"


def lines_of(results: list[Result]) -> list[Line]:
    """In the order of the results, the best first."""
    drawn = [result for result in results if VALIDATION in result.curves]
    _, texts = labels(drawn, with_effect(differing(results)))
    return [Line(*parts) for parts in zip(drawn, styles(len(drawn)), texts, strict=True)]


def draw(
    axes: Axes,
    line: Line,
    tag: str,
    position: Callable[[Line, int], float | None],
    style: Style | None = None,
) -> None:
    """A curve of a run, over whatever a step's position is. Limits must have been set."""
    curve, style = line.result.curves.get(tag), style or line.style
    if curve is None:
        return
    places = [position(line, step) for step in curve.steps]
    highest = DRAWABLE * axes.get_ylim()[1]
    points = [
        (x, min(y, highest)) for x, y in zip(places, curve.values, strict=True) if x is not None
    ]
    if not points:
        return
    xs, ys = zip(*points, strict=True)
    has_markers = tag == VALIDATION and len(points) <= FEW_POINTS
    axes.plot(xs, ys, **style.line(has_markers))
    if tag == VALIDATION and style.is_colored:
        x, y = min(points, key=lambda point: point[1])
        (star,) = axes.plot(x, y, "*", color=style.color, zorder=style.height + 100)
        star.set(markersize=11, markeredgecolor="white")
    if line.diverged:
        x, y = end_inside(axes, xs, ys)
        axes.plot(x, y, "x", color=style.color, markersize=8, markeredgewidth=2, zorder=300)


def end_inside(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Where a line leaves a picture through its top, else its last point."""
    top = inside(axes, CROSS)
    left = next((index for index, y in enumerate(ys) if y > top), None)
    if left is None:
        return xs[-1], ys[-1]
    if left == 0:
        return xs[0], top
    # In the heights as they are drawn, so that the axis may be logarithmic.
    ends = axes.transData.transform([(1, ys[left - 1]), (1, ys[left])])[:, 1]
    height = axes.transAxes.transform((0, CROSS))[1]
    share = float((height - ends[0]) / (ends[1] - ends[0]))
    return xs[left - 1] + share * (xs[left] - xs[left - 1]), top


def limit(axes: Axes, lines: list[Line], tags: Sequence[str] = (VALIDATION,)) -> None:
    """Limits from the lowest point of these curves to the highest validation that counts.

    Of the colored runs all is shown; those that diverged must not squash the others.
    """
    good = [line for line in lines if not line.diverged] or lines
    colored = [line for line in good if line.style.is_colored] or good
    high = max(max(line.result.curves[VALIDATION].values) for line in colored)
    drawn = [line.result.curves[tag] for line in lines for tag in tags if tag in line.result.curves]
    low = min(min(curve.values) for curve in drawn)
    floor = common_floor([line.result for line in lines])
    show_between(axes, low if floor is None else min(low, floor), high)


def common_floor(results: list[Result]) -> float | None:
    """The floor that these runs have in common, of a generated text."""
    found = [r.curves[FLOOR].values[-1] for r in results if FLOOR in r.curves]
    if not found or len(found) < len(results) or max(found) > 1.001 * min(found):
        return None
    return fsum(found) / len(found)


def draw_floor(axes: Axes, results: list[Result]) -> None:
    floor = common_floor([result for result in results if VALIDATION in result.curves])
    if floor is not None:
        axes.axhline(floor, **OF_FLOOR.line())


def floor_in_legend(results: list[Result]) -> list[Line2D]:
    floor = common_floor([result for result in results if VALIDATION in result.curves])
    if floor is None:
        return []
    text = f"{show_perplexity(floor)}   floor: no model beats it on average"
    return [Line2D([], [], **OF_FLOOR.line(), label=text)]


def legend(lines: list[Line], results: list[Result]) -> list[Line2D]:
    handles = []
    for line in lines:
        if line.style.is_colored:
            text = f"{show_perplexity(line.result.perplexity)}   {line.label}"
            if line.result.status != "completed":
                text += f" ({line.result.status})"
            handles.append(Line2D([], [], **line.style.line(), label=text))
    others = [line for line in lines if not line.style.is_colored]
    if others:
        handles.append(Line2D([], [], **Style().line(), label=f"{len(others)} others"))
    if any(line.diverged for line in lines):
        handles.append(mark("x", "diverged here"))
    if sooner := sum(r.status == "diverged" and VALIDATION not in r.curves for r in results):
        handles.append(mark("", f"{sooner} diverged before the first validation"))
    return [*handles, *floor_in_legend(results), mark("*", "lowest")]


def legend_title(results: list[Result]) -> str:
    drawn = [result for result in results if VALIDATION in result.curves]
    heading, _ = labels(drawn, with_effect(differing(results)))
    return f"validation perplexity\n{heading}"


def mark(marker: str, text: str) -> Line2D:
    return Line2D([], [], marker=marker, markersize=8, linestyle="", color="#555555", label=text)
