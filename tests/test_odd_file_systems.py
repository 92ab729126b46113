"""Disks that lack locks, links or permissions, and names that no other program would choose."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lightning import Callback

from lstm_lm import api, experiment, runs
from lstm_lm.errors import RunFailed, SettingsError, Stopped
from lstm_lm.experiment import train
from lstm_lm.files import is_locked, locked, wait_for_lock, write_atomically
from lstm_lm.resume import resume
from lstm_lm.saved.run_folder import RunFolder

SCRIPTS = Path(__file__).parents[1] / "scripts"
ODD_MACHINE = Path(__file__).parent / "odd_machine"
NO_UTF8 = os.fsdecode(b"n\xff")
SMALL = (
    "data=text_file",
    "data.batch_size=8",
    "data.num_steps=16",
    "model.hidden_size=16",
    "training.steps=20",
    "samples.tokens=10",
    "device=cpu",
)


@pytest.mark.parametrize(
    "refused",
    [
        "flock:ENOSYS",
        "flock:ENOLCK,symlink:EPERM",
        "fsync_directory:EINVAL,chmod:EPERM",
        "fsync_directory:EBADF,link:EPERM",
        "open_directory:EACCES,chmod:ENOTSUP",
    ],
)
def test_a_run_trains_goes_on_and_is_compared_whatever_its_disk_lacks(
    refused, file_system_refuses, tiny_run, tmp_path
):
    file_system_refuses(refused)
    train(tiny_run("training.epochs=1"), tmp_path / "run")
    resume(tmp_path / "run", {"training.epochs": 2})
    (row,) = runs(tmp_path)
    assert (row["status"], row["epochs"]) == ("completed", 2)


@pytest.mark.parametrize("refused", ["fsync:EIO", "fsync:EINVAL", "fsync_directory:EIO"])
def test_what_may_not_be_on_disk_is_an_error_all_the_same(
    refused, file_system_refuses, tiny_run, tmp_path
):
    file_system_refuses(refused)
    number = getattr(errno, refused.partition(":")[2])
    with pytest.raises(SettingsError, match=f"cannot write to .*run: {os.strerror(number)}"):
        train(tiny_run(), tmp_path / "run")


@pytest.mark.parametrize("refused", ["replace:EXDEV", "replace:EACCES"])
def test_a_disk_that_cannot_rename_is_one_clear_line(refused, file_system_refuses, type_command):
    Path("text.txt").write_text("time traveller " * 1000)
    file_system_refuses(refused)
    code, _, errors = type_command("train.py", *SMALL, "data.path=text.txt", "hydra.run.dir=one")
    assert (code, errors.count("\n")) == (2, 1) and errors.startswith("error: cannot write to one:")


@pytest.mark.parametrize("name", ["é" * 127, "x" * 255, "語" * 85])
def test_a_file_may_have_the_longest_name_that_there_is(name, tmp_path):
    write_atomically(tmp_path / name, b"content")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_without_locks_it_is_said_once_that_nobody_can_know(file_system_refuses, tmp_path, caplog):
    file_system_refuses("flock:ENOTSUP")
    with locked(tmp_path / "one") as is_ours, wait_for_lock(tmp_path / "two", "waits"):
        assert is_ours and is_locked(tmp_path / "one") is None
    assert [record.message for record in caplog.records] == [
        "warning: this file system has no locks: make sure that no other process trains there"
    ]
    assert is_locked(tmp_path / "none") is False


def test_a_run_that_was_cut_off_where_there_are_no_locks_is_listed_and_goes_on(
    file_system_refuses, tiny_run, tmp_path
):
    folder = RunFolder(tmp_path / "run")
    train(tiny_run("training.epochs=1"), folder.path)
    summary = json.loads(folder.summary.read_text())
    folder.summary.write_text(json.dumps(summary | {"status": "running"}))
    assert folder.read_summary()["status"] == "interrupted"
    file_system_refuses("flock:ENOSYS")
    assert [row["status"] for row in runs(tmp_path)] == ["running"]
    assert resume(folder.path, {"training.epochs": 2})["status"] == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("sweeper", [["seed=1,2"], ["hydra/sweeper=optuna", "seed=choice(1,2)"]])
def test_a_sweep_is_done_and_run_again_on_a_disk_without_anything(sweeper, text_file, tmp_path):
    pytest.importorskip("optuna")
    lacking = "flock:ENOLCK,fsync_directory:EINVAL,chmod:EPERM,link:EPERM,symlink:EPERM"
    environment = os.environ | {"PYTHONPATH": str(ODD_MACHINE), "REFUSE": lacking}
    command = [sys.executable, str(SCRIPTS / "train.py"), "-m", *SMALL, f"data.path={text_file}"]
    trials = ["hydra.sweeper.trials=2"] if "optuna" in sweeper[0] else []
    for _ in range(2):
        finished = subprocess.run(
            [*command, *sweeper, *trials, "hydra.sweep.dir=sweep"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (finished.returncode, finished.stderr) == (0, "")
        assert finished.stdout.count("no locks") == 1
        assert "waits for another process" not in finished.stdout
    assert "0 of them done before" not in finished.stdout


@pytest.mark.parametrize("made", [f"{NO_UTF8}", f"{NO_UTF8}/runs/one", f"runs/{NO_UTF8}"])
def test_a_run_is_not_begun_where_tensorboard_could_not_write(made, type_command, text_file):
    setting = f"hydra.run.dir='{made}'"
    code, output, errors = type_command("train.py", *SMALL, f"data.path={text_file}", setting)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert "n\\udcff" in errors and "has a name that is not UTF-8" in errors
    assert os.listdir() == ["text.txt"]


def test_nor_is_a_sweep_or_anything_below_such_a_folder(
    type_command, text_file, monkeypatch, tiny_run
):
    arguments = *SMALL, f"data.path={text_file}", "seed=1,2", f"hydra.sweep.dir='{NO_UTF8}'"
    code, _, errors = type_command("train.py", "-m", *arguments)
    assert (code, errors.count("\n")) == (2, 1) and "is not UTF-8" in errors
    assert os.listdir() == ["text.txt"]
    os.mkdir(NO_UTF8)
    monkeypatch.chdir(NO_UTF8)
    code, _, errors = type_command("train.py", *SMALL, f"data.path={text_file}")
    assert (code, errors.count("\n")) == (2, 1) and "is not UTF-8" in errors
    with pytest.raises(SettingsError, match="is not UTF-8"):
        api.train(tiny_run(), "run")
    assert not os.listdir()


def test_a_folder_whose_name_is_not_utf8_can_be_used_and_compared(type_command, text_file):
    os.rename(text_file, f"{NO_UTF8}.txt")
    text = f"data.path='{NO_UTF8}.txt'"
    assert type_command("train.py", *SMALL, text, "hydra.run.dir=one")[0] == 0
    shutil.copytree("one", NO_UTF8)
    assert type_command("evaluate.py", NO_UTF8)[0] == 0
    code, output, _ = type_command("inspect_run.py", NO_UTF8, "--text", f"{NO_UTF8}.txt")
    assert (code, output) == (0, "page   n\\udcff/inside.html\n")
    code, output, _ = type_command("compare.py", "one", NO_UTF8)
    assert code == 0 and "n\\udcff" in output
    assert "n\\udcff" in Path("one/summary.md").read_text()
    more = f"init_from='{NO_UTF8}'", "hydra.run.dir=two"
    assert type_command("train.py", *SMALL, text, *more)[0] == 0
    code, _, errors = type_command("train.py", f"resume='{NO_UTF8}'")
    assert (code, errors.count("\n")) == (2, 1) and "is not UTF-8" in errors


LONG = "x" * 300


@pytest.mark.parametrize(
    "typed",
    [
        ["train.py", f"hydra.run.dir={LONG}"],
        ["train.py", "-m", "seed=1,2", f"hydra.sweep.dir={LONG}"],
        ["train.py", f"hydra.run.dir={'y/' * 2100}"],
        ["train.py", f"resume={LONG}"],
        ["train.py", f"init_from={LONG}"],
        ["train.py", "data=time_machine", f"data.root={LONG}"],
        ["train.py", "data=text_file", f"data.path={LONG}"],
        ["evaluate.py", LONG],
        ["compare.py", LONG],
    ],
)
def test_a_path_that_is_too_long_is_one_clear_line(typed, type_command):
    code, _, errors = type_command(*typed)
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: cannot ") and "File name too long" in errors
    assert not os.listdir()


@pytest.fixture
def removing(monkeypatch):
    """Let something happen to the folder of a run after its thirtieth step."""

    def let(act, then):
        class Cleaner(Callback):
            def on_train_batch_end(self, trainer, *_):
                if trainer.global_step == 30:
                    act(Path(trainer.default_root_dir))
                    then()

        monkeypatch.setattr(experiment, "build_callbacks", lambda *_: [Cleaner()])

    return let


def remove_checkpoints(folder):
    shutil.rmtree(folder / "checkpoints")


def stop_twice():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)


def test_what_a_cleaner_has_removed_is_not_said_to_be_saved(removing, tiny_run, tmp_path, caplog):
    caplog.set_level("INFO", "lstm_lm")
    removing(remove_checkpoints, stop_twice)
    with pytest.raises(Stopped):
        train(tiny_run(), tmp_path / "run")
    assert "interrupted; nothing is saved" in caplog.messages
    with pytest.raises(SettingsError, match="neither last.ckpt nor previous.ckpt") as refused:
        (tmp_path / "run/summary.json").write_text(
            (tmp_path / "run/summary.json").read_text().replace("interrupted", "completed")
        )
        resume(tmp_path / "run", {})
    assert "start a new run" in str(refused.value)


def remove_newest(folder):
    (folder / "checkpoints/last.ckpt").unlink()


def test_where_only_the_newest_was_removed_the_one_before_it_is_said_to_be_saved(
    removing, tiny_run, tmp_path, caplog
):
    caplog.set_level("INFO", "lstm_lm")
    removing(remove_newest, stop_twice)
    with pytest.raises(Stopped):
        train(tiny_run(), tmp_path / "run")
    assert "interrupted; the checkpoint before the newest is saved" in caplog.messages
    removing(lambda _: None, lambda: None)
    assert resume(tmp_path / "run", {})["status"] == "completed"


def test_checkpoints_that_were_removed_come_again_with_the_next_one(removing, tiny_run, tmp_path):
    removing(remove_checkpoints, lambda: None)
    assert train(tiny_run(), tmp_path / "run")["status"] == "completed"
    assert resume(tmp_path / "run", {"training.epochs": 4})["epochs"] == 4


def replace_checkpoints(folder):
    remove_checkpoints(folder)
    (folder / "checkpoints").write_text("a file")


@pytest.mark.parametrize(
    ("act", "reason"),
    [(replace_checkpoints, "File exists"), (shutil.rmtree, "No such file or directory")],
)
def test_a_run_whose_folder_is_gone_fails_and_says_so(
    act, reason, removing, tiny_run, tmp_path, capfd
):
    removing(act, lambda: None)
    with pytest.raises(RunFailed, match=f"cannot continue: {reason} .*; nothing is saved"):
        train(tiny_run(), tmp_path / "run")
    assert "Traceback" not in capfd.readouterr().err
    assert not (tmp_path / "run/checkpoints/last.ckpt").exists()


def test_a_checkpoint_that_is_gone_before_it_is_amended_fails_the_run(
    tiny_run, tmp_path, monkeypatch
):
    class Cleaner(Callback):
        def on_validation_start(self, trainer, *_):
            if not trainer.training:
                remove_checkpoints(Path(trainer.default_root_dir))

    monkeypatch.setattr(experiment, "build_callbacks", lambda *_: [Cleaner()])
    with pytest.raises(RunFailed, match="cannot continue: .*last.ckpt cannot be read: No such"):
        train(tiny_run("training.validate_every=2"), tmp_path / "run")


def remove_records(folder):
    for name in "config.yaml", "vocabulary.json", "summary.json":
        (folder / name).unlink()


def test_records_that_were_removed_while_it_trained_are_there_at_its_end(
    removing, tiny_run, tmp_path
):
    removing(remove_records, lambda: None)
    assert train(tiny_run(), tmp_path / "run")["status"] == "completed"
    removing(lambda _: None, lambda: None)
    assert resume(tmp_path / "run", {"training.epochs": 4})["epochs"] == 4
