"""Every recipe of conf/experiment in small: it trains, and goes on exactly after a kill."""

import shlex
from pathlib import Path

import pytest
import yaml

from lstm_lm.config import settings_of
from lstm_lm.experiment import train

EXPERIMENTS = Path(__file__).parents[1] / "conf/experiment"
RECIPES = sorted(
    path.stem
    for path in EXPERIMENTS.glob("*.yaml")
    if not path.stem.startswith(("claim", "d2l", "ablate", "embedded"))
)
SMALL = (
    "data.batch_size=4",
    "data.num_steps=12",
    "data.evaluation_rows=4",
    "data.reset_every=null",
    "data.max_tokens=1500",
    "data.validation_size=0.05",
    "data.test_size=0.05",
    "model.hidden_size=16",
    "model.embedding_size=8",
    "training.epochs=2",
    "training.minutes=null",
    "samples.tokens=5",
    "checkpoint.every_steps=5",
    "checkpoint.every_minutes=null",
    "device=cpu",
)


@pytest.fixture
def small(compose, text_file):
    def small_recipe(name, *more):
        config = compose(f"experiment={name}")
        last = [] if config.model.last_hidden_size is None else ["model.last_hidden_size=8"]
        text = ["data=text_file", f"data.path={text_file}", f"data.level={config.data.level}"]
        return compose(f"experiment={name}", *text, *SMALL, *last, *more)

    return small_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_goes_on_exactly_after_a_kill(name, small, assert_killed_run_goes_on_exactly):
    assert_killed_run_goes_on_exactly(33, small(name))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_tried_on_one_batch(name, small, tmp_path):
    train(small(name, "debug=fast"), tmp_path)


def test_each_change_of_the_ablation_changes_the_recipe(compose):
    content = yaml.safe_load((EXPERIMENTS / "ablate_tiny_shakespeare.yaml").read_text())
    recipe = settings_of(compose("experiment=tiny_shakespeare_cpu"))
    for change in content["hydra"]["sweeper"]["changes"]:
        typed = shlex.split(change)
        changed = settings_of(compose("experiment=tiny_shakespeare_cpu", *typed))
        apart = {name for name in recipe if changed[name] != recipe[name]}
        assert apart == {override.partition("=")[0] for override in typed}
