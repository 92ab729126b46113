"""How well a symbol is remembered, against how long ago it was."""

from math import exp, fsum

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from lstm_lm.comparison.axes import decorate, legend_beside, new_figure
from lstm_lm.comparison.contenders import Contender, contenders
from lstm_lm.comparison.line_styles import styles
from lstm_lm.comparison.results import Result
from lstm_lm.data.generated import REMEMBERED

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
