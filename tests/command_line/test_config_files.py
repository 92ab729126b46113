"""What a file of settings says: the run's own, that of the best run, one of the user's."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lstm_lm.config import DataConfig, RunConfig, SamplesConfig, from_plain, settings_of
from lstm_lm.saved.run_folder import RunFolder, as_yaml, config_from_settings

SMALL = [
    "data.max_tokens=3000",
    "data.batch_size=8",
    "data.num_steps=16",
    "model.hidden_size=8",
    "model.embedding_size=4",
    "training.steps=3",
    "samples.tokens=4",
    "device=cpu",
]
LOOKUP = "${oc.env:HOME}"
LOGGER = {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": ""}
# Some with much of what YAML and OmegaConf read as something else.
texts = st.text() | st.text(alphabet="a\\${}:'\"?~#[], \n\t0e.")


@given(texts)
@example(LOOKUP)
@example("\\" + LOOKUP)
@example("\\\\" + LOOKUP)
@example("${")
@example("1e3")
@example("\udcff\x85\u2028\ufeff")
@settings(derandomize=True, deadline=None, max_examples=20)
def test_any_text_is_read_back_as_it_was_written(tmp_path_factory, text):
    assume(text not in ("", "???"))  # nothing to continue, and no value wherever it is typed
    config = RunConfig(
        samples=SamplesConfig(prompts=[text]),
        data=DataConfig(root=f"/a{text}b"),
        logger={"csv": LOGGER | {"version": text}},
    )
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.write_config(config)
    read = folder.read_config()
    assert (read.samples.prompts, read.logger) == ([text], config.logger)
    assert read.data.root == str(Path(f"/a{text}b"))
    assert (
        config_from_settings(json.loads(json.dumps(settings_of(config)))) == config
    )  # as in sweep.json
    assert from_plain(SamplesConfig, {"prompts": [text]}, "samples") == config.samples
    changed = folder.read_config({"samples.prompts": [text, text]})
    assert changed.samples.prompts == [text, text]
    for_hydra = OmegaConf.create(yaml.safe_load(as_yaml(config)))
    assert OmegaConf.to_container(for_hydra, resolve=True)["samples"]["prompts"] == [text]


def test_a_prompt_that_looks_like_a_lookup_is_a_prompt_everywhere(type_command):
    prompt = "a ${HOME} b"
    typed = 'samples.prompts=["a \\${HOME} b"]'
    assert type_command("train.py", *SMALL, typed, "hydra.run.dir=one")[0] == 0
    assert RunFolder(Path("one")).read_config().samples.prompts == [prompt]
    more = "samples.temperature=0.5", 'samples.prompts=["\\${x}"]'
    assert type_command("train.py", "resume=one", "training.steps=4", *more)[0] == 0
    assert RunFolder(Path("one")).read_config().samples.prompts == ["${x}"]
    assert type_command("evaluate.py", "one")[0] == 0
    assert type_command("compare.py", "one")[0] == 0
    assert type_command("train.py", "-cd", "one", "-cn", "best", "hydra.run.dir=two")[0] == 0
    assert RunFolder(Path("two")).read_config().samples.prompts == ["${x}"]


def test_a_sweep_keeps_a_prompt_that_looks_like_a_lookup(type_command):
    typed = 'samples.prompts=["a \\${HOME} b"]', "hydra.sweep.dir=sweep"
    code, _, errors = type_command("train.py", "-m", *SMALL, *typed, "seed=1")
    assert (code, errors) == (0, "")
    (job,) = json.loads(Path("sweep/sweep.json").read_text())["jobs"]
    assert job["settings"]["samples.prompts"] == ["a ${HOME} b"]
    assert RunFolder(Path("sweep", job["name"])).read_config().samples.prompts == ["a ${HOME} b"]


def test_a_setting_typed_for_a_resume_can_name_another_of_the_run(type_command):
    type_command("train.py", *SMALL, "hydra.run.dir=one")
    for typed, key, value in (
        ("training.log_every=${data.num_steps}", "training.log_every", 16),
        ("checkpoint.every_steps=${model.hidden_size}", "checkpoint.every_steps", 8),
        ("samples.tokens=${training.log_every}", "samples.tokens", 16),
    ):
        code, _, errors = type_command("train.py", "resume=one", "training.steps=4", typed)
        assert (code, errors) == (0, "")
        # Complete by then, so only the first is trained; all are read.
        before = RunFolder(Path("one")).read_config()
        if key == "training.log_every":
            assert settings_of(before)[key] == value


def test_a_current_folder_that_looks_like_a_lookup_is_refused(type_command, monkeypatch):
    Path("${HOME}").mkdir()
    monkeypatch.chdir("${HOME}")
    for multirun in [], ["-m"]:
        code, output, errors = type_command("train.py", *multirun, *SMALL)
        assert (code, output, errors.count("\n")) == (2, "", 1)
        assert "the current folder is" in errors and "start in another folder" in errors
    assert not list(Path.cwd().iterdir())


# Files that -cn names


@pytest.fixture
def best(type_command):
    """The folder of a sweep over a run that began with another's weights."""
    type_command("train.py", *SMALL, "hydra.run.dir=base")
    settings = "init_from=base", "model.dropout=0.5", "hydra.run.dir=runs/one"
    assert type_command("train.py", *SMALL, *settings)[0] == 0
    assert type_command("compare.py", "runs")[0] == 0
    return lambda *typed: type_command("train.py", "-cd", "runs", "-cn", "best", *typed)


