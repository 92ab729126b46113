"""The pictures of what models remember, cost and let through, as far as a program can look."""

from math import log
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lstm_lm.report.differences import completed_groups
from lstm_lm.report.pictures.learning_curves import learning_curves, tokens_and_seconds
from lstm_lm.report.pictures.means import cost_plot, gradient_flow_plot, memory_plot, seed_plot
from lstm_lm.report.tables import columns, explanation
from lstm_lm.saved.event_files import Curve
from lstm_lm.saved.results import Result
from lstm_lm.saved.run_folder import Status

CELL, SIZE, LAG = "model.cell", "model.hidden_size", "data.lag"
SETTINGS = {
    "seed": 0,
    "data.text": "recall",
    "data.level": "character",
    LAG: 10,
    CELL: "lstm",
    SIZE: 64,
    "model.forget_bias": None,
    "training.validate_every": 1,
}


def result(changed=None, best=4.0, status="completed", curves=None, **summary):
    found = {"best/validation/perplexity": best, "parameters": 1000, "tokens": 5000}
    found |= {"tokens_per_second": 100.0} | summary
    if status != "completed":
        del found["best/validation/perplexity"]
    made = {tag: Curve(list(range(len(v))), list(v)) for tag, v in (curves or {}).items()}
    return Result(Path("run"), "run", Status(status), SETTINGS | (changed or {}), found, made)


