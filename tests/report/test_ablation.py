"""The table of differences between a recipe and its changes."""

import json
import math

import pytest

from lstm_lm.report.ablation import ablation
from lstm_lm.report.report import write_report
from lstm_lm.saved.results import read_results
from lstm_lm.saved.run_folder import Status
from lstm_lm.saved.sweep_folder import Job, Sweep, SweepFolder

LOSSES = {  # of three seeds
    "": [1.50, 1.52, 1.54],
    "model.dropout=0.1": [1.40, 1.43, 1.44],
    "model.dropout=0.5 model.tie_weights=true": [1.6, 1.62, 1.65],
    "optimizer.learning_rate=2": [1.40, 1.62, 1.54],
}


@pytest.fixture
def make_sweep(make_run, tmp_path):
    def make(losses, seeds=3):
        jobs = []
        for change, of_seeds in losses.items():
            for seed, loss in enumerate(of_seeds[:seeds]):
                name = f"{len(jobs):03}"
                make_run(tmp_path / "sweep" / name, best=math.exp(loss), settings={"seed": seed})
                jobs.append(Job(len(jobs), name, name, {}, Status.completed, change=change))
        SweepFolder(tmp_path / "sweep").write(Sweep({}, jobs))
        return tmp_path / "sweep"

    return make


def test_each_change_is_compared_with_the_recipe_seed_by_seed(make_sweep):
    recipe, *changes = ablation(read_results([make_sweep(LOSSES)]))
    assert recipe.name == "the recipe" and recipe.difference is None
    assert recipe.loss == pytest.approx(1.52) and recipe.spread == pytest.approx(0.02)
    assert [change.verdict for change in changes] == ["better", "noise", "worse"]
    better, noise, worse = changes
    assert better.name == "model.dropout=0.1"
    assert better.difference == pytest.approx(-0.29 / 3)
    # Differences of -0.10, -0.09 and -0.10: their deviation by the root of 3, by t of 2.
    assert better.margin == pytest.approx(4.303 * 0.0057735 / 3**0.5, rel=1e-3)
    assert worse.name == "model.dropout=0.5 model.tie_weights=true"
    assert [change.seeds for change in changes] == [3, 3, 3]


def test_one_change_of_one_seed_has_a_difference_but_no_verdict(make_sweep):
    two = {change: LOSSES[change] for change in ("", "model.dropout=0.1")}
    _, change = ablation(read_results([make_sweep(two, seeds=1)]))
    assert change.difference == pytest.approx(-0.1)
    assert (change.spread, change.margin, change.verdict) == (None, None, "")


def test_a_seed_that_the_recipe_lacks_does_not_count_in_the_difference(make_sweep):
    losses = LOSSES | {"": LOSSES[""][:2]}
    _, better, *_ = ablation(read_results([make_sweep(losses)]))
    assert better.seeds == 3 and better.difference == pytest.approx(-0.095)


def test_runs_that_diverged_are_counted_in_the_verdict(make_sweep):
    folder = make_sweep(LOSSES)
    jobs = SweepFolder(folder).read().jobs
    unstable = next(job for job in jobs if job.change == "model.dropout=0.1")
    for job in [unstable, *(job for job in jobs if job.change == "optimizer.learning_rate=2")]:
        summary = folder / job.name / "summary.json"
        values = json.loads(summary.read_text()) | {"status": "diverged", "diverged_step": 3}
        summary.write_text(json.dumps({n: v for n, v in values.items() if "best/" not in n}))
        job.status = Status.diverged
    SweepFolder(folder).write(Sweep({}, jobs))
    _, unstable, worse, useless = ablation(read_results([folder]))
    assert (unstable.verdict, unstable.seeds, worse.verdict) == ("better, 1 diverged", 2, "worse")
    assert (useless.name, useless.loss) == ("optimizer.learning_rate=2", None)
    assert (useless.verdict, useless.seeds) == ("3 diverged", 0)


@pytest.mark.parametrize(("level", "unknown"), [("subword", 0), ("subword", 3), ("word", 0)])
def test_other_tokens_are_compared_per_character(make_run, tmp_path, level, unknown):
    of_level = {"data.level": level, "data.vocabulary_size": 300 if level == "subword" else None}
    tokens = {"": {}, level: of_level}
    jobs = []
    for change, settings in tokens.items():
        figures = {
            "best/validation/bits_per_character": 2.0 if change else 2.5,
            "best/validation/unknown_tokens": unknown,
        }
        name = f"job{len(jobs)}"
        make_run(tmp_path / "sweep" / name, best=20.0, settings=settings, **figures)
        jobs.append(Job(len(jobs), name, name, {}, Status.completed, change=change))
    SweepFolder(tmp_path / "sweep").write(Sweep({}, jobs))
    found = ablation(read_results([tmp_path / "sweep"]))
    assert [change.loss for change in found] == pytest.approx(
        [] if unknown or level == "word" else [2.5 * math.log(2), 2 * math.log(2)]
    )


def test_other_runs_are_no_ablation(make_run, tmp_path):
    for size in 128, 256:
        make_run(tmp_path / str(size), best=3.0, settings={"model.hidden_size": size})
    assert ablation(read_results([tmp_path])) == []


def test_the_report_has_the_table(make_sweep, tmp_path):
    write_report([make_sweep(LOSSES)], tmp_path / "report")
    text = (tmp_path / "report/summary.md").read_text()
    assert "| the recipe | 1.5200 | 0.0200 |  |  | 3 |  |" in text
    assert "| model.dropout=0.1 | 1.4233 | 0.0208 | -0.0967 | 0.0143 | 3 | better |" in text
