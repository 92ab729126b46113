"""Whatever fails at a resume before a new state is saved leaves the run's folder as it was."""

import errno
import json
import sys
from pathlib import Path

import pytest

from lstm_lm.errors import Diverged, RunFailed, SettingsError, Stopped
from lstm_lm.experiment import train
from lstm_lm.resume import resume
from lstm_lm.training import checkpoint, session
from lstm_lm.training.checkpoint import RunCheckpoint
from lstm_lm.training.module import LanguageModelModule
from lstm_lm.training.resumed_folder import ResumedFolder

CHANGES = {"training.epochs": 3, "training.log_every": 3, "inside.every_epochs": 1}
ASSEMBLED_IN = {"run", "assemble", "all_callbacks", "introduce", "known"}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fail_at_line(number, error, function_names=ASSEMBLED_IN):
    """Raise at the nth line that these functions of the session come to; they end with the fit."""
    lines = 0

    def of_line(frame, event, argument):
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == number:
                sys.settrace(None)
                raise error
        return of_line

    def of_call(frame, event, argument):
        code = frame.f_code
        is_there = code.co_filename == session.__file__ and code.co_name in function_names
        return of_line if is_there else None

    sys.settrace(of_call)


@pytest.fixture
def completed(tiny_run, copy_of_run, tmp_path):
    config = tiny_run("training.epochs=1", "logger=[tensorboard,csv]", "checkpoint.every_steps=5")
    return copy_of_run(tmp_path / "run", config)


@pytest.mark.slow
def test_a_failure_at_any_line_before_the_fit_leaves_all_as_it_was(completed, monkeypatch):
    def fit(*_, **__):
        raise Reached

    class Reached(Exception):
        """Each line before the fit has failed once."""

    monkeypatch.setattr(session.Trainer, "fit", fit)
    before = contents(completed)
    number = 0
    while True:
        number += 1
        error = OSError(errno.EIO, "broken") if number % 2 else KeyError("broken")
        fail_at_line(number, error)
        try:
            with pytest.raises((OSError, RunFailed, KeyError, Reached)) as raised:
                resume(completed, CHANGES)
        finally:
            sys.settrace(None)
        assert contents(completed) == before
        if raised.type is Reached:
            break
    assert number > 30
    monkeypatch.undo()
    assert resume(completed, CHANGES)["epochs"] == 3


def broken_step(*_):
    raise ValueError("broken")


def stopped_step(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("where", "failure", "error"),
    [
        ("training_step", broken_step, ValueError),
        ("training_step", stopped_step, Stopped),
        ("on_fit_start", broken_step, ValueError),
        ("configure_optimizers", broken_step, ValueError),
        ("on_save_checkpoint", broken_step, ValueError),
    ],
)
def test_a_failure_while_it_trains_leaves_all_as_it_was(
    where, failure, error, completed, monkeypatch
):
    before = contents(completed)
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelModule, where, failure)
        with pytest.raises(error):
            resume(completed, CHANGES)
    assert contents(completed) == before
    assert resume(completed, CHANGES)["epochs"] == 3


def test_a_callback_that_cannot_work_is_not_kept(completed):
    before = contents(completed)
    for name, wrong in [("EarlyStopping", "lose"), ("ModelCheckpoint", "validation/los")]:
        entry = {"_target_": f"lightning.pytorch.callbacks.{name}", "monitor": wrong}
        with pytest.raises(SettingsError, match=f"callbacks.mine.monitor={wrong} is not a metric"):
            resume(completed, {"training.epochs": 2, "callbacks": {"mine": entry}})
    assert contents(completed) == before
    assert resume(completed, {"training.epochs": 2})["epochs"] == 2


def test_a_run_killed_before_its_first_new_state_has_lost_nothing(completed, monkeypatch):
    settings = (completed / "config.yaml").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(ResumedFolder, "put_back", lambda *_, **__: None)  # as if it were killed
        patch.setattr(LanguageModelModule, "training_step", broken_step)
        with pytest.raises(ValueError):
            resume(completed, CHANGES)
    assert (completed / "config.yaml").read_bytes() == settings
    summary = resume(completed, {})
    assert (summary["status"], summary["epochs"]) == ("completed", 1)
    assert len((completed / "metrics.csv").read_text().splitlines()) > 2


def test_what_diverged_on_another_device_alone_can_go_on_where_it_was(completed, monkeypatch):
    summary = json.loads((completed / "summary.json").read_text()) | {"status": "interrupted"}
    (completed / "summary.json").write_text(json.dumps(summary))
    before = contents(completed)

    def diverge(*_):
        raise Diverged("the loss", 1)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelModule, "training_step", diverge)
        with pytest.raises(Diverged):
            resume(completed, {"training.epochs": 2, "device.precision": "64-true"})
    assert contents(completed) == before
    assert resume(completed, {"training.epochs": 2})["epochs"] == 2


@pytest.mark.parametrize("content", [b"\xff", b"a,b\n1,2\n", b"step\nfirst\n", b"step,a\n\n,\n"])
def test_a_damaged_csv_file_is_named_and_nothing_is_lost(content, completed):
    (completed / "metrics.csv").write_bytes(content)
    before = contents(completed)
    with pytest.raises(RunFailed, match="metrics.csv is damaged: remove it"):
        resume(completed, CHANGES)
    assert contents(completed) == before


def test_a_csv_file_of_which_rows_are_missing_is_named(completed, caplog):
    rows = (completed / "metrics.csv").read_text().splitlines()
    (completed / "metrics.csv").write_text("\n".join(rows[:-1]) + "\n")
    resume(completed, CHANGES)
    assert "metrics.csv is incomplete" in caplog.text


@pytest.mark.parametrize("ends", ["\r\n", "\r", "\u2028", "\x1c\u2029\x85"])
def test_the_inside_of_any_text_is_drawn(ends, tiny_run, tmp_path, text_file):
    text = Path(text_file).read_text()
    with open(text_file, "w", newline="") as file:
        file.write(ends.join(text[start : start + 20] for start in range(0, len(text), 20)))
    train(tiny_run("training.epochs=1"), tmp_path / "run")
    summary = resume(tmp_path / "run", {"training.epochs": 2, "inside.every_epochs": 1})
    assert summary["status"] == "completed"


def test_a_disk_that_is_full_at_the_first_save_leaves_all_as_it_was(completed, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = contents(completed)
    for module, name in (checkpoint, "save_checkpoint"), (RunCheckpoint, "flush"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(RunFailed, match="No space left on device"):
                resume(completed, CHANGES)
        assert contents(completed) == before
    assert resume(completed, CHANGES)["epochs"] == 3
