"""The table of differences between a recipe and its changes."""

import math

import pytest

from lstm_lm.report.ablation import ablation
from lstm_lm.report.report import write_report
from lstm_lm.saved.results import read_results

RECIPE = {"model.dropout": 0.2, "optimizer.learning_rate": 1.0}
LOSSES = {  # of three seeds
    "recipe": (RECIPE, [1.50, 1.52, 1.54]),
    "better": (RECIPE | {"model.dropout": 0.1}, [1.40, 1.43, 1.44]),
    "worse": (RECIPE | {"model.weight_drop": 0.5, "model.tie_weights": True}, [1.6, 1.62, 1.65]),
    "noise": (RECIPE | {"optimizer.learning_rate": 2.0}, [1.40, 1.62, 1.54]),
}


@pytest.fixture
def folder(make_run, tmp_path):
    for name, (settings, losses) in LOSSES.items():
        for seed, loss in enumerate(losses):
            path = tmp_path / "sweep" / f"{name}{seed}"
            make_run(path, best=math.exp(loss), settings=settings | {"seed": seed})
    return tmp_path / "sweep"


def test_each_change_is_compared_with_the_recipe_seed_by_seed(folder):
    recipe, *changes = ablation(read_results([folder]))
    assert recipe.name == "the recipe" and recipe.difference is None
    assert recipe.loss == pytest.approx(1.52) and recipe.spread == pytest.approx(0.02)
    assert [change.verdict for change in changes] == ["better", "noise", "worse"]
    better, noise, worse = changes
    assert better.name == "dropout 0.1"
    assert better.difference == pytest.approx(-0.29 / 3)
    # Differences of -0.10, -0.09 and -0.10: their deviation by the root of 3, by t of 2.
    assert better.margin == pytest.approx(4.303 * 0.0057735 / 3**0.5, rel=1e-3)
    assert noise.name == "learning rate 2"
    assert {*worse.name.split(", ")} == {"weight drop 0.5", "tie weights true"}
    assert [change.seeds for change in changes] == [3, 3, 3]


def test_a_seed_that_failed_is_left_out_on_both_sides(folder, make_run):
    settings = RECIPE | {"model.dropout": 0.1, "seed": 3}
    make_run(folder / "without its recipe", best=1.0, settings=settings)
    _, better, *_ = ablation(read_results([folder]))
    assert better.seeds == 3 and better.difference == pytest.approx(-0.29 / 3)


def test_one_seed_has_no_margin_and_no_verdict(make_run, tmp_path):
    for name, (settings, losses) in LOSSES.items():
        make_run(tmp_path / "sweep" / name, best=math.exp(losses[0]), settings=settings)
    changes = ablation(read_results([tmp_path / "sweep"]))
    assert {(change.spread, change.margin, change.verdict) for change in changes} == {
        (None, None, "")
    }


def test_a_grid_is_no_ablation(make_run, tmp_path):
    for size in 128, 256:
        for rate in 1.0, 2.0:
            settings = {"model.hidden_size": size, "optimizer.learning_rate": rate}
            make_run(tmp_path / f"{size} {rate}", best=3.0, settings=settings)
    assert ablation(read_results([tmp_path])) == []


def test_the_report_has_the_table(folder, tmp_path):
    write_report([folder], tmp_path / "report")
    text = (tmp_path / "report/summary.md").read_text()
    assert "| the recipe | 1.5200 | 0.0200 |  |  | 3 |  |" in text
    assert "| dropout 0.1 | 1.4233 | 0.0208 | -0.0967 | 0.0143 | 3 | better |" in text
