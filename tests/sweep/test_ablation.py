"""The sweeper of ablations: the recipe, and the recipe with one change each."""

import json
from pathlib import Path

import pytest

SMALL = (
    "-m",
    "hydra/sweeper=ablation",
    "data.max_tokens=3000",
    "data.batch_size=8",
    "data.num_steps=16",
    "model.embedding_size=8",
    "model.hidden_size=8,12",
    "samples.tokens=10",
    "training.epochs=1",
    "device=cpu",
    "hydra.sweep.dir=sweep",
)


def test_jobs_are_the_recipe_and_one_change_each(type_command):
    changes = (
        'hydra.sweeper.changes=["model.dropout=0.5","optimizer.name=adam model.hidden_size=4"]'
    )
    code, output, errors = type_command("train.py", *SMALL, changes)
    assert code == 0, errors
    jobs = json.loads(Path("sweep/sweep.json").read_text())["jobs"]
    names = "model.dropout", "optimizer.name", "model.hidden_size"
    assert [[job["settings"][name] for name in names] for job in jobs] == [
        [0.0, "sgd", 8],
        [0.0, "sgd", 12],
        [0.5, "sgd", 8],
        [0.5, "sgd", 12],
        [0.0, "adam", 4],
    ]
    assert {job["status"] for job in jobs} == {"completed"}
    adam = "optimizer.name=adam model.hidden_size=4"
    assert [job["change"] for job in jobs] == ["", "", *["model.dropout=0.5"] * 2, adam]


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        ("hydra.sweeper.changes=[]", "an ablation needs changes"),
        ('hydra.sweeper.changes=["seed=1,2"]', "several values of seed"),
        (
            "hydra.sweeper.changes=['model.dropout=2']",
            "model.dropout must be at least 0 and below 1",
        ),
        ("hydra.sweeper.changes=['model.droput=0']", "model.droput"),
    ],
)
def test_changes_that_make_no_sense_are_refused(typed, error, type_command):
    code, _, errors = type_command("train.py", *SMALL, typed)
    assert code == 2 and error in errors and errors.count("\n") == 1
    assert not Path("sweep").exists()
