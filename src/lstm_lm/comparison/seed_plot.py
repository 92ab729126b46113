"""The mean over seeds, and how far the seeds lie apart."""

import json
from dataclasses import dataclass
from math import fsum

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lstm_lm.comparison.axes import (
    SPANS_DECADES,
    decorate,
    legend_beside,
    new_figure,
    show_between,
)
from lstm_lm.comparison.differences import about, differing, labels, show_perplexity, with_effect
from lstm_lm.comparison.line_styles import FEW_POINTS, Style, styles
from lstm_lm.comparison.lines import VALIDATION, common_floor, draw_floor, floor_in_legend
from lstm_lm.comparison.plots import y_label
from lstm_lm.comparison.results import Result


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
