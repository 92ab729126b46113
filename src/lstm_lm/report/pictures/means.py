"""Pictures of means over seeds: curves, success against lag, and perplexity against cost."""

import json
from dataclasses import dataclass
from math import exp, fsum

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, NullLocator

from lstm_lm.data.generated import REMEMBERED
from lstm_lm.report.differences import (
    Contender,
    about,
    contenders,
    differing,
    labels,
    show_perplexity,
    with_effect,
)
from lstm_lm.report.pictures.drawing import (
    FEW_POINTS,
    SPANS_DECADES,
    Style,
    decorate,
    legend_beside,
    new_figure,
    show_between,
    styles,
)
from lstm_lm.report.pictures.learning_curves import y_label
from lstm_lm.report.pictures.lines import VALIDATION, common_floor, draw_floor, floor_in_legend
from lstm_lm.saved.results import Result


@dataclass
class Seeds:
    """Runs that differ in nothing but their seeds."""

    results: list[Result]
    steps: list[int]  # at which all were validated that are drawn
    values: list[list[float]]  # of each step, one of each run

    @property
    def means(self) -> list[float]:
        return [fsum(value / len(values) for value in values) for values in self.values]


def seed_plot(results: list[Result]) -> Figure | None:
    """A line and a band for each choice of the other settings; None without several seeds."""
    names = [name for name in with_effect(differing(results)) if name != "seed"]
    groups = sorted(seed_groups(results, names), key=lambda seeds: min(seeds.means))
    if not groups:
        return None
    figure = new_figure(10, 4.8, about(results))
    axes = figure.add_subplot()
    # Groups far worse than the best may leave through the top.
    near = [g for g in groups if min(g.means) <= SPANS_DECADES * min(groups[0].means)]
    floor = common_floor(results)
    least = min(map(lowest, groups))
    show_between(axes, least if floor is None else min(least, floor), max(map(highest, near)))
    draw_floor(axes, results)
    top = 10 * axes.get_ylim()[1]  # far higher points cannot be drawn
    handles = []
    heading, texts = labels([seeds.results[0] for seeds in groups], names)
    if not names:
        heading, texts = "", [""]
    for seeds, text, style in zip(groups, texts, styles(len(groups)), strict=True):
        line = style.line(len(seeds.steps) <= FEW_POINTS)
        axes.plot(seeds.steps, [min(mean, top) for mean in seeds.means], **line)
        low, high = ([min(bound(v), top) for v in seeds.values] for bound in (min, max))
        axes.fill_between(seeds.steps, low, high, color=style.color, alpha=0.25, linewidth=0)
        if style.is_colored:
            count = f"{len(seeds.values[0])} of {len(seeds.results)} seeds"
            text = f"{show_perplexity(min(seeds.means))}   {text} ({count})"
            handles.append(Line2D([], [], **line, label=text))
    if others := len(groups) - len(handles):
        handles.append(Line2D([], [], **Style().line(), label=f"{others} others"))
    handles += floor_in_legend(results)
    title = "Mean over seeds;\nthe band reaches from the lowest to the highest seed"
    decorate(axes, "optimizer steps", f"validation {y_label(results)}", title)
    legend_beside(figure, handles, f"lowest mean\n{heading}")
    return figure


def lowest(seeds: Seeds) -> float:
    return min(min(values) for values in seeds.values)


def highest(seeds: Seeds) -> float:
    return max(max(values) for values in seeds.values)


