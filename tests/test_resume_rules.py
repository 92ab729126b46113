"""What a run that goes on may change, and what it does about files that are not as they were."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning import LightningModule
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lstm_lm import files, process
from lstm_lm.errors import DamagedFile, RunFailed, SettingsError, Stopped
from lstm_lm.evaluation.score import evaluate, split_of_run
from lstm_lm.experiment import train
from lstm_lm.files import is_locked, locked
from lstm_lm.process import StopSignals
from lstm_lm.resume import resume
from lstm_lm.saved.checkpoint_file import load_checkpoint, save_checkpoint, seal
from lstm_lm.saved.load_model import restore
from lstm_lm.saved.run_folder import RunFolder
from lstm_lm.training.checkpoint import RunCheckpoint
from lstm_lm.training.module import LanguageModelModule


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def cut_run(tiny_run, copy_of_run, tmp_path):
    """A run that SIGTERM has ended after step 20 of 39, saved also at steps 13 and 16."""

    def cut(*overrides):
        config = tiny_run("checkpoint.every_steps=16", *overrides)
        return copy_of_run(tmp_path / "cut", config, train_and_stop)

    return cut


def train_and_stop(config, folder):
    with pytest.MonkeyPatch.context() as patch:

        def training_step(self, batch, batch_index):
            if self.global_step == 19:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, batch, batch_index)

        original = LanguageModelModule.training_step
        patch.setattr(LanguageModelModule, "training_step", training_step)
        with pytest.raises(Stopped):
            train(config, folder)


# What may change


def test_a_completed_run_says_that_there_is_nothing_to_do(tiny_run, tmp_path, caplog):
    folder = tmp_path / "run"
    summary = train(tiny_run("training.epochs=2"), folder)
    before = contents(folder)
    caplog.set_level("INFO")
    for changes in ({}, {"training.epochs": 1}, {"samples.tokens": 5}):
        assert resume(folder, changes) == summary
        assert "is complete, with 2 epochs, 26 steps: nothing to do" in caplog.messages[-1]
    assert contents(folder) == before


def test_a_completed_run_that_is_extended_equals_a_long_one(tiny_run, tmp_path, assert_same_end):
    train(tiny_run("model.dropout=0.3"), tmp_path / "long")
    train(tiny_run("model.dropout=0.3", "training.epochs=2"), tmp_path / "extended")
    resume(tmp_path / "extended", {"training.epochs": 3})
    assert_same_end(tmp_path / "long", tmp_path / "extended")


def test_an_extended_run_knows_of_the_validation_where_it_was_to_end(tiny_run, tmp_path):
    train(tiny_run("model.dropout=0.3"), tmp_path / "long")
    folder = tmp_path / "extended"
    train(tiny_run("model.dropout=0.3", "training.steps=20"), folder)
    with pytest.MonkeyPatch.context() as patch:  # whatever comes later is worse
        patch.setattr(RunCheckpoint, "set_best", lambda *_: None)
        summary = resume(folder, {"training.epochs": 3, "training.steps": None})
    long, extended = (
        load_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("long", "extended")
    )
    for name, weight in long["state_dict"].items():
        assert torch.equal(weight, extended["state_dict"][name])
    assert (summary["steps"], summary["best/step"]) == (39, 20)
    assert load_checkpoint(folder / "checkpoints/best.ckpt")["global_step"] == 20
    events = EventAccumulator(str(folder)).Reload().Scalars("validation/loss")
    assert [event.step for event in events] == [13, 20, 26, 39]
    assert "steps: null" in (folder / "config.yaml").read_text()


def test_figures_that_are_asked_for_later_are_made(tiny_run, tmp_path):
    folder = tmp_path / "run"
    before = train(tiny_run("training.epochs=1"), folder)
    after = resume(folder, {"data.reset_every": 10})
    assert after["test/loss"] == before["test/loss"] != after["test/reset/loss"]
    assert (after["steps"], after["tokens"]) == (before["steps"], before["tokens"])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_run_whose_learning_rate_fell_for_its_budget_cannot_be_extended(
    schedule, cut_run, tiny_run, tmp_path
):
    folder = cut_run(f"optimizer.schedule={schedule}")
    before = contents(folder)
    with pytest.raises(SettingsError, match=f"schedule={schedule} .* in the 20 steps done"):
        resume(folder, {"training.epochs": 4})
    assert contents(folder) == before
    assert resume(folder, {"training.epochs": 3})["status"] == "completed"


def test_another_run_is_refused_with_the_names_of_the_settings(cut_run):
    folder = cut_run()
    before = contents(folder)
    changes = {"model.hidden_size": 17, "optimizer.learning_rate": 0.5, "training.epochs": 9}
    expected = "cannot change model.hidden_size from 16 to 17, optimizer.learning_rate from 1.0 to"
    with pytest.raises(SettingsError, match=expected):
        resume(folder, changes)
    for changes in ({"seed": 1}, {"data.order": "random"}, {"init_from": "elsewhere"}):
        with pytest.raises(SettingsError, match=f"cannot change {next(iter(changes))} from"):
            resume(folder, changes)
    with pytest.raises(SettingsError, match="must be positive and finite, not -1"):
        resume(folder, {"training.epochs": -1})
    assert contents(folder) == before


def test_how_a_run_is_watched_may_change(cut_run):
    folder = cut_run()
    changes = {"training.log_every": 3, "samples.tokens": 5, "checkpoint.every_steps": 7}
    assert resume(folder, changes)["status"] == "completed"
    config = RunFolder(folder).read_config()
    assert (config.training.log_every, config.samples.tokens) == (3, 5)


@pytest.mark.parametrize("core", ["scratch", "builtin"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("32-true", "64-true"),
        ("64-true", "32-true"),
        pytest.param("32-true", "bf16-mixed", marks=pytest.mark.bf16),
        pytest.param("bf16-mixed", "32-true", marks=pytest.mark.bf16),
    ],
)
def test_the_precision_may_change(before, after, core, cut_run):
    folder = cut_run(f"device.precision={before}", f"model.core={core}", "optimizer.name=adam")
    assert resume(folder, {"device.precision": after})["status"] == "completed"
    weights = load_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]
    kind = torch.float64 if after == "64-true" else torch.float32
    assert {weight.dtype for weight in weights.values()} == {kind}


def test_seconds_and_tokens_add_up(cut_run):
    folder = cut_run()
    before = summary_of(folder)
    assert (before["status"], before["steps"], before["tokens"]) == ("interrupted", 20, 20 * 128)
    after = resume(folder, {})
    assert (after["status"], after["steps"], after["tokens"]) == ("completed", 39, 39 * 128)
    assert after["seconds"] > before["seconds"] > 0


def test_a_time_budget_goes_on_with_what_is_left(cut_run, monkeypatch):
    folder = cut_run("training.epochs=null", "training.minutes=60")
    file = folder / "checkpoints/last.ckpt"
    checkpoint = load_checkpoint(file)
    elapsed = checkpoint["callbacks"]["Timer"]["time_elapsed"]
    assert 0 < elapsed["train"] < 60
    elapsed["train"] = 3599.8
    save_checkpoint(file, checkpoint, folder / "checkpoints/previous.ckpt")
    summary = resume(folder, {})
    assert summary["status"] == "completed" and summary["steps"] > 20


def test_the_number_of_threads_is_kept(cut_run):
    folder = cut_run()
    assert summary_of(folder)["threads"] == 1
    torch.set_num_threads(2)
    try:
        assert resume(folder, {})["threads"] == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)


def test_a_run_that_goes_on_forgets_what_is_no_longer_true(tiny_run, tmp_path):
    folder = tmp_path / "run"
    train(tiny_run("training.epochs=1"), folder)
    seen = []

    def training_step(self, batch, batch_index):
        seen.append(summary_of(folder))
        return original(self, batch, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        original = LanguageModelModule.training_step
        patch.setattr(LanguageModelModule, "training_step", training_step)
        resume(folder, {"training.epochs": 2, "checkpoint.every_steps": 20})
    # Until a new state is saved, the old figures are those of what is saved.
    assert (seen[0]["status"], seen[0]["steps"]) == ("running", 13)
    assert "test/loss" in seen[0] and "best/step" in seen[0]
    assert (seen[-1]["status"], seen[-1]["steps"]) == ("running", 20)
    assert "test/loss" not in seen[-1] and "best/step" not in seen[-1]


# Files that are not as they were


def damage(file, how):
    match how:
        case "truncated":
            os.truncate(file, file.stat().st_size // 2)
        case "without its end":
            os.truncate(file, file.stat().st_size - 1)
        case "flipped":
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 4
            file.write_bytes(content)
        case "empty":
            file.write_bytes(b"")
        case "missing":
            file.unlink()


DAMAGES = ["truncated", "without its end", "flipped", "empty", "missing"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(
    how, cut_run, tiny_run, tmp_path, caplog, assert_same_end
):
    folder = cut_run("model.dropout=0.2")
    damage(folder / "checkpoints/last.ckpt", how)
    caplog.set_level("INFO")
    resume(folder, {})
    assert "last.ckpt" in caplog.text and "using the checkpoint before it" in caplog.text
    assert "resumes after step 16" in caplog.text
    train(tiny_run("checkpoint.every_steps=16", "model.dropout=0.2"), tmp_path / "whole")
    assert_same_end(tmp_path / "whole", folder)


@pytest.mark.parametrize("how", DAMAGES[:-1])
def test_with_both_checkpoints_damaged_nothing_is_done(how, cut_run):
    folder = cut_run()
    for name in "last", "previous":
        damage(folder / f"checkpoints/{name}.ckpt", how)
    before = contents(folder)
    with pytest.raises(DamagedFile, match="previous.ckpt is damaged"):
        resume(folder, {})
    assert contents(folder) == before


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_after_going_back_every_checkpoint_is_good_again(how, tiny_run, tmp_path, assert_same_end):
    # The one before is of the end of an epoch, so going on begins with a validation, which is
    # the best yet; then the process is killed in its first save.
    folder = tmp_path / "run"
    train(tiny_run("training.epochs=2"), folder)
    (folder / "checkpoints/previous.ckpt").unlink()
    (folder / "checkpoints/best.ckpt").rename(folder / "checkpoints/previous.ckpt")
    damage(folder / "checkpoints/last.ckpt", how)

    def killed(*_):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lstm_lm.training.checkpoint.save_checkpoint", killed)
        with pytest.raises(Killed):
            resume(folder, {"training.epochs": 3})
    for name in "last", "previous", "best":
        load_checkpoint(folder / f"checkpoints/{name}.ckpt")
    resume(folder, {"training.epochs": 3})  # typed again, as nothing was saved with it
    train(tiny_run(), tmp_path / "whole")
    assert_same_end(tmp_path / "whole", folder)


class Killed(BaseException):
    pass


def test_a_save_that_fails_leaves_two_different_checkpoints(tiny_run, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def no_space(path, *_):
        if path.name.startswith(".last") and (folder / "checkpoints/previous.ckpt").exists():
            raise OSError(28, "No space left on device", str(path))
        flush(path)

    flush = files.fsync_path
    monkeypatch.setattr("lstm_lm.saved.checkpoint_file.fsync_path", no_space)
    with pytest.raises(RunFailed, match="cannot continue: No space left on device"):
        train(tiny_run("checkpoint.every_steps=5"), folder)
    steps = [
        load_checkpoint(folder / f"checkpoints/{name}.ckpt")["global_step"]
        for name in ("previous", "last")
    ]
    assert steps == [5, 10]


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_a_folder_of_the_first_version_is_read_but_not_gone_on_with(schedule, cut_run, tiny_run):
    folder = cut_run()
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    for name in "logger", "callbacks", "trainer":
        del settings[name]
    settings["optimizer"] |= {
        "schedule": schedule,
        "plateau_factor": 0.5,
        "plateau_patience": 2,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    summary = summary_of(folder)
    del summary["versions"]["lstm_lm"]
    (folder / "summary.json").write_text(json.dumps(summary))
    before = contents(folder)
    with pytest.raises(SettingsError, match="was trained by lstm_lm 0.1.0, .* init_from="):
        resume(folder, {})
    run = restore(folder)
    assert run.config.logger["tensorboard"]
    assert evaluate(run.model, split_of_run(run, "test")).loss > 0
    new = train(tiny_run(f"init_from={folder}", "training.epochs=1"), folder.parent / "new")
    assert new["status"] == "completed"
    assert contents(folder) == before


def test_checkpoints_of_another_run_are_refused(tiny_run, cut_run, tmp_path):
    folder, other = cut_run(), tmp_path / "other"
    train(tiny_run("seed=3"), other)
    shutil.copy(other / "checkpoints/last.ckpt", folder / "checkpoints/last.ckpt")
    with pytest.raises(DamagedFile, match="last.ckpt is a checkpoint of another run"):
        resume(folder, {})
    (other / "config.yaml").unlink()
    before = contents(other)
    with pytest.raises(SettingsError, match="has checkpoints of a run, but no config.yaml"):
        train(tiny_run(), other)
    assert contents(other) == before


def test_event_files_of_others_are_left_alone(tiny_run, tmp_path):
    (tmp_path / "run").mkdir()
    file = tmp_path / "run/events.out.tfevents.1.other.1.0"
    file.write_text("of another program")
    train(tiny_run("training.steps=1"), tmp_path / "run")
    assert file.read_text() == "of another program"


def test_a_damaged_best_checkpoint_is_replaced_by_the_final_weights(cut_run, caplog, monkeypatch):
    folder = cut_run()
    with monkeypatch.context() as patch:  # nothing is better from now on
        patch.setattr(RunCheckpoint, "on_validation_end", lambda *_: None)
        damage(folder / "checkpoints/best.ckpt", "flipped")
        summary = resume(folder, {})
    assert "best.ckpt is damaged" in caplog.text and "final weights are used instead" in caplog.text
    assert summary["best/validation/loss"] == summary["validation/loss"]
    assert summary["best/step"] == 39
    restore(folder)


class RunsCode:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("is_plain_pickle", [False, True])
def test_a_checkpoint_that_would_run_code_is_refused(is_plain_pickle, cut_run, tmp_path):
    folder, trace = cut_run(), tmp_path / "it ran"
    file = folder / "checkpoints/last.ckpt"
    checkpoint = load_checkpoint(file) | {"payload": RunsCode(trace)}
    if is_plain_pickle:
        content = pickle.dumps(checkpoint)
        file.write_bytes(content + seal(content))
    else:
        save_checkpoint(file, checkpoint, folder / "checkpoints/previous.ckpt")
    torch.load(file, weights_only=False) if not is_plain_pickle else pickle.loads(content)
    assert trace.exists()  # so it is a real one
    trace.unlink()
    for load in (lambda: resume(folder, {}), lambda: restore(folder, "last")):
        with pytest.raises(SettingsError, match="last.ckpt is rejected: it is not a checkpoint of"):
            load()
    (folder / "checkpoints/best.ckpt").write_bytes(file.read_bytes())
    with pytest.raises(SettingsError, match="best.ckpt is rejected"):
        restore(folder)
    assert not trace.exists()


def edit_vocabulary(folder):
    file = folder / "vocabulary.json"
    tokens = json.loads(file.read_text())
    tokens[1], tokens[2] = tokens[2], tokens[1]
    file.write_text(json.dumps(tokens))


def edit_config(folder):
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("learning_rate: 1.0", "learning_rate: 2.0"))


def forget_threads(folder):
    summary = summary_of(folder)
    del summary["threads"]
    (folder / "summary.json").write_text(json.dumps(summary))


def forget_how_many_threads(folder):
    (folder / "summary.json").write_text(json.dumps(summary_of(folder) | {"threads": "x"}))


CHANGES = {
    "summary.json is damaged: threads is 'x'": forget_how_many_threads,
    "vocabulary.json was changed": edit_vocabulary,
    "vocabulary.json cannot be read": lambda folder: (folder / "vocabulary.json").unlink(),
    "vocabulary.json is damaged": lambda folder: (folder / "vocabulary.json").write_text("[1, 2"),
    "config.yaml does not have the settings that this run was started": edit_config,
    "config.yaml is damaged": lambda folder: (folder / "config.yaml").write_text("seed: [1"),
    "is not a run's folder": lambda folder: (folder / "config.yaml").unlink(),
    "summary.json lacks threads": forget_threads,
    "summary.json is damaged": lambda folder: (folder / "summary.json").write_text("{"),
    "summary.json cannot be read": lambda folder: (folder / "summary.json").unlink(),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_a_record_that_is_missing_or_was_edited_is_named(reason, cut_run):
    folder = cut_run()
    CHANGES[reason](folder)
    before = contents(folder)
    with pytest.raises(SettingsError, match=reason):
        resume(folder, {})
    assert contents(folder) == before


def test_a_text_that_is_another_now_is_refused(cut_run):
    folder = cut_run()
    text = Path(RunFolder(folder).read_config().data.path)
    text.write_text(text.read_text() + "more")
    with pytest.raises(SettingsError, match="is not the one this run was trained on"):
        resume(folder, {})


def test_what_a_kill_left_unfinished_is_cleared_away(cut_run):
    folder = cut_run()
    for file in (folder / ".summary.json.x.unfinished", folder / "checkpoints/.last.y.unfinished"):
        file.write_bytes(b"half")
    resume(folder, {})
    assert not list(folder.rglob("*.unfinished"))


def test_a_folder_that_cannot_be_written_is_refused(cut_run, monkeypatch):
    folder = cut_run()

    def read_only(path, *_):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("lstm_lm.files.os.open", read_only)
    with pytest.raises(SettingsError, match="cannot write to .*cut: Read-only file system"):
        resume(folder, {})


# Two at once


def test_a_second_process_is_refused_while_the_first_lives(cut_run, tiny_run, monkeypatch):
    folder = cut_run()
    monkeypatch.setattr("lstm_lm.files.PATIENCE", 0.1)
    hold = (
        "import sys, time; from pathlib import Path; from lstm_lm.files import locked\n"
        "with locked(Path(sys.argv[1])) as got_it: print(got_it, flush=True), time.sleep(60)"
    )
    command = [sys.executable, "-c", hold, str(folder / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        before = contents(folder)
        for attempt in (
            lambda: resume(folder, {}),
            lambda: train(tiny_run(), folder),
        ):
            with pytest.raises(SettingsError, match="another process is training in"):
                attempt()
        assert contents(folder) == before
        other.kill()
    assert not is_locked(folder / ".lock")
    assert resume(folder, {})["status"] == "completed"


def test_running_without_a_living_process_is_interrupted(cut_run):
    folder = RunFolder(cut_run())
    summary = folder.read_summary()
    folder.summary.write_text(json.dumps(summary | {"status": "running"}))
    assert (
        folder.read_summary()["status"] == restore(folder.path).summary["status"] == "interrupted"
    )
    with locked(folder.lock) as got_it:
        assert got_it
        assert folder.read_summary()["status"] == "running"


# Signals


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_spoil_what_is_being_saved(first, tiny_run, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def save_checkpoint_twice_interrupted(*arguments):
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), first)
        save_checkpoint(*arguments)

    monkeypatch.setattr(
        "lstm_lm.training.checkpoint.save_checkpoint", save_checkpoint_twice_interrupted
    )
    with pytest.raises(Stopped):
        train(tiny_run("checkpoint.every_steps=5"), folder)
    assert load_checkpoint(folder / "checkpoints/last.ckpt")["global_step"] == 5
    assert summary_of(folder)["status"] == "interrupted"


def test_a_second_control_c_ends_a_step_at_once(tiny_run, tmp_path, monkeypatch):
    folder, steps = tmp_path / "run", []

    def training_step(self, batch, batch_index):
        steps.append(self.global_step)
        if self.global_step == 7:
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("went on")
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("not reached")
        return original(self, batch, batch_index)

    original = LanguageModelModule.training_step
    monkeypatch.setattr(LanguageModelModule, "training_step", training_step)
    with pytest.raises(Stopped):
        train(tiny_run("checkpoint.every_steps=5"), folder)
    assert steps[-1] == "went on"
    assert load_checkpoint(folder / "checkpoints/last.ckpt")["global_step"] == 5


@pytest.mark.parametrize(("error", "code"), [(SIGTERMException, 143), (KeyboardInterrupt, 130)])
def test_a_signal_that_lightning_notices_first_counts_all_the_same(
    error, code, tiny_run, tmp_path, monkeypatch
):
    def training_step(self, batch, batch_index):
        if self.global_step == 7:
            raise error
        return original(self, batch, batch_index)

    original = LanguageModelModule.training_step
    monkeypatch.setattr(LanguageModelModule, "training_step", training_step)
    with pytest.raises(Stopped) as stopped:
        train(tiny_run("checkpoint.every_steps=5"), tmp_path / "run")
    assert stopped.value.code == code
    assert summary_of(tmp_path / "run")["status"] == "interrupted"


def send(number):
    os.kill(os.getpid(), number)


def test_the_second_control_c_counts_whatever_came_between():
    with pytest.raises(Stopped) as error, StopSignals() as signals:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        send(signal.SIGHUP)
        with signals.deferred():
            send(signal.SIGINT)
        send(signal.SIGINT)
        raise AssertionError("not reached")
    assert error.value.code == 143  # what came first


def test_where_nothing_is_half_done_a_signal_counts_at_once():
    with StopSignals() as signals:
        with pytest.raises(Stopped), signals.interruptible():
            send(signal.SIGTERM)
        with pytest.raises(Stopped), signals.interruptible():  # it has come already
            raise AssertionError("not reached")


def test_a_run_that_nohup_has_started_goes_on_without_its_terminal(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            send(signal.SIGHUP)
            signals.raise_if_stopped()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_that_cannot_even_begin_to_go_on_keeps_its_figures(cut_run, monkeypatch):
    folder = cut_run()
    before = contents(folder)

    def broken(*_):
        raise ValueError("broken")

    monkeypatch.setattr(LanguageModelModule, "on_fit_start", broken)
    with pytest.raises(ValueError, match="broken"):
        resume(folder, {})
    assert contents(folder) == before


def test_slurm_is_asked_to_run_the_job_again(tiny_run, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(process.subprocess, "run", lambda *call, **_: commands.append(call))
    monkeypatch.setenv("SLURM_JOB_ID", "77")

    def training_step(self, batch, batch_index):
        if self.global_step == 7:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, batch, batch_index)

    with monkeypatch.context() as patch:
        original = LanguageModelModule.training_step
        patch.setattr(LanguageModelModule, "training_step", training_step)
        with pytest.raises(Stopped) as error:
            train(tiny_run(), tmp_path / "run")
    assert error.value.code == 128 + signal.SIGUSR1
    assert commands == [(["scontrol", "requeue", "77"],)]
    assert load_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 8
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert process.slurm_job() == "70_3"
    assert resume(tmp_path / "run", {})["status"] == "completed"


def test_an_exception_in_the_update_saves_nothing_half_done(tiny_run, tmp_path, monkeypatch):
    def optimizer_step(self, *arguments):
        LightningModule.optimizer_step(self, *arguments)
        if self.global_step == 8:
            raise ValueError("broken")

    monkeypatch.setattr(LanguageModelModule, "optimizer_step", optimizer_step)
    with pytest.raises(ValueError, match="broken"):
        train(tiny_run("checkpoint.every_steps=5"), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 5
