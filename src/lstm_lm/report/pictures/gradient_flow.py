"""How much of a loss's gradient reaches back how far, before training and after it."""

from math import exp, fsum, log

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from lstm_lm.report.differences import about, contenders
from lstm_lm.report.pictures.drawing import decorate, legend_beside, new_figure, styles
from lstm_lm.saved.results import Result

LEAST, MOST = 1e-8, 1e8  # share of the gradient beyond which it has vanished, or exploded
BELOW = 1e-3 * LEAST  # where what is nothing at all is drawn, as a logarithm needs something
PANELS = {"start": "Before training", "end": "After training"}


def gradient_flow_plot(results: list[Result]) -> Figure | None:
    """A line for each model, or for each part of the state of a single one; None if not looked.

    Of a model with respect to what its last layer carries on: an LSTM's cell, else the hidden
    state.
    """
    looked = [result for result in results if tags(result, "end")]
    lines = {
        contender.label: [(result, carried(result)) for result in contender.results]
        for contender in contenders(looked)
    }
    title, state = "geometric mean over seeds,\nand their range", "hidden state, or an LSTM's cell"
    if len(looked) == 1:
        title, state = "with respect to", "state"
        lines = {part: [(looked[0], part)] for part in tags(looked[0], "end")}
    if not lines:
        return None
    figure = new_figure(12, 4.8, about(looked))
    both = figure.subplots(1, 2, sharey=True)
    drawn = styles(len(lines))
    highest = 10.0
    for axes, (when, heading) in zip(both, PANELS.items(), strict=True):
        axes.set_yscale("log")
        for runs_and_parts, style in zip(lines.values(), drawn, strict=True):
            every = (shares(run, when, part) for run, part in runs_and_parts)
            of_runs = [of_run for of_run in every if of_run]  # that were looked at then
            steps = sorted(set[int]().union(*of_runs))
            if steps and not any(of_run.get(steps[0]) for of_run in of_runs):
                del steps[0]  # a cell as it was handed on has no part in the last step's loss
            several = [
                [max(of_run[step], BELOW) for of_run in of_runs if step in of_run] for step in steps
            ]
            means = [exp(fsum(map(log, values)) / len(values)) for values in several]
            axes.plot(steps, means, **style.line(has_markers=False))
            low, high = ([bound(values) for values in several] for bound in (min, max))
            axes.fill_between(steps, low, high, color=style.color, alpha=0.2, linewidth=0)
            highest = max([highest, *high])
        axes.set_ylim(LEAST, min(highest, MOST))
        mark_what_is_recalled(axes, looked, is_named=axes is both[0])
        axes.yaxis.set_major_locator(LogLocator(numticks=12))
        decorate(axes, "steps back from the loss", None, heading)
    both[0].set_ylabel(
        f"norm of the gradient with respect to\nthe {state}, as a share of the last hidden state's"
    )
    handles = [
        Line2D([], [], **style.line(has_markers=False), label=name)
        for name, style in zip(lines, drawn, strict=True)
    ]
    legend_beside(figure, handles, title)
    return figure


def mark_what_is_recalled(axes: Axes, results: list[Result], is_named: bool) -> None:
    """Where the symbol was read that the loss is about, if it is the same place for all."""
    places = {(r.settings.get("data.text"), r.settings.get("data.lag")) for r in results}
    text, lag = places.pop()
    if text == "recall" and lag is not None and not places:
        axes.axvline(lag + 1, color="#555555", linewidth=1, linestyle=":")
        if is_named:  # above, where nothing is before training
            place = axes.get_xaxis_transform()
            text = "what is to be\nremembered"
            axes.text(lag + 2, 0.97, text, transform=place, va="top", color="#555555", fontsize=8)


def tags(result: Result, when: str) -> list[str]:
    """The parts of a run's state that were looked at."""
    start = f"gradient_flow/{when} "
    return [tag.removeprefix(start) for tag in result.curves if tag.startswith(start)]


def top_hidden(result: Result) -> str:
    return [part for part in tags(result, "end") if part.endswith("hidden")][-1]


def carried(result: Result) -> str:
    cell = top_hidden(result).replace("hidden", "cell")
    return cell if cell in tags(result, "end") else top_hidden(result)


def shares(result: Result, when: str, part: str) -> dict[int, float]:
    """By steps back, of the gradient with respect to what the output layer reads."""
    curve, last = (
        result.curves.get(f"gradient_flow/{when} {name}") for name in (part, top_hidden(result))
    )
    if curve is None or last is None or not last.at(0):
        return {}
    whole = last.values[0]
    return {step: value / whole for step, value in zip(curve.steps, curve.values, strict=True)}
