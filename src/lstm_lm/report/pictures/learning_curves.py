"""Pictures of how runs learned: over epochs, over the text read and over time."""

from collections.abc import Callable

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter

from lstm_lm.report.differences import about
from lstm_lm.report.pictures.drawing import Style, decorate, legend_beside, new_figure
from lstm_lm.report.pictures.lines import (
    TRAINING,
    VALIDATION,
    Line,
    draw,
    draw_floor,
    floor_in_legend,
    legend,
    legend_title,
    limit,
    lines_of,
    mark,
)
from lstm_lm.saved.event_files import Curve, training_seconds
from lstm_lm.saved.results import Result

LOGARITHMIC = 20.0  # from this ratio of the longest to the shortest run on
OF_TRAINING = Style("#D55E00", (0, (4, 2)), width=1.2)  # in the picture of a single run


def learning_curves(results: list[Result]) -> Figure | None:
    """Perplexity over epochs, or over steps where these are not known."""
    lines = lines_of(results)
    if not lines:
        return None
    per_epoch = {id(line): steps_per_epoch(line.result) for line in lines}
    in_epochs = all(per_epoch.values())
    unit = "epochs" if in_epochs else "optimizer steps"

    def position(line: Line, step: int) -> float:
        return step / ((per_epoch[id(line)] if in_epochs else None) or 1)

    if len(lines) == 1:
        return learning_curve(results, lines[0], position, unit)
    figure = new_figure(13, 4.8, about(results))
    left, right = figure.subplots(1, 2, sharey=True)
    limit(left, lines, (VALIDATION, TRAINING))
    for line in reversed(lines):
        draw(left, line, VALIDATION, position)
        draw(right, line, TRAINING, position)
    draw_floor(left, results)
    draw_floor(right, results)
    decorate(left, unit, y_label(results), "Validation")
    decorate(right, unit, None, "Training, while the weights move")
    legend_beside(figure, legend(lines, results), legend_title(results))
    return figure


def learning_curve(
    results: list[Result], line: Line, position: Callable[[Line, int], float], unit: str
) -> Figure:
    """That of a single run, both kinds in one."""
    figure = new_figure(7.5, 4.5, about(results))
    axes = figure.add_subplot()
    limit(axes, [line], (VALIDATION, TRAINING))
    draw(axes, line, TRAINING, position, OF_TRAINING)
    draw(axes, line, VALIDATION, position)
    draw_floor(axes, results)
    decorate(axes, unit, y_label(results), line.result.name)
    handles = [
        Line2D([], [], **line.style.line(), label="validation"),
        Line2D([], [], **OF_TRAINING.line(), label="training, while the weights move"),
        *floor_in_legend(results),
        mark("*", "lowest"),
    ]
    axes.legend(handles=handles, frameon=False, fontsize=8)
    return figure


def tokens_and_seconds(results: list[Result]) -> Figure | None:
    """Perplexity over what it cost: text that was read, and time."""
    lines = lines_of(results)
    tokens = {id(line): line.result.curves.get("tokens") for line in lines}
    seconds = {id(line): training_seconds(line.result.curves) for line in lines}
    lines = [line for line in lines if seconds[id(line)] is not None]
    if not lines:
        return None
    figure = new_figure(13, 4.8, about(results))
    left, right = figure.subplots(1, 2, sharey=True)
    limit(left, lines)
    for axes, costs in (left, tokens), (right, seconds):
        for line in reversed(lines):
            draw(axes, line, VALIDATION, at_cost(costs[id(line)]))
        draw_floor(axes, results)
        ends = [cost.values[-1] for line in lines if (cost := costs[id(line)])]
        if min(ends) > 0 and max(ends) / min(ends) > LOGARITHMIC:
            axes.set_xscale("log")
    left.xaxis.set_major_formatter(EngFormatter(sep=""))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    time = "seconds of training, without validation and interruptions"
    decorate(left, "tokens of training text read", y_label(results), "Validation, over text")
    decorate(right, time, None, "Validation, over time")
    legend_beside(figure, legend(lines, results), legend_title(results))
    return figure


def at_cost(cost: Curve | None) -> Callable[[Line, int], float | None]:
    return lambda _, step: cost.at(step) if cost else None


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
