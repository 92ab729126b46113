import pytest
from benchmarks import sweep
from benchmarks.interleaved import Busyness
from benchmarks.sweep import IN_TURN, SIDE_BY_SIDE, SMALL_MODEL, Measured, Way

# What scripts/train.py leaves behind: one summary for each of two seeds.
TRAIN = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[-1 if "dir=" in sys.argv[-1] else -2].split("=")[1])
for job, speed in enumerate((100.0, 300.0)):
    (folder / str(job)).mkdir(parents=True)
    summary = {"tokens": 1000, "tokens_per_second": speed}
    (folder / str(job) / "summary.json").write_text(json.dumps(summary))
"""


def test_jobs_in_turn_take_as_long_as_all_of_them_together(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "cpu_cores", lambda: 2)
    (tmp_path / "train.py").write_text(TRAIN)
    for order, together in (IN_TURN, 150.0), (SIDE_BY_SIDE, 300.0):
        measured = sweep.run_sweep(tmp_path / "train.py", Way(order, "32-true"), jobs=2, steps=5)
        assert measured.training == pytest.approx(together)  # 1 / mean(1 / 100, 1 / 300) = 150
        assert 0 < measured.whole < 2000 / 0.001


def test_ways_are_paired_by_round(tmp_path, monkeypatch):
    speeds = {SIDE_BY_SIDE: iter([2.0, 6.0, 4.0]), IN_TURN: iter([1.0, 2.0, 4.0])}
    monkeypatch.setattr(
        sweep, "run_sweep", lambda train, way, *_: Measured(1.0, next(speeds[way.order]))
    )
    training, whole = sweep.measure(tmp_path, ["32-true"], 8, 300, 3, Busyness())
    assert (training.ratio, training.low, training.high) == (2.0, 1.0, 3.0)
    assert training.tokens_per_second == 4.0
    assert whole.ratio == 1.0


def test_the_settings_of_the_small_model_exist(compose):
    assert compose(*SMALL_MODEL).model.hidden_size == 256
