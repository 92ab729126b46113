"""The pictures, as far as a program can look at them."""

import itertools
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from lstm_lm.report.differences import short_names, shortened
from lstm_lm.report.pictures.drawing import OTHERS, styles
from lstm_lm.report.pictures.heat_map import BEST, COLORS, grid_of, heat_map
from lstm_lm.report.pictures.learning_curves import learning_curves, tokens_and_seconds
from lstm_lm.report.pictures.means import seed_plot
from lstm_lm.saved.event_files import Curve
from lstm_lm.saved.results import Result
from lstm_lm.saved.run_folder import Status

SIZE, RATE, CORE = "model.hidden_size", "optimizer.learning_rate", "model.core"
SETTINGS = {
    "seed": 0,
    "data.text": "time_machine",
    "data.level": "character",
    CORE: "builtin",
    "model.cell": "lstm",
    SIZE: 128,
    RATE: 1.0,
    "training.validate_every": 1,
}


def result(changed, perplexities=(9.0, 4.0), status="completed", seconds=1.0, name="run"):
    """A run of ten steps and a thousand tokens an epoch."""
    summary = {"epochs": len(perplexities)}
    if status == "completed":
        summary["best/validation/perplexity"] = min(perplexities)
    steps = [10 * (index + 1) for index in range(len(perplexities))]
    curves = {
        "validation/perplexity": list(perplexities),
        "train/perplexity": [value - 0.5 for value in perplexities],
        "tokens": [100.0 * step for step in steps],
        "tokens_per_second": [1000 / seconds] * len(steps),
    }
    made = {tag: Curve(steps, values) for tag, values in curves.items()} if steps else {}
    return Result(Path(name), name, Status(status), SETTINGS | changed, summary, made)


def grid(sizes=(128, 256, 512), rates=(0.3, 1.0, 3.0), **others):
    """Runs whose perplexities are the smaller the larger they are, and lowest at rate 1."""
    return [
        result({SIZE: size, RATE: rate} | others, [9.0, 2 + 128 / size + abs(rate - 1)])
        for size, rate in itertools.product(sizes, rates)
    ]


def drawn(figure):
    """The figure, drawn once, which is when Matplotlib warns."""
    FigureCanvasAgg(figure).draw()
    return figure


def heat_map_of(results):
    return drawn(heat_map(results))


def texts(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


def outlined(axes):
    """The cells that are outlined as the best: column and row."""
    return [
        (round(patch.get_x()), round(patch.get_y()))
        for patch in axes.patches
        if to_hex(patch.get_edgecolor()).upper() == BEST
    ]


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def curves(axes):
    """Lines that are no marks."""
    return [line for line in axes.lines if len(line.get_xdata()) > 1]


def test_a_heat_map_has_a_number_in_each_cell_and_outlines_the_lowest():
    axes = heat_map_of(grid()).axes[0]
    assert texts(axes) == [
        *("3.700", "3.000", "5.000"),  # 128 units, the lowest row
        *("3.200", "2.500", "4.500"),
        *("2.950", "2.250", "4.250"),
    ]
    assert outlined(axes) == [(1, 2)]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.3", "1", "3"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["128", "256", "512"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate", "hidden size")


def test_cells_without_a_number_say_why():
    results = [
        result({SIZE: 128, RATE: 1.0}),
        result({SIZE: 128, RATE: 2.0}, status="diverged"),
        result({SIZE: 256, RATE: 1.0}, (), status="failed"),
        result({SIZE: 256, RATE: 2.0}, (), status="waiting"),
        result({SIZE: 512, RATE: 1.0}, [5.0], status="interrupted"),
        result({SIZE: 1024, RATE: 1.0}, (), status="interrupted"),
        Result(Path("a"), status=Status.completed, settings=SETTINGS | {SIZE: 1024, RATE: 2.0}),
    ]
    figure = heat_map_of(results)
    assert texts(figure.axes[0]) == [
        "4.000",
        "diverged",
        "failed",
        "waiting",
        "5.000",
        "so far",
        "not tried",
        "interrupted",
        "infinite",
    ]
    assert legend_of(figure) == [
        "best",
        "diverged",
        "failed",
        "infinite",
        "interrupted",
        "waiting",
        "not tried",
        "so far: without final figures",
    ]
    patches = figure.legends[0].get_patches()[1:7]
    assert len({(patch.get_hatch(), patch.get_facecolor()) for patch in patches}) == 6