def seed_groups(results: list[Result], names: list[str]) -> list[Seeds]:
    """Those with two or more seeds to be drawn; what diverged or failed is only counted."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.settings:
            key = json.dumps([result.settings.get(name) for name in names])
            groups.setdefault(key, []).append(result)
    found = []
    for group in groups.values():
        sound = [result for result in group if result.status not in ("diverged", "failed")]
        curves = [result.curves[VALIDATION] for result in sound if VALIDATION in result.curves]
        if len({result.settings.get("seed") for result in group}) > 1 and len(curves) > 1:
            steps = sorted(set.intersection(*(set(curve.steps) for curve in curves)))
            values = [[curve.at(step) or 0.0 for curve in curves] for step in steps]
            found.append(Seeds(group, steps, values))
    return [seeds for seeds in found if seeds.steps]


LAG = "data.lag"
SUCCESS = 0.5  # mean probability of what is to be remembered, below which a model has failed


def memory_plot(results: list[Result]) -> Figure | None:
    """A line for each model over the lags of ``data=recall``; None without several lags."""
    recalls = [r for r in results if r.settings.get("data.text") == "recall" and success(r)]
    if len({result.settings[LAG] for result in recalls}) < 2:
        return None
    found = contenders(recalls, LAG, "data.text_sha256")
    figure = new_figure(9, 4.8, "Remembering one of eight symbols over other symbols")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    handles = []
    for contender, style in zip(found, styles(len(found)), strict=True):
        by_lag = successes(contender)
        lags = sorted(by_lag)
        means = [fsum(by_lag[lag]) / len(by_lag[lag]) for lag in lags]
        axes.plot(lags, means, **style.line())
        low, high = ([bound(by_lag[lag]) for lag in lags] for bound in (min, max))
        axes.fill_between(lags, low, high, color=style.color, alpha=0.15, linewidth=0)
        failed = [(lag, mean) for lag, mean in zip(lags, means, strict=True) if mean < SUCCESS]
        if failed:
            axes.plot(*failed[0], "x", color=style.color, zorder=300, ms=11, mew=2.5)
        end = f"fails at {failed[0][0]}" if failed else f"not up to {lags[-1]}"
        # Fewer where a run is not done, or diverged.
        counts = [len(by_lag[lag]) for lag in lags]
        seeds = "–".join(map(str, sorted({min(counts), max(counts)})))
        text = f"{contender.label}: {end} ({seeds} {'seed' if seeds == '1' else 'seeds'})"
        handles.append(Line2D([], [], **style.line(), label=text))
    ticks = sorted({result.settings[LAG] for result in recalls})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    guessing = 1 / len(REMEMBERED)
    axes.axhline(guessing, color="#777777", linewidth=1, linestyle=":")
    # Below, where no model's curve runs.
    axes.text(ticks[0], guessing - 0.03, "guessing", color="#777777", fontsize=8, va="top")
    axes.set_ylim(0, 1.03)
    title = "Mean over seeds; the band reaches from the lowest to the highest"
    y = "probability given to the symbol to be remembered\n(geometric mean over the test text)"
    decorate(axes, "symbols in between", y, title)
    handles.append(
        Line2D([], [], marker="x", linestyle="", color="#555555", label=f"below {SUCCESS}")
    )
    legend_beside(figure, handles, "first lag that fails")
    return figure


def success(result: Result) -> float | None:
    gap = result.summary.get("test/memory_gap")
    return None if gap is None else exp(-gap)


def successes(contender: Contender) -> dict[int, list[float]]:
    by_lag: dict[int, list[float]] = {}
    for result in contender.results:
        by_lag.setdefault(result.settings[LAG], []).append(success(result) or 0.0)
    return by_lag


SIZE = "model.hidden_size"


def cost_plot(results: list[Result]) -> Figure | None:
    """A line over sizes for each cell and other choice; None unless there are several of both."""
    known = [r for r in results if all(map(r.summary.get, ("parameters", "tokens_per_second")))]
    found = [contender for contender in contenders(known, SIZE) if len(sizes(contender)) > 1]
    if len({run.settings["model.cell"] for each in found for run in each.results}) < 2:
        return None
    figure = new_figure(12, 4.8, about(results))
    panels = {"trainable parameters": parameters, "seconds of training": seconds}
    drawn = styles(len(found))
    both = figure.subplots(1, 2, sharey=True)
    for axes, (unit, cost) in zip(both, panels.items(), strict=True):
        axes.set_xscale("log")
        for contender, style in zip(found, drawn, strict=True):
            for_each_size = sizes(contender).values()
            costs = [mean([cost(run) for run in runs]) for runs in for_each_size]
            draw(axes, costs, [[run.best or 0.0 for run in runs] for runs in for_each_size], style)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        decorate(axes, unit, None, f"Perplexity against {unit}")
    both[0].set_ylabel(f"validation {y_label(results)}")
    handles = [
        Line2D([], [], **style.line(), label=contender.label)
        for contender, style in zip(found, drawn, strict=True)
    ]
    every = sorted(set[int]().union(*map(sizes, found)))
    names = ", ".join(map(str, every))
    legend_beside(figure, handles, f"hidden size {names};\nmean over seeds, and their range")
    return figure


def draw(axes: Axes, costs: list[float], perplexities: list[list[float]], style: Style) -> None:
    means = [mean(values) for values in perplexities]
    low = [middle - min(values) for middle, values in zip(means, perplexities, strict=True)]
    high = [max(values) - middle for middle, values in zip(means, perplexities, strict=True)]
    axes.errorbar(costs, means, [low, high], **style.line(), capsize=3)


def sizes(contender: Contender) -> dict[int, list[Result]]:
    by_size: dict[int, list[Result]] = {}
    for result in sorted(contender.results, key=lambda result: result.settings[SIZE]):
        by_size.setdefault(result.settings[SIZE], []).append(result)
    return by_size


def parameters(result: Result) -> float:
    return float(result.summary["parameters"])


def seconds(result: Result) -> float:
    """Of training alone."""
    return float(result.summary["tokens"] / result.summary["tokens_per_second"])


def mean(values: list[float]) -> float:
    return fsum(values) / len(values)
