"""The mean over seeds, and how far the seeds lie apart."""

import json
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lstm_lm.sweep.axes import decorate, legend_beside, new_figure, shortened, show_between
from lstm_lm.sweep.differences import about, differing, heading, label, show_perplexity, with_effect
from lstm_lm.sweep.line_styles import FEW_POINTS, styles
from lstm_lm.sweep.lines import VALIDATION
from lstm_lm.sweep.plots import y_label
from lstm_lm.sweep.results import Result


def seed_groups(results: list[Result]) -> list[list[Result]]:
    """Runs that differ in nothing but their seeds, if there are several seeds."""
    names = [name for name in with_effect(differing(results)) if name != "seed"]
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.settings:
            key = json.dumps([result.settings.get(name) for name in names])
            groups.setdefault(key, []).append(result)
    return [group for group in groups.values() if len({r.settings.get("seed") for r in group}) > 1]


def seed_plot(results: list[Result]) -> Figure | None:
    """A line and a band for each group; runs that diverged or failed are counted, not drawn."""
    names = [name for name in with_effect(differing(results)) if name != "seed"]
    groups = []
    for group in seed_groups(results):
        drawn = [
            r.curves[VALIDATION]
            for r in group
            if r.status not in ("diverged", "failed") and VALIDATION in r.curves
        ]
        steps = sorted(set.intersection(*(set(curve.steps) for curve in drawn))) if drawn else []
        if len(drawn) > 1 and steps:
            values = [[curve.at(step) or 0.0 for curve in drawn] for step in steps]
            groups.append((group, steps, values))
    if not groups:
        return None
    figure = new_figure(10, 4.8, about(results))
    axes = figure.add_subplot()
    handles = []
    groups.sort(key=lambda found: min(map(fmean, found[2])))
    for (group, steps, values), style in zip(groups, styles(len(groups)), strict=True):
        means = [fmean(of_step) for of_step in values]
        line = style.line(len(steps) <= FEW_POINTS)
        axes.plot(steps, means, **line)
        lows, highs = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(steps, lows, highs, color=style.color, alpha=0.25, linewidth=0)
        if style.is_colored:
            count = f"({len(values[0])} of {len(group)} seeds)"
            what = label(group[0], names) if names else "all"
            text = f"{show_perplexity(min(means))}   {shortened(what)} {count}"
            handles.append(Line2D([], [], **line, label=text))
    decorate(
        axes,
        "optimizer steps",
        f"validation {y_label(results)}",
        "Mean over seeds; the band reaches from the lowest to the highest seed",
    )
    show_between(axes, [v for _, _, values in groups for of_step in values for v in of_step])
    legend_beside(figure, handles, f"lowest mean\n{heading(names)}")
    return figure