def test_seeds_share_a_cell_that_says_how_many_they_are():
    results = [
        result({SIZE: size, RATE: rate, "seed": seed}, [4.0 + seed])
        for size, rate, seed in itertools.product([128, 256], [1.0, 2.0], [0, 1, 2])
    ]
    results[-1] = result(results[-1].settings, [6.0], status="diverged")
    results[0] = result(results[0].settings, (), status="interrupted")  # before any validation
    axes = heat_map_of(results).axes[0]
    cells = ["5.500", "n=2, 1 interrupted"], ["5.000", "n=3"] * 2, ["4.500", "n=2, 1 diverged"]
    assert texts(axes) == [text for cell in cells for text in cell]
    assert outlined(axes) == [(1, 1)]


def test_other_settings_get_panels_with_one_scale_and_one_best_cell():
    results = grid() + [result(r.settings | {CORE: "scratch"}, [r.best + 0.125]) for r in grid()]
    figure = heat_map_of(results)
    builtin, scratch, _ = figure.axes
    assert [axes.get_title() for axes in (builtin, scratch)] == ["core builtin", "core scratch"]
    assert (outlined(builtin), outlined(scratch)) == ([(1, 2)], [])
    # 512 units at rate 1 are a little worse there, so that cell has another color.
    assert builtin.patches[7].get_facecolor() != scratch.patches[7].get_facecolor()


def test_long_titles_of_panels_are_wrapped():
    one = {"model.locked_dropout": True, "optimizer.schedule": "cosine", "model.weight_drop": 0.5}
    other = {"model.locked_dropout": False, "optimizer.schedule": "linear", "model.weight_drop": 0}
    titles = [axes.get_title() for axes in heat_map_of(grid(**one) + grid(**other)).axes[:2]]
    title = max(titles, key=len)
    assert max(map(len, title.splitlines())) <= 44 < len(title)  # at 11 letters an inch


def test_panels_are_as_many_as_can_be_seen():
    def with_layers(most):
        return [r for layers in range(most) for r in grid([1, 2], [1.0, 2.0], layers=layers)]

    four = heat_map_of(with_layers(4))
    assert [axes.axison for axes in four.axes] == [True] * 4 + [False] * 2 + [True]  # the scale
    many = heat_map_of(with_layers(13))
    assert many.get_suptitle().endswith("; the best 12 of 13 combinations")
    assert [axes.get_title() for axes in many.axes][:2] == ["layers 0", "layers 1"]


def test_size_and_rate_come_before_other_numbers():
    results = [*grid(**{"data.batch_size": 8}), *grid(**{"data.batch_size": 16})]
    found = grid_of(results)
    assert (found.vertical, found.horizontal) == (SIZE, RATE)
    assert [panel.settings for panel in found.panels] == [
        {"data.batch_size": 8},
        {"data.batch_size": 16},
    ]


def test_colors_end_at_three_times_the_best():
    places = itertools.product([1, 2], [1, 2])
    results = [
        result({SIZE: size, RATE: rate}, [perplexity])
        for (size, rate), perplexity in zip(places, [11.0, 22.0, 34.0, 1e8], strict=True)
    ]
    axes, bar = heat_map_of(results).axes
    colors = [patch.get_facecolor() for patch in axes.patches if patch.get_fill()]
    assert colors == [pytest.approx(COLORS(share), abs=0.01) for share in (0.0, 0.5, 1.0, 1.0)]
    assert texts(axes) == ["11.000", "22.000", "34.000", "1e+08"]
    assert {"15", "20", "30"} <= {label.get_text() for label in bar.get_yticklabels()}
    assert len(bar.get_yticks()) < 8


def test_two_other_numbers_will_do_for_a_heat_map():
    results = [
        result({"model.dropout": dropout, "optimizer.clip_norm": norm})
        for dropout, norm in itertools.product([0.0, 0.5], [None, 1.0, 5.0])
    ]
    found = grid_of(results)
    assert {found.vertical, found.horizontal} == {"model.dropout", "optimizer.clip_norm"}
    assert found.columns == [None, 1.0, 5.0]
    results = [result({SIZE: size, "seed": size, CORE: core}) for size in (1, 2) for core in "ab"]
    assert grid_of(results).startswith("the runs do not differ in two numbers")


def test_numbers_drawn_at_random_are_no_grid():
    results = [result({SIZE: size, RATE: 1 / size}) for size in range(1, 20)]
    assert "do not form a grid" in grid_of(results)


def test_an_ablation_has_no_heat_map():
    results = grid()
    results[0].change = ""
    assert grid_of(results).startswith("an ablation changes one setting at a time")


