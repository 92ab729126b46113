"""Means over seeds, in pictures that compare models.

seed_plot            learning curves
memory_plot          success against lag, for ``data=recall``
cost_plot            perplexity against parameters and time
gradient_flow_plot   how far the gradient of a loss reaches back, before and after training
"""

from collections.abc import Sequence
from math import exp, fsum, log

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, NullLocator

from lstm_lm.data.generated import REMEMBERED
from lstm_lm.report.differences import (
    Group,
    by_key,
    common_settings,
    completed_groups,
    group_runs,
    labels,
    perplexity_text,
)
from lstm_lm.report.pictures.drawing import (
    DECADES,
    OTHERS,
    decorate,
    draw_means,
    legend_beside,
    legend_line,
    legend_mark,
    limit_between,
    mean,
    new_panels,
    styles,
)
from lstm_lm.report.pictures.learning_curves import (
    DRAWABLE,
    VALIDATION,
    common_floor,
    draw_floor,
    y_label,
)
from lstm_lm.saved.results import Result
from lstm_lm.saved.run_folder import Status

SIZE = "model.hidden_size"
LAG = "data.lag"
SUCCESS = 0.5  # mean probability of the symbol to be remembered; a model below it has failed
LEAST, MOST = 1e-8, 1e8  # share of the gradient beyond which it has vanished, or exploded
ZERO = 1e-3 * LEAST  # drawn in place of 0, which has no logarithm
PANELS = {"start": "Before training", "end": "After training"}


def seed_plot(results: list[Result]) -> Figure | None:
    """A line and a band for each combination of other settings; None without several seeds."""
    drawn = [(group, values) for group in group_runs(results) if (values := seed_values(group))]
    if not drawn:
        return None
    drawn.sort(key=lambda pair: lowest_mean(pair[1]))
    figure, [axes] = new_panels(1, 10, common_settings(results))
    low = min(min(map(min, values.values())) for _, values in drawn)
    # Groups far worse than the best may leave through the top.
    limit_of_mean = DECADES * lowest_mean(drawn[0][1])
    near = [values for _, values in drawn if lowest_mean(values) <= limit_of_mean]
    high = max(max(map(max, values.values())) for values in near)
    limit_between(axes, min(low, common_floor(results) or low), high)
    floor = draw_floor([axes], results)
    names = list(drawn[0][0].settings)
    heading, texts = labels([group.results[0] for group, _ in drawn], names)
    if not names:
        heading, texts = "", [""]
    handles = []
    highest = DRAWABLE * axes.get_ylim()[1]
    for (group, values), text, style in zip(drawn, texts, styles(len(drawn)), strict=True):
        points = [(step, [min(v, highest) for v in of_runs]) for step, of_runs in values.items()]
        draw_means(axes, points, style)
        if style is not OTHERS:
            count = f"{len(points[0][1])} of {len(group.results)} seeds"
            text = f"{perplexity_text(lowest_mean(values))}   {text} ({count})"
            handles.append(legend_line(style, text))
    if others := len(drawn) - len(handles):
        handles.append(legend_line(OTHERS, f"{others} others"))
    title = "Mean over seeds;\nthe band reaches from the lowest to the highest seed"
    decorate(axes, "optimizer steps", f"validation {y_label(results)}", title)
    legend_beside(figure, [*handles, *floor], f"lowest mean\n{heading}")
    return figure


def seed_values(group: Group) -> dict[int, list[float]]:
    """The perplexities at each step that all have in common; empty without two seeds.

    Diverged and failed runs are left out.
    """
    sound = [r for r in group.results if r.status not in (Status.diverged, Status.failed)]
    curves = [result.curves[VALIDATION] for result in sound if VALIDATION in result.curves]
    if len({result.settings.get("seed") for result in group.results}) < 2 or len(curves) < 2:
        return {}
    steps = set.intersection(*(set(curve.steps) for curve in curves))
    return {step: [curve.at(step) or 0.0 for curve in curves] for step in sorted(steps)}


def lowest_mean(values: dict[int, list[float]]) -> float:
    return min(map(mean, values.values()))