def summary_of(folder):
    return json.loads(Path(folder, "summary.json").read_text())


def test_the_best_run_again_is_the_same_run(best):
    assert best("hydra.run.dir=again")[0] == 0
    one, again = summary_of("runs/one"), summary_of("again")
    assert again["fingerprint"] == one["fingerprint"]
    assert again["test/perplexity"] == one["test/perplexity"]


def test_what_is_typed_with_the_best_run_wins(best, text_file):
    groups = "data=text_file", f"data.path={text_file}", "logger=csv", "callbacks=lr_monitor"
    typed = "init_from=null", "model.num_layers=2", "model.dropout=0.1"
    assert best(*groups, *typed, "hydra.run.dir=again")[0] == 0
    config = RunFolder(Path("again")).read_config()
    assert (config.data.text, config.data.path) == ("file", text_file)
    assert (list(config.logger), list(config.callbacks)) == (["csv"], ["lr_monitor"])
    assert (config.model.num_layers, config.model.dropout) == (2, 0.1)
    assert config.data.num_steps == 16  # as the file says
    assert best("-cd", "runs", "data=embedded_reber", "init_from=null", "hydra.run.dir=b")[0] == 0
    config = RunFolder(Path("b")).read_config()
    assert (config.data.text, config.data.path) == ("embedded_reber", None)


@pytest.mark.parametrize("defaults", ["", "override callbacks: none", "override debug: null"])
def test_a_file_of_the_users_own_counts_beside_a_run_to_start_from(type_command, defaults):
    type_command("train.py", *SMALL, "model.dropout=0.4", "hydra.run.dir=base")
    others = f"{{{defaults}}}, " if defaults else ""
    said = "model: {dropout: 0.25}\ninit_from: base\n"
    Path("mine.yaml").write_text(f"defaults: [train, {others}_self_]\n{said}")
    file = "-cd", ".", "-cn", "mine"
    code, _, errors = type_command("train.py", *file, *SMALL, "hydra.run.dir=two")
    assert (code, errors) == (0, "")
    model = RunFolder(Path("two")).read_config().model
    assert (model.dropout, model.hidden_size) == (0.25, 8)
    settings = "model.dropout=0.3", "hydra.run.dir=three"
    assert type_command("train.py", *file, *SMALL, *settings)[0] == 0
    assert RunFolder(Path("three")).read_config().model.dropout == 0.3