def test_nine_runs_have_a_look_each():
    lines = curves(drawn(learning_curves(grid())).axes[0])
    looks = {(line.get_color(), str(line.get_linestyle()), line.get_marker()) for line in lines}
    assert len(looks) == 9
    assert len({(style["color"], str(style["linestyle"])) for style in styles(10)}) == 10


def test_of_forty_runs_the_best_eight_stand_out():
    results = sorted(grid(range(128, 1128, 100), (0.25, 0.5, 1.0, 2.0)), key=lambda r: r.order)
    figure = drawn(learning_curves(results))
    assert len(legend_of(figure)) == 8 + len(["32 others", "lowest"])
    assert legend_of(figure)[0] == "2.125   1028, 1"
    assert legend_of(figure)[8] == "32 others"
    assert sum(line.get_color() == OTHERS["color"] for line in curves(figure.axes[0])) == 32
    poor = result({RATE: 99.0}, [70.0, 60.0])
    assert learning_curves([*results, poor]).axes[0].get_ylim()[1] < 10


def test_a_run_that_diverged_does_not_squash_the_others():
    results = [*grid(), result({RATE: 100.0}, [8.0, 1e9], status="diverged")]
    figure = drawn(learning_curves(results))
    low, high = figure.axes[0].get_ylim()
    assert (low > 0, high < 10, figure.axes[0].get_yscale()) == (True, True, "linear")
    # From 8 to a billion in an epoch, it leaves right after the first.
    (cross,) = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert cross.get_xdata()[0] == pytest.approx(1, abs=1e-6)
    assert high - 1 < cross.get_ydata()[0] < high
    assert "diverged here" in legend_of(figure)
    at_once = [result({RATE: rate}, (), status="diverged") for rate in (1e3, 1e4)]
    figure = drawn(learning_curves([*results, *at_once]))
    assert "2 diverged before the first validation" in legend_of(figure)


def test_huge_perplexities_break_no_picture():
    results = [
        result({SIZE: size, RATE: rate, "seed": seed}, [1e80, 1e80 if rate == 2 else size])
        for size, rate, seed in itertools.product([2.0, 3.0], [1.0, 2.0], [0, 1])
    ]
    results.append(result({SIZE: 2.0, RATE: 3.0}, [8.0, 1e80], status="diverged"))
    results.sort(key=lambda r: r.order)
    for picture in learning_curves, tokens_and_seconds, seed_plot:
        drawn(picture(results))
    heat_map_of(results)


def test_training_below_all_validation_is_shown():
    for results in ([result({}, [9.0, 4.0])], grid()):
        for one in results:
            one.curves["train/perplexity"].values[:] = [20.0, 1.25]
        for axes in drawn(learning_curves(results)).axes:
            low, high = axes.get_ylim()
            assert (0 < low < 1.25, 9 < high < 10) == (True, True)


def test_perplexities_over_decades_get_a_logarithmic_axis():
    results = [result({RATE: 1.0}, [900.0, 30.0, 9.0]), result({RATE: 2.0}, [800.0, 40.0])]
    axes = drawn(learning_curves(results)).axes[0]
    assert axes.get_yscale() == "log"
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert {"10", "100", "500"} <= set(shown)


def test_curves_go_over_epochs_if_these_are_known():
    figure = learning_curves([result({}, [4.0, 3.0, 2.0])])
    axes = figure.axes[0]
    validation = [line for line in axes.lines if len(line.get_xdata()) == 3][-1]
    assert list(validation.get_xdata()) == [1, 2, 3]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epochs", "perplexity per character")
    every_other = result({"training.validate_every": 2}, [4.0, 3.0])  # after 10 and 20 steps
    assert list(curves(learning_curves([every_other]).axes[0])[0].get_xdata()) == [2, 4]
    # The only validation of a run that ended within its first epoch tells nothing of epochs.
    short = result({RATE: 2.0}, [4.0])
    short.summary["epochs"] = 0
    axes = learning_curves([result({}), short]).axes[0]
    assert axes.get_xlabel() == "optimizer steps"
    assert {tuple(line.get_xdata()) for line in axes.lines} >= {(10, 20), (10,)}


def test_a_single_run_shows_training_and_validation_in_one():
    figure = drawn(learning_curves([result({})]))
    (axes,) = figure.axes
    about = "time_machine by character, builtin lstm, hidden size 128, learning rate 1"
    assert figure.get_suptitle() == about
    assert [list(line.get_ydata()) for line in curves(axes)] == [[8.5, 3.5], [9.0, 4.0]]
    assert axes.lines[0].get_linestyle() == "--"