def memory_plot(results: list[Result]) -> Figure | None:
    """A line for each model over the lags of ``data=recall``; None without several lags."""
    recalls = [r for r in results if r.settings.get("data.text") == "recall" and success(r)]
    ticks = sorted({result.settings[LAG] for result in recalls})
    if len(ticks) < 2:
        return None
    groups = completed_groups(recalls, LAG, "data.text_sha256")
    title = "Remembering one of eight symbols over other symbols"
    figure, [axes] = new_panels(1, 9, title)
    axes.set_xscale("log")
    handles = []
    for group, style in zip(groups, styles(len(groups)), strict=True):
        by_lag = sorted(by_key(group.results, lambda run: run.settings[LAG]).items())
        points = [(lag, [success(run) or 0.0 for run in runs]) for lag, runs in by_lag]
        means = draw_means(axes, points, style)
        lags = [lag for lag, _ in points]
        failed = next((pair for pair in zip(lags, means, strict=True) if pair[1] < SUCCESS), None)
        if failed:
            axes.plot(*failed, "x", color=style["color"], zorder=300, ms=11, mew=2.5)
        end = f"fails at {failed[0]}" if failed else f"not up to {lags[-1]}"
        # Fewer seeds where a run is not completed, or diverged.
        counts = sorted(len(of_seeds) for _, of_seeds in points)
        seeds = "–".join(map(str, sorted({counts[0], counts[-1]})))
        text = f"{group.label}: {end} ({seeds} {'seed' if seeds == '1' else 'seeds'})"
        handles.append(legend_line(style, text))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    guessing = 1 / len(REMEMBERED)
    axes.axhline(guessing, color="#777777", linewidth=1, linestyle=":")
    # Below the line, where no model's curve runs.
    axes.text(ticks[0], guessing - 0.03, "guessing", color="#777777", fontsize=8, va="top")
    axes.set_ylim(0, 1.03)
    title = "Mean over seeds; the band reaches from the lowest to the highest"
    y = "probability given to the symbol to be remembered\n(geometric mean over the test text)"
    decorate(axes, "symbols in between", y, title)
    handles.append(legend_mark("x", f"below {SUCCESS}"))
    legend_beside(figure, handles, "first lag that fails")
    return figure


def success(result: Result) -> float | None:
    gap = result.summary.get("test/memory_gap")
    return None if gap is None else exp(-gap)


def cost_plot(results: list[Result]) -> Figure | None:
    """A line over sizes for each model; None unless there are several cells and sizes."""
    known = [r for r in results if all(map(r.summary.get, ("parameters", "tokens_per_second")))]
    models = []  # labels, and their runs of each size
    for group in completed_groups(known, SIZE):
        sizes = by_key(group.results, lambda run: run.settings[SIZE])
        if len(sizes) > 1:
            models.append((group.label, dict(sorted(sizes.items()))))
    every = [run for _, sizes in models for runs in sizes.values() for run in runs]
    if len({run.settings["model.cell"] for run in every}) < 2:
        return None
    figure, panels = new_panels(2, 12, common_settings(results))
    looks = styles(len(models))
    costs = {"trainable parameters": parameters, "seconds of training": seconds}
    for axes, (unit, cost) in zip(panels, costs.items(), strict=True):
        axes.set_xscale("log")
        for (_, sizes), style in zip(models, looks, strict=True):
            points = [
                (mean([cost(run) for run in runs]), [run.best or 0.0 for run in runs])
                for runs in sizes.values()
            ]
            draw_means(axes, points, style, as_bars=True)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        decorate(axes, unit, None, f"Perplexity against {unit}")
    panels[0].set_ylabel(f"validation {y_label(results)}")
    handles = [legend_line(style, name) for (name, _), style in zip(models, looks, strict=True)]
    names = ", ".join(map(str, sorted({run.settings[SIZE] for run in every})))
    legend_beside(figure, handles, f"hidden size {names};\nmean over seeds, and their range")
    return figure


def parameters(result: Result) -> float:
    return float(result.summary["parameters"])


def seconds(result: Result) -> float:
    """Seconds of training alone."""
    return float(result.summary["tokens"] / result.summary["tokens_per_second"])


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