def drawn(figure):
    """The figure, drawn once, which is when Matplotlib warns."""
    FigureCanvasAgg(figure).draw()
    return figure


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines_of(axes):
    return {
        line.get_color(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if len(line.get_xdata()) > 1 and line.get_linestyle() == "-"
    }


def solid(axes):
    return [line for line in axes.lines if line.get_linestyle() == "-"]


def recalled(probability, **changed):
    return result(
        {name.replace("__", "."): value for name, value in changed.items()},
        **{"test/memory_gap": -log(probability)},
    )


def test_groups_differ_in_more_than_seeds_and_are_named_by_little():
    runs = [
        result({CELL: "rnn", SIZE: 64, "seed": 0}),
        result({CELL: "rnn", SIZE: 64, "seed": 1}),
        result({CELL: "lstm", SIZE: 32}),
        result({CELL: "lstm", SIZE: 32, "model.forget_bias": 2.0}),
        result({CELL: "gru", SIZE: 32}, status="failed"),
    ]
    found = completed_groups(runs)
    assert [c.label for c in found] == ["lstm", "lstm, forget bias 2", "rnn"]
    assert [len(c.results) for c in found] == [1, 1, 2]
    assert [c.label for c in completed_groups(runs[2:3])] == ["all runs"]
    assert len(completed_groups([result({SIZE: size}) for size in range(1, 20)])) == 19


def test_success_falls_with_the_lag_until_it_fails():
    runs = [
        recalled(p, model__cell=cell, data__lag=lag, seed=seed, data__text_sha256=str(lag))
        for cell, by_lag in {"rnn": {5: 0.9, 10: 0.3}, "gru": {5: 0.95, 10: 0.9}}.items()
        for lag, p in by_lag.items()
        for seed in (0, 1)
    ]
    runs.append(recalled(0.5, model__cell="rnn", data__lag=5, seed=2, data__text_sha256="5"))
    figure = drawn(memory_plot(runs))
    assert legend_of(figure) == [
        "gru: not up to 10 (2 seeds)",
        "rnn: fails at 10 (2–3 seeds)",
        "below 0.5",
    ]
    gru, rnn = lines_of(figure.axes[0]).values()
    assert gru[0] == rnn[0] == [5, 10]
    assert gru[1] == pytest.approx([0.95, 0.9])
    assert rnn[1] == pytest.approx([(0.9 + 0.9 + 0.5) / 3, 0.3])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["5", "10"]


def test_without_several_lags_there_is_no_picture_of_memory():
    assert memory_plot([recalled(0.9), recalled(0.8, seed=1)]) is None
    assert memory_plot([recalled(0.9, data__lag=1), result({LAG: 2})]) is None
    reber = {"data__text": "embedded_reber"}
    assert memory_plot([recalled(0.9, data__lag=lag, **reber) for lag in (1, 2)]) is None


def flow(end, start=(2.0, 1.0, 0.5), part="layer 1 hidden"):
    return {f"gradient_flow/start {part}": start, f"gradient_flow/end {part}": end}


def test_gradients_are_shares_of_the_last_and_seeds_are_taken_together():
    runs = [
        result({"seed": 0}, curves=flow([4.0, 4.0, 4.0])),
        result({"seed": 1}, curves=flow([4.0, 1.0, 0.04])),
        result({CELL: "rnn"}, curves=flow([1.0, 0.5, 0.0])),
    ]
    figure = drawn(gradient_flow_plot(runs))
    assert legend_of(figure) == ["lstm", "rnn"]
    before, after = (list(lines_of(axes).values()) for axes in figure.axes)
    assert before[0] == ([0, 1, 2], pytest.approx([1, 0.5, 0.25]))
    assert after[0] == ([0, 1, 2], pytest.approx([1, 0.5, 0.1]))  # geometric means
    assert after[1] == ([0, 1, 2], pytest.approx([1, 0.5, 1e-11]))  # nothing is left: far below


def test_a_seed_that_was_not_looked_at_before_training_hides_no_other():
    late = {"gradient_flow/end layer 1 hidden": [1.0, 1000.0]}  # looked at since it went on
    figure = drawn(gradient_flow_plot([result(curves=flow([1.0, 10.0])), result(curves=late)]))
    before, after = (solid(axes)[0].get_ydata() for axes in figure.axes)
    assert list(before) == pytest.approx([1, 0.5, 0.25])
    assert list(after) == pytest.approx([1, 100])
    assert figure.axes[1].get_ylim()[1] == 1000  # what explodes stays in the picture


def test_of_a_single_run_all_parts_are_drawn():
    curves = flow([4.0, 2.0]) | flow([0.0, 1.0], (0.0, 1.0), "layer 1 cell")
    figure = drawn(gradient_flow_plot([result(curves=curves)]))
    assert legend_of(figure) == ["layer 1 hidden", "layer 1 cell"]
    hidden, cell = (line.get_ydata() for line in solid(figure.axes[1]))
    assert list(hidden) == pytest.approx([1, 0.5]) and list(cell) == pytest.approx([0.25])


def test_of_several_lstms_the_cell_is_followed():
    curves = flow([4.0, 2.0]) | flow([0.0, 1.0], (0.0, 1.0), "layer 1 cell")
    figure = drawn(gradient_flow_plot([result({"seed": seed}, curves=curves) for seed in (0, 1)]))
    (cell,) = solid(figure.axes[1])
    assert (list(cell.get_xdata()), list(cell.get_ydata())) == ([1], pytest.approx([0.25]))


def test_what_exploded_beyond_a_number_moves_no_other_point():
    gone, whole = result({"seed": 0}), result({"seed": 1}, curves=flow([1.0, 1.0, 0.1]))
    gone.curves["gradient_flow/end layer 1 hidden"] = Curve([0, 2, 3], [1.0, 10.0, 5.0])
    runs = [gone, whole]
    (line,) = solid(drawn(gradient_flow_plot(runs)).axes[1])
    assert list(line.get_ydata()) == pytest.approx([1, 1, 1, 5])


def test_the_uppermost_layer_stands_for_a_deep_model():
    deep = flow([1.0, 0.5]) | flow([2.0, 0.5], part="layer 2 hidden")
    runs = [result(curves=deep), result({CELL: "rnn"}, curves=deep)]
    axes = drawn(gradient_flow_plot(runs)).axes[1]
    assert [list(line.get_ydata()) for line in solid(axes)] == [[1.0, 0.25]] * 2
    (mark,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert list(mark.get_xdata()) == [11, 11]  # where the symbol was read that is recalled


def test_runs_that_were_not_looked_into_have_no_gradients():
    assert gradient_flow_plot([result(), result({CELL: "rnn"})]) is None


def test_costs_are_drawn_over_sizes():
    runs = [
        result({CELL: cell, SIZE: size, "seed": seed}, 5.0 - size / 100 + seed, parameters=size)
        for cell in ("gru", "lstm")
        for size in (64, 128)
        for seed in (0, 1)
    ]
    figure = drawn(cost_plot(runs))
    assert legend_of(figure) == ["gru", "lstm"]
    by_parameters, by_seconds = (next(iter(lines_of(axes).values())) for axes in figure.axes)
    assert by_parameters == ([64, 128], pytest.approx([4.86, 4.22]))
    assert by_seconds[0] == pytest.approx([50, 50])
    killed = result({CELL: "rnn"}, status="running", tokens_per_second=None)  # in its first epoch
    del killed.summary["tokens_per_second"]
    assert legend_of(drawn(cost_plot([*runs, killed]))) == ["gru", "lstm"]
    assert cost_plot([run for run in runs if run.settings[CELL] == "gru"]) is None
    assert cost_plot([run for run in runs if run.settings[SIZE] == 64]) is None


def curved(floor=1.5, **changed):
    curves = {"validation/perplexity": [3.0, 2.0], "floor/perplexity": [floor] * 2}
    curves |= {"tokens": [100.0, 200.0], "tokens_per_second": [10.0, 10.0]}
    return result({name.replace("__", "."): v for name, v in changed.items()}, curves=curves)


@pytest.mark.parametrize("picture", [learning_curves, tokens_and_seconds, seed_plot])
def test_the_floor_is_a_line_below_all_others(picture):
    runs = [curved(seed=0), curved(seed=1)]
    figure = drawn(picture(runs))
    assert "1.500   floor: no model beats it on average" in legend_of(figure)
    for axes in figure.axes:
        assert [1.5, 1.5] in [list(line.get_ydata()) for line in axes.lines]
        assert axes.get_ylim()[0] < 1.5
    assert not any("floor" in text for text in legend_of(drawn(picture([*runs, curved(2.0)]))))


def test_the_floor_is_in_the_picture_of_a_single_run():
    axes = drawn(learning_curves([curved()])).axes[0]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "1.500   floor: no model beats it on average" in texts


def test_the_table_has_the_floor_where_there_is_one():
    summary = {"test/floor": 0.4, "test/floor_perplexity": 1.49, "test/gap": 0.01234}
    generated = result(**summary, **{"test/memory_gap": None})
    shown = {column.heading: column.text(generated) for column in columns([generated, result()])}
    assert (shown["floor"], shown["gap"], shown["memory gap"]) == ("1.490", "0.0123", "")
    assert any(line.startswith("Floor:") for line in explanation([generated]))
    assert "floor" not in {column.heading for column in columns([result()])}
    assert not any(line.startswith("Floor:") for line in explanation([result()]))