def test_costs_are_tokens_and_seconds():
    slow = result({RATE: 2.0}, [5.0, 4.0], seconds=32.0)
    figure = drawn(tokens_and_seconds([result({}), slow]))
    left, right = figure.axes
    assert legend_of(figure)[:2] == ["4.000   1", "4.000   2"]
    assert {tuple(line.get_xdata()) for line in curves(left)} == {(1000, 2000)}
    assert {tuple(line.get_xdata()) for line in curves(right)} == {(1, 2), (32, 64)}
    assert (left.get_xscale(), right.get_xscale()) == ("linear", "log")
    assert legend_of(drawn(tokens_and_seconds([slow])))[0] == "4.000   run"


def test_without_curves_there_are_no_pictures():
    waiting = [result({SIZE: size}, (), "waiting") for size in (1, 2)]
    assert learning_curves(waiting) == "no run has been validated"
    assert tokens_and_seconds(waiting) is None
    assert seed_plot(waiting) is None


def test_seeds_have_a_mean_and_a_band():
    results = [
        result({"seed": 0}, [8.0, 4.0]),
        result({"seed": 1}, [9.0, 3.0]),
        result({"seed": 2}, [13.0, 5.0, 4.5]),
        result({"seed": 3}, [99.0, 999.0], status="diverged"),
        result({"seed": 0, RATE: 2.0}, [5.0, 4.0]),
    ]
    figure = drawn(seed_plot(results))
    (axes,) = figure.axes
    (line,) = axes.lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([10, 20], [10.0, 4.0])
    (band,) = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert corners == {(10, 8), (20, 3), (20, 5), (10, 13)}
    assert legend_of(figure) == ["4.000   1 (3 of 4 seeds)"]
    assert "from the lowest to the highest seed" in axes.get_title()
    assert seed_plot(results[:1] + results[4:]) is None
    assert legend_of(drawn(seed_plot(results[:4]))) == ["4.000    (3 of 4 seeds)"]


def test_of_many_groups_of_seeds_the_best_eight_stand_out():
    results = [r for seed in (0, 1) for r in grid(range(128, 1128, 100), (1.0, 2.0), seed=seed)]
    assert legend_of(drawn(seed_plot(results)))[8:] == ["12 others"]


def test_absurd_seeds_do_not_squash_the_others():
    near = [result({"seed": seed}, [8.0, 4.0 + seed]) for seed in (0, 1)]
    absurd = [result({"seed": seed, RATE: 9.0}, [1e30, 1e20]) for seed in (0, 1)]
    figure = drawn(seed_plot(near + absurd))
    assert figure.axes[0].get_ylim()[1] < 10
    assert len(legend_of(figure)) == 2


def test_a_long_title_stays_clear_of_the_legend():
    long = {"data.path": f"/{'text_' * 20}.txt"}
    results = [
        result(long | {"seed": seed, RATE: rate}, [4.0 + rate])
        for seed, rate in itertools.product([0, 1], [1.0, 2.0, 3.0])
    ]
    for picture in learning_curves, seed_plot:
        figure = drawn(picture(results))
        title, axes_title = figure._suptitle, figure.axes[-1].title
        beside = figure.legends[0].get_window_extent()
        assert not beside.overlaps(title.get_window_extent())
        assert not beside.overlaps(axes_title.get_window_extent())


def test_odd_names_can_be_drawn():
    names = "_hidden", "$x_{$", "a" * 200, "100%\\n", "50 €"
    results = [result({}, name=name) for name in names]
    labels = legend_of(drawn(learning_curves(results)))
    assert labels[0] == "4.000   _hidden"
    assert labels[2] == f"4.000   …{'a' * 39}"
    assert shortened("b" * 40) == "b" * 40
    drawn(learning_curves([result({"data.path": "/$_{$.txt"}, name="$_{$")]))


def test_settings_go_by_their_last_part_where_that_tells_them_apart():
    assert short_names(["a.x", "b.x", "a.y"]) == {"a.x": "a.x", "b.x": "b.x", "a.y": "y"}


def test_runs_that_differ_in_much_go_by_their_names():
    path = "data.path"
    results = [result({path: f"{'/a' * 30}/{name}"}, name=name) for name in ("one", "two")]
    assert legend_of(drawn(learning_curves(results)))[:2] == ["4.000   one", "4.000   two"]
