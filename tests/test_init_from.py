"""Weights that move: to another core, and into a new run."""

import json

import pytest
import torch

from lstm_lm.config import CoreName
from lstm_lm.errors import SettingsError
from lstm_lm.evaluation.score import evaluate, split_of_run
from lstm_lm.experiment import train
from lstm_lm.resume import resume
from lstm_lm.saved.load_model import restore
from lstm_lm.training.checkpoint import RunCheckpoint
from lstm_lm.training.module import LanguageModelModule

CORES = [("scratch", "builtin"), ("builtin", "scratch")]
CELLS = ["lstm", "gru", "rnn"]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("trained", "used"), CORES)
def test_a_run_can_be_evaluated_under_the_other_core(cell, trained, used, tiny_run, tmp_path):
    settings = f"model.cell={cell}", f"model.core={trained}", "device.precision=64-true"
    summary = train(tiny_run(*settings, "training.epochs=1"), tmp_path / "run")
    run = restore(tmp_path / "run", core=CoreName(used))
    assert type(run.model.cores[0]).__name__.lower() == f"{used}{cell}"
    loss = evaluate(run.model, split_of_run(run, "test")).loss
    assert loss == pytest.approx(summary["test/loss"], rel=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("trained", "used"), CORES)
def test_a_new_run_starts_from_the_weights_of_another(cell, trained, used, tiny_run, tmp_path):
    cell = f"model.cell={cell}"
    train(tiny_run(cell, f"model.core={trained}"), tmp_path / "one")
    started = []

    def training_step(self, batch, batch_index):
        started.append({name: weight.clone() for name, weight in self.model.state_dict().items()})
        return original(self, batch, batch_index)

    original = LanguageModelModule.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModelModule, "training_step", training_step)
        train(
            tiny_run(
                cell, f"model.core={used}", f"init_from={tmp_path / 'one'}", "training.steps=1"
            ),
            tmp_path / "two",
        )
    for name, weight in restore(tmp_path / "one").model.state_dict().items():
        assert torch.equal(started[0][name], weight)


def test_what_a_run_started_from_is_part_of_its_fingerprint(tiny_run, tmp_path):
    one = train(tiny_run("training.epochs=1"), tmp_path / "one")
    start = tiny_run("training.steps=1", f"init_from={tmp_path / 'one'}")
    two = train(start, tmp_path / "two")
    again = train(start, tmp_path / "again")
    assert one["fingerprint"] != two["fingerprint"] == again["fingerprint"]
    assert one["started_from"] is None and two["started_from"] == again["started_from"] is not None


def test_the_ids_of_a_new_text_mean_what_they_did(tiny_run, tmp_path, caplog):
    caplog.set_level("INFO", "lstm_lm")
    train(tiny_run("training.epochs=1"), tmp_path / "one")
    other = tmp_path / "other.txt"
    other.write_text("zebra machine traveller time " * 200)
    config = tiny_run(f"data.path={other}", "data.max_tokens=null", f"init_from={tmp_path / 'one'}")
    train(config, tmp_path / "two")
    assert (
        restore(tmp_path / "two").vocabulary.tokens == restore(tmp_path / "one").vocabulary.tokens
    )
    # Of 29 characters only z and b are new.
    assert "6.88 % of the training text" in caplog.text
    summary = json.loads((tmp_path / "two/summary.json").read_text())
    assert summary["test/unknown_tokens"] > 0


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        (["model.hidden_size=17"], "need model.hidden_size=16"),
        (["model.cell=gru", "model.num_layers=2"], "need model.cell=lstm model.num_layers=1"),
        (["data.level=word"], "need data.level=character"),
    ],
)
def test_weights_of_another_shape_or_meaning_are_refused(settings, needed, tiny_run, tmp_path):
    train(tiny_run("training.steps=1"), tmp_path / "one")
    with pytest.raises(SettingsError, match=f"the weights of .*one {needed}$"):
        train(tiny_run(f"init_from={tmp_path / 'one'}", *settings), tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_what_is_no_run_cannot_be_started_from(tiny_run, tmp_path):
    with pytest.raises(SettingsError, match="nowhere is not a run's folder"):
        train(tiny_run(f"init_from={tmp_path / 'nowhere'}"), tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_run_that_was_cut_off_before_it_saved_starts_from_the_same_weights(
    tiny_run, tmp_path, assert_same_end, monkeypatch
):
    train(tiny_run("training.epochs=1"), tmp_path / "one")
    config = tiny_run("training.epochs=1", "seed=1", f"init_from={tmp_path / 'one'}")
    train(config, tmp_path / "whole")

    def broken(self, batch, batch_index):
        raise ValueError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelModule, "training_step", broken)
        patch.setattr(RunCheckpoint, "on_exception", lambda *_: None)
        with pytest.raises(ValueError, match="broken"):
            train(config, tmp_path / "cut")
    resume(tmp_path / "cut", {})
    assert_same_end(tmp_path / "whole", tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelModule, "training_step", broken)
        with pytest.raises(ValueError, match="broken"):
            train(config, tmp_path / "late")
    resume(tmp_path / "one", {"training.epochs": 2})
    with pytest.raises(
        SettingsError, match="the weights in .* have changed since this run was started"
    ):
        resume(tmp_path / "late", {})
