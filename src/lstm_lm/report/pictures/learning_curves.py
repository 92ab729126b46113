"""Learning curves: perplexity over epochs, over the text read, and over time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter

from lstm_lm.report.differences import common_settings, differing, labels, perplexity_text
from lstm_lm.report.pictures.drawing import (
    OTHERS,
    Style,
    decorate,
    draw_line,
    legend_beside,
    legend_line,
    legend_mark,
    limit_between,
    line_style,
    mean,
    new_panels,
    styles,
)
from lstm_lm.saved.event_files import Curve, training_seconds
from lstm_lm.saved.results import Result
from lstm_lm.saved.run_folder import Status

VALIDATION = "validation/perplexity"
TRAINING = "train/perplexity"
FLOOR = "floor/perplexity"  # of a generated text: no model can be below it on average
OF_FLOOR = line_style("#000000", (0, (1, 1.5)), width=1.2)
OF_TRAINING = line_style("#D55E00", (0, (4, 2)), width=1.2)  # in the picture of a single run
LOGARITHMIC = 20.0  # ratio of the longest to the shortest run above which an axis is logarithmic
DRAWABLE = 1e6  # times the top of the axes: higher points cannot be drawn
CROSS = 0.97  # of the height of the axes: where lines that leave them are crossed


@dataclass
class Line:
    """A run with validations, and how it is drawn."""

    result: Result
    style: Style
    label: str

    @property
    def diverged(self) -> bool:
        return self.result.status == Status.diverged


def learning_curves(results: list[Result]) -> Figure | str:
    """Perplexity over epochs, or over steps if the steps per epoch are not known.

    Validation and training are side by side, and those of a single run in one panel.
    """
    lines, heading = lines_of(results)
    if not lines:
        return "no run has been validated"
    in_epochs = all(steps_per_epoch(line.result) for line in lines)
    unit = "epochs" if in_epochs else "optimizer steps"

    def position(line: Line) -> Callable[[int], float]:
        unit_steps = (in_epochs and steps_per_epoch(line.result)) or 1
        return lambda step: step / unit_steps

    is_single = len(lines) == 1
    title = common_settings(results)
    figure, panels = new_panels(1, 7.5, title, 4.5) if is_single else new_panels(2, 13, title)
    limit(panels[0], lines, (VALIDATION, TRAINING))
    for line in reversed(lines):
        draw(panels[-1], line, TRAINING, position(line), OF_TRAINING if is_single else line.style)
        draw(panels[0], line, VALIDATION, position(line), line.style)
    floor = draw_floor(panels, results)
    training = "training, while the weights move"
    if is_single:
        decorate(panels[0], unit, y_label(results), lines[0].result.name)
        handles = [legend_line(lines[0].style, "validation"), legend_line(OF_TRAINING, training)]
        handles += [*floor, legend_mark("*", "lowest")]
        panels[0].legend(handles=handles, frameon=False, fontsize=8)
    else:
        decorate(panels[0], unit, y_label(results), "Validation")
        decorate(panels[1], unit, None, training.capitalize())
        legend_beside(figure, legend(lines, results, floor), heading)
    return figure


def tokens_and_seconds(results: list[Result]) -> Figure | None:
    """Perplexity over what it cost: text that was read, and time."""
    lines, heading = lines_of(results)
    tokens, seconds = {}, {}
    for line in lines:
        if (cost := training_seconds(line.result.curves)) is not None:
            tokens[id(line)], seconds[id(line)] = line.result.curves["tokens"], cost
    lines = [line for line in lines if id(line) in seconds]
    if not lines:
        return None
    figure, [left, right] = new_panels(2, 13, common_settings(results))
    limit(left, lines)
    for axes, costs in (left, tokens), (right, seconds):
        for line in reversed(lines):
            draw(axes, line, VALIDATION, costs[id(line)].at, line.style)
        ends = [costs[id(line)].values[-1] for line in lines]
        if min(ends) > 0 and max(ends) / min(ends) > LOGARITHMIC:
            axes.set_xscale("log")
    floor = draw_floor([left, right], results)
    left.xaxis.set_major_formatter(EngFormatter(sep=""))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    time = "seconds of training, without validation and interruptions"
    decorate(left, "tokens of training text read", y_label(results), "Validation, over text")
    decorate(right, time, None, "Validation, over time")
    legend_beside(figure, legend(lines, results, floor), heading)
    return figure


def lines_of(results: list[Result]) -> tuple[list[Line], str]:
    """A line for each validated run, the best first, and a heading for their labels."""
    validated = [result for result in results if VALIDATION in result.curves]
    heading, texts = labels(validated, differing(results))
    lines = [Line(*parts) for parts in zip(validated, styles(len(validated)), texts, strict=True)]
    return lines, f"validation perplexity\n{heading}"


def draw(
    axes: Axes, line: Line, tag: str, position: Callable[[int], float | None], style: Style
) -> None:
    """Draw a curve of a run over the positions of its steps. Limits must have been set."""
    curve = line.result.curves.get(tag, Curve([], []))
    highest = DRAWABLE * axes.get_ylim()[1]
    points = [
        (x, min(y, highest))
        for step, y in zip(curve.steps, curve.values, strict=True)
        if (x := position(step)) is not None
    ]
    if not points:
        return
    xs, ys = zip(*points, strict=True)
    draw_line(axes, xs, ys, style if tag == VALIDATION else style | {"marker": ""})
    if tag == VALIDATION and style is not OTHERS:
        x, y = min(points, key=lambda point: point[1])
        (star,) = axes.plot(x, y, "*", color=style["color"], zorder=style["zorder"] + 100)
        star.set(markersize=11, markeredgecolor="white")
    if line.diverged:
        x, y = last_point_inside(axes, xs, ys)
        axes.plot(x, y, "x", color=style["color"], markersize=8, markeredgewidth=2, zorder=300)


def last_point_inside(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """The point where a line leaves the axes through their top, else its last point."""
    top = axes.transData.inverted().transform(axes.transAxes.transform((0, CROSS)))[1]
    left = next((index for index, y in enumerate(ys) if y > top), None)
    if left is None:
        return xs[-1], ys[-1]
    if left == 0:
        return xs[0], top
    # Interpolate between heights as drawn, since the axis may be logarithmic.
    ends = [(1, ys[left - 1]), (1, top), (1, ys[left])]
    before, at_top, after = axes.transData.transform(ends)[:, 1]
    return np.interp(at_top, [before, after], xs[left - 1 : left + 1]), top


def limit(axes: Axes, lines: list[Line], tags: Sequence[str] = (VALIDATION,)) -> None:
    """Set limits from the lowest point of these curves to the highest validation that counts.

    Colored runs are shown whole. Diverged runs do not count, so they cannot squash the others.
    """
    good = [line for line in lines if not line.diverged] or lines
    colored = [line for line in good if line.style is not OTHERS] or good
    high = max(max(line.result.curves[VALIDATION].values) for line in colored)
    all_curves = [line.result.curves for line in lines]
    low = min(min(curves[tag].values) for curves in all_curves for tag in tags if tag in curves)
    limit_between(axes, min(low, common_floor([line.result for line in lines]) or low), high)


def common_floor(results: list[Result]) -> float | None:
    """The floor of a generated text, if it is the same for all validated runs."""
    validated = [result.curves for result in results if VALIDATION in result.curves]
    found = [curves[FLOOR].values[-1] for curves in validated if FLOOR in curves]
    if not found or len(found) < len(validated) or max(found) > 1.001 * min(found):
        return None
    return mean(found)


def draw_floor(panels: Sequence[Axes], results: list[Result]) -> list[Line2D]:
    """Draw the floor, if there is one; returns its entry in the legend."""
    floor = common_floor(results)
    if floor is None:
        return []
    for axes in panels:
        axes.axhline(floor, **OF_FLOOR)
    text = f"{perplexity_text(floor)}   floor: no model beats it on average"
    return [legend_line(OF_FLOOR, text)]


def legend(lines: list[Line], results: list[Result], floor: list[Line2D]) -> list[Line2D]:
    handles = []
    for line in lines:
        if line.style is not OTHERS:
            text = f"{perplexity_text(line.result.perplexity)}   {line.label}"
            if line.result.status != Status.completed:
                text += f" ({line.result.status})"
            handles.append(legend_line(line.style, text))
    if others := len(lines) - len(handles):
        handles.append(legend_line(OTHERS, f"{others} others"))
    if any(line.diverged for line in lines):
        handles.append(legend_mark("x", "diverged here"))
    if sooner := sum(r.status == Status.diverged and VALIDATION not in r.curves for r in results):
        handles.append(legend_mark("", f"{sooner} diverged before the first validation"))
    return [*handles, *floor, legend_mark("*", "lowest")]


def steps_per_epoch(result: Result) -> float | None:
    """None if the first validation may have come before an epoch's end, as the last one does."""
    steps = result.curves[VALIDATION].steps
    every = result.settings.get("training.validate_every")
    if every is None:
        return None
    is_regular = len(steps) > 1 or result.summary.get("epochs", 0) >= every
    return steps[0] / every if is_regular else None


def y_label(results: list[Result]) -> str:
    levels = {result.settings.get("data.level") for result in results} - {None}
    return f"perplexity per {levels.pop()}" if len(levels) == 1 else "perplexity"
