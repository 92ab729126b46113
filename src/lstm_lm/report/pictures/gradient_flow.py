"""A picture of how far the gradient of a loss reaches back, before and after training."""

from collections.abc import Sequence
from math import exp, fsum, log

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from lstm_lm.report.differences import common_settings, completed_groups
from lstm_lm.report.pictures.drawing import (
    decorate,
    draw_means,
    legend_beside,
    legend_line,
    new_panels,
    styles,
)
from lstm_lm.saved.results import Result

LEAST, MOST = 1e-8, 1e8  # share of the gradient beyond which it has vanished, or exploded
ZERO = 1e-3 * LEAST  # drawn in place of 0, which has no logarithm
PANELS = {"start": "Before training", "end": "After training"}


def gradient_flow_plot(results: list[Result]) -> Figure | None:
    """A line for each model, or for each part of the state of a single run.

    Of a model it is the gradient with respect to the state that its last layer carries on: an
    LSTM's cell, else the hidden state. None if no run has inside views.
    """
    known = [result for result in results if parts(result, "end")]
    lines = {
        group.label: [(result, carried(result)) for result in group.results]
        for group in completed_groups(known)
    }
    title, state = "geometric mean over seeds,\nand their range", "hidden state, or an LSTM's cell"
    if len(known) == 1:
        title, state = "with respect to", "state"
        lines = {part: [(known[0], part)] for part in parts(known[0], "end")}
    if not lines:
        return None
    figure, panels = new_panels(2, 12, common_settings(known))
    looks = [style | {"marker": ""} for style in styles(len(lines))]
    highest = 10.0
    for axes, (when, heading) in zip(panels, PANELS.items(), strict=True):
        axes.set_yscale("log")
        for of_line, style in zip(lines.values(), looks, strict=True):
            points = shares_by_step([shares(run, when, part) for run, part in of_line])
            if points:
                draw_means(axes, points.items(), style, geometric_mean)
                highest = max(highest, *map(max, points.values()))
        axes.set_ylim(LEAST, min(highest, MOST))
        mark_recalled_symbol(axes, known, is_named=axes is panels[0])
        axes.yaxis.set_major_locator(LogLocator(numticks=12))
        decorate(axes, "steps back from the loss", None, heading)
    panels[0].set_ylabel(
        f"norm of the gradient with respect to\nthe {state}, as a share of the last hidden state's"
    )
    handles = [legend_line(style, name) for name, style in zip(lines, looks, strict=True)]
    legend_beside(figure, handles, title)
    return figure


def shares_by_step(runs: list[dict[int, float]]) -> dict[int, list[float]]:
    """For each step the shares of all runs that have it."""
    steps = sorted(set[int]().union(*runs))
    # The last step's loss does not depend on the cell that this step hands on.
    if steps and not any(run.get(steps[0]) for run in runs):
        del steps[0]
    return {step: [max(run[step], ZERO) for run in runs if step in run] for step in steps}


def geometric_mean(values: Sequence[float]) -> float:
    return exp(fsum(map(log, values)) / len(values))


def mark_recalled_symbol(axes: Axes, results: list[Result], is_named: bool) -> None:
    """Mark where the symbol was read that must be remembered, if that is the same for all."""
    recalls = {(r.settings.get("data.text"), r.settings.get("data.lag")) for r in results}
    text, lag = recalls.pop()
    if text == "recall" and lag is not None and not recalls:
        axes.axvline(lag + 1, color="#555555", linewidth=1, linestyle=":")
        if is_named:  # at the top, where no line runs before training
            text, top = "what is to be\nremembered", axes.get_xaxis_transform()
            axes.text(lag + 2, 0.97, text, transform=top, va="top", color="#555555", fontsize=8)


def parts(result: Result, when: str) -> list[str]:
    """The parts of a run's state with a gradient flow."""
    start = f"gradient_flow/{when} "
    return [tag.removeprefix(start) for tag in result.curves if tag.startswith(start)]


def top_hidden(result: Result) -> str:
    return [part for part in parts(result, "end") if part.endswith("hidden")][-1]


def carried(result: Result) -> str:
    cell = top_hidden(result).replace("hidden", "cell")
    return cell if cell in parts(result, "end") else top_hidden(result)


def shares(result: Result, when: str, part: str) -> dict[int, float]:
    """Norms by steps back, as shares of that at the hidden state which the output layer reads."""
    curve, last = (
        result.curves.get(f"gradient_flow/{when} {name}") for name in (part, top_hidden(result))
    )
    if curve is None or last is None or not last.at(0):
        return {}
    whole = last.values[0]
    return {step: value / whole for step, value in zip(curve.steps, curve.values, strict=True)}
