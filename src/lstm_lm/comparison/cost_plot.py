"""What a perplexity costs: parameters, and time to train."""

from math import fsum

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from lstm_lm.comparison.axes import decorate, legend_beside, new_figure
from lstm_lm.comparison.contenders import Contender, contenders
from lstm_lm.comparison.differences import about
from lstm_lm.comparison.line_styles import Style, styles
from lstm_lm.comparison.plots import y_label
from lstm_lm.comparison.results import Result

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