def test_a_file_can_build_on_another_of_the_users(type_command):
    type_command("train.py", *SMALL, "hydra.run.dir=base")
    Path("mine.yaml").write_text(
        "defaults: [/train, _self_]\nmodel: {dropout: 0.25, longest_memory: 9}"
    )
    Path("other.yaml").write_text(
        "defaults: [mine, _self_]\nmodel: {dropout: 0.3}\ninit_from: base"
    )
    file = "-cd", ".", "-cn", "other"
    code, _, errors = type_command("train.py", *file, *SMALL, "hydra.run.dir=two")
    assert (code, errors) == (0, "")
    model = RunFolder(Path("two")).read_config().model
    assert (model.dropout, model.longest_memory, model.hidden_size) == (0.3, 9, 8)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["-cn", "schema"], "-cn schema does not name the settings of a run: its defaults"),
        (["-cn", "bare"], "-cn bare does not name the settings of a run: its defaults"),
        (["-cn", "bare", "data=recall"], "a file that -cn names must begin with train"),
        (["-cn", "bare", "-m", "seed=1,2"], "the file that -cn names has no seed: its defaults"),
        (["-cn", "wrong"], "there is no setting model.dropuot; did you mean model.dropout?"),
    ],
)
def test_a_file_of_which_no_run_can_be_made_is_refused(typed, said, type_command):
    Path("bare.yaml").write_text("model: {dropout: 0.25}")
    Path("wrong.yaml").write_text("defaults: [train, _self_]\nmodel: {dropuot: 0.25}")
    logs_nothing = "hydra/job_logging=none", "hydra/hydra_logging=none"
    code, _, errors = type_command("train.py", "-cd", ".", *typed, *logs_nothing)
    assert (code, errors.count("\n")) == (2, 1)
    assert said in errors


@pytest.mark.parametrize(
    "grid",
    [
        "experiment=claim_hyperparameters,claim_gru_lighter",
        "experiment=claim_long_memory,d2l_scratch",
        "experiment=d2l_scratch,claim_vanishing_gradient",
    ],
)
def test_a_sweep_over_sweeps_is_refused(grid, type_command):
    code, _, errors = type_command("train.py", "-m", grid)
    assert (code, errors.count("\n")) == (2, 1)
    assert "is a sweep itself, over " in errors and "sweep over one such file at a time" in errors
    assert not list(Path.cwd().iterdir())


def test_a_sweep_of_which_nothing_is_kept_is_refused(type_command):
    for typed in "debug=fast", "trainer.fast_dev_run=true":
        code, _, errors = type_command("train.py", "-m", *SMALL, "seed=1,2", typed)
        assert (code, errors.count("\n")) == (2, 1)
        assert "trainer.fast_dev_run saves nothing" in errors and "leave out debug=fast" in errors
    assert not list(Path.cwd().iterdir())


def test_hydras_own_launcher_refuses_a_sweep_over_sweeps(type_command):
    grid = "hydra/launcher=basic", "experiment=claim_gru_lighter,claim_hyperparameters"
    code, _, errors = type_command("train.py", "-m", *grid, "hydra.sweep.dir=sweep")
    assert code == 1 and "is a sweep itself, over model.cell, model.hidden_size, seed" in errors
    assert not list(Path("sweep").glob("*/config.yaml"))


def test_a_sweep_over_such_files_with_all_that_they_sweep_over_typed_is_one(type_command):
    of_file = "model.cell=gru", "model.hidden_size=8", "seed=1", "training.epochs=1"
    of_all = "data=python_docs", "experiment=claim_gru_lighter,claim_hyperparameters"
    typed = *SMALL, *of_file, *of_all, "optimizer.learning_rate=1", "hydra.sweep.dir=sweep"
    assert type_command("train.py", "-m", *typed)[0] == 0
