from benchmarks import chart
from benchmarks.chart import write_chart
from benchmarks.rows import Row
from matplotlib.figure import Figure


def row(what, shape, threads, ratio):
    return Row(what, shape, threads, "cpu", "32-true", ratio, 0.9 * ratio, 1.1 * ratio)


def test_each_ratio_is_a_bar_in_the_panel_of_its_shape_and_threads(tmp_path, monkeypatch):
    drawn: list[Figure] = []
    monkeypatch.setattr(chart, "write_figure", lambda figure, file: drawn.append(figure))
    rows = [row("builtin", "small", 1, 1.0)]  # the reference itself is none
    rows += [row("scratch / builtin", "small", threads, 0.5 * threads) for threads in (1, 2)]
    rows += [row(f"{core} / builtin", "large", 1, 2.0) for core in ("scratch", "naive")]
    write_chart(rows, "Speed", ["a note"], tmp_path / "chart.png")
    (figure,) = drawn
    bars = {
        axes.get_title(): [bar.get_width() for bar in axes.patches] for axes in figure.get_axes()
    }
    assert bars == {
        "small\n1 thread": [0.5],
        "small\n2 threads": [1.0],
        "large\n1 thread": [2.0, 2.0],
        "large\n2 threads": [],
    }
    assert "a note" in figure.get_supxlabel()
