"""What is no file, or too large for memory, is named at once; nothing waits for it."""

import errno
import os
import shutil
import signal
import subprocess
from pathlib import Path
from threading import Thread

import pytest

from lstm_lm import machine
from lstm_lm.config import DataConfig, RunConfig, TextName
from lstm_lm.data import corpora
from lstm_lm.data.corpora import find_corpus
from lstm_lm.data.download import KnownFile
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.experiment import train
from lstm_lm.files import is_locked, read_regular
from lstm_lm.machine import memory
from lstm_lm.resume import resume
from lstm_lm.saved.checkpoint_file import load_newest
from lstm_lm.saved.load_model import restore
from lstm_lm.saved.results import read_results
from lstm_lm.saved.run_folder import RunFolder, with_absolute_paths
from lstm_lm.saved.sweep_folder import SweepFolder


@pytest.fixture(autouse=True)
def nothing_waits():
    """Whoever opens a pipe that nobody writes to fails after a while, and does not hang."""

    def give_up(*_):
        raise AssertionError("a pipe was waited for")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pipe(tmp_path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.fixture
def huge(tmp_path) -> Path:
    """More than any memory holds, and yet next to nothing on the disk."""
    with open(tmp_path / "huge.txt", "wb") as stream:
        stream.truncate(2**43)
    return tmp_path / "huge.txt"


@pytest.fixture
def run_folder(tiny_run, copy_of_run, tmp_path) -> Path:
    return copy_of_run(tmp_path / "run", tiny_run("training.epochs=1"))


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_huge(path: Path) -> None:
    os.truncate(path, 2**43)


# What becomes of a file, and what is said of it then.
SPOILED = {"it is a pipe, not a file": replace_by_pipe, "8 TiB needs 16 TiB": replace_by_huge}


@pytest.mark.parametrize("command", ["train", "sweep", "resume"])
def test_a_text_that_can_be_read_only_once_is_refused(
    command, pipe, type_command, tiny_run, tmp_path
):
    text = ["data=text_file", f"data.path={pipe}", "device=cpu"]
    if command == "sweep":
        text += ["hydra.sweep.dir=sweep", "seed=1,2", "-m"]
    if command == "resume":
        train(tiny_run("training.epochs=1"), tmp_path / "run")
        text = [f"resume={tmp_path / 'run'}", f"data.path={pipe}", "training.epochs=2"]
    code, _, errors = type_command("train.py", *text)
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.endswith("pipe: it is a pipe, not a file: save the text as a file first\n")


def test_standard_input_is_no_text_to_train_on_even_where_it_is_a_file():
    for path in "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0":
        with pytest.raises(SettingsError, match="another text in the next run: save the text as a"):
            find_corpus(DataConfig(text=TextName.file, path=path))


def test_a_path_below_the_home_of_nobody_is_named():
    with pytest.raises(SettingsError, match="cannot read ~nobody-here/text: No such file"):
        find_corpus(DataConfig(text=TextName.file, path="~nobody-here/text"))
    with_absolute_paths(RunConfig(data=DataConfig(root="~nobody-here")))


def test_a_device_or_folder_is_no_text(tmp_path):
    for path, reason in ("/dev/zero", "a device, not a file"), (tmp_path, "name a file in it"):
        with pytest.raises(SettingsError, match=reason):
            find_corpus(DataConfig(text=TextName.file, path=str(path)))


def test_what_is_no_file_below_the_data_root_is_named_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "TIME_MACHINE", KnownFile("known.txt", "0" * 64))
    os.mkfifo(tmp_path / "known.txt")
    with pytest.raises(SettingsError, match="known.txt: it is a pipe.*another data.root"):
        find_corpus(DataConfig(text=TextName.time_machine, root=str(tmp_path)))
    assert (tmp_path / "known.txt").is_fifo()


def test_a_text_to_be_evaluated_may_be_a_pipe_but_no_folder(run_folder, pipe, type_command):
    Thread(target=pipe.write_bytes, args=[b"time machine"]).start()
    code, output, _ = type_command("evaluate.py", str(run_folder), "--text", str(pipe))
    assert code == 0 and "pipe: 11 tokens" in output
    code, _, errors = type_command("evaluate.py", str(run_folder), "--text", str(run_folder))
    assert (code, errors.count("\n")) == (2, 1) and "Is a directory" in errors


def test_a_pipe_that_never_ends_is_refused_once_memory_is_full(
    run_folder, type_command, monkeypatch
):
    monkeypatch.setattr(machine, "memory", lambda: 2.0**22)
    with subprocess.Popen("yes", stdout=subprocess.PIPE) as endless:
        path = f"/dev/fd/{endless.stdout.fileno()}"
        code, _, errors = type_command("evaluate.py", str(run_folder), "--text", path)
        endless.kill()
    assert (code, errors.count("\n")) == (2, 1)
    assert "it does not fit into the memory that is left: use a part of it" in errors


def test_a_run_is_no_pipe(pipe, type_command):
    for script, *arguments in [("train.py", f"resume={pipe}"), ("evaluate.py", str(pipe))]:
        code, _, errors = type_command(script, *arguments)
        assert (code, errors.count("\n")) == (2, 1) and "is not a run's folder" in errors


@pytest.mark.parametrize("reason", SPOILED)
@pytest.mark.parametrize("name", ["summary", "vocabulary", "last"])
def test_a_record_that_cannot_be_read_is_named(name, reason, run_folder):
    folder = RunFolder(run_folder)
    folder.previous.unlink(missing_ok=True)
    SPOILED[reason](getattr(folder, name))
    with pytest.raises(DamagedFile, match=reason):
        resume(run_folder, {"training.epochs": 2})
    if name != "last":
        with pytest.raises(DamagedFile, match=reason):
            restore(run_folder)


def test_a_config_is_no_pipe_and_not_larger_than_memory(run_folder):
    config = RunFolder(run_folder).config
    replace_by_huge(config)
    with pytest.raises(DamagedFile, match="8 TiB needs 16 TiB of memory"):
        restore(run_folder)
    replace_by_pipe(config)
    with pytest.raises(SettingsError, match="has no config.yaml"):
        restore(run_folder)


@pytest.mark.parametrize("content", ["5", 100_000 * "["])
@pytest.mark.parametrize("name", ["summary.json", "vocabulary.json", "sweep.json", "loggers.json"])
def test_a_record_that_is_no_record_of_ours_is_damaged(content, name, run_folder):
    (run_folder / name).write_text(content)
    with pytest.raises(DamagedFile, match="is damaged: "):
        if name == "sweep.json":
            SweepFolder(run_folder).read()
        else:
            resume(run_folder, {"training.epochs": 2})


@pytest.mark.parametrize("spoil", SPOILED.values())
def test_the_checkpoint_before_takes_the_place_of_one_that_cannot_be_read(spoil, run_folder):
    folder = RunFolder(run_folder)
    shutil.copy(folder.last, folder.previous)
    spoil(folder.last)
    path, _ = load_newest(folder.last, folder.previous)
    assert path == folder.previous


@pytest.mark.parametrize("reason", SPOILED)
def test_a_comparison_goes_on_without_what_cannot_be_read(reason, make_run, tmp_path, caplog):
    make_run(tmp_path / "sweep/000", validation=[9.0, 5.0], best=2.0)
    (events,) = (tmp_path / "sweep/000").glob("events*")
    (tmp_path / "sweep/sweep.json").write_text("{}")
    for file in events, tmp_path / "sweep/sweep.json":
        SPOILED[reason](file)
    (result,) = read_results([tmp_path / "sweep"])
    assert (result.best, result.curves) == (2.0, {})
    assert caplog.text.count(reason) == 2
    with pytest.raises(DamagedFile, match=reason):
        SweepFolder(tmp_path / "sweep").read()


def test_a_run_goes_on_beside_curves_that_became_a_pipe(run_folder, caplog):
    events = min(run_folder.glob("events*"))
    replace_by_pipe(events)
    assert resume(run_folder, {"training.epochs": 2})["status"] == "completed"
    assert events.is_fifo() and "is not whole: the curves have a gap" in caplog.text


def test_a_lock_is_not_waited_for_if_it_is_a_pipe(pipe):
    assert not is_locked(pipe)


@pytest.mark.parametrize("command", ["train", "sweep", "evaluate"])
def test_a_text_larger_than_memory_is_named_with_both_sizes(
    command, huge, run_folder, type_command
):
    script, *arguments = "train.py", "data=text_file", f"data.path={huge}", "device=cpu"
    if command == "evaluate":
        script, *arguments = "evaluate.py", str(run_folder), "--text", str(huge)
    if command == "sweep":
        arguments += ["hydra.sweep.dir=sweep", "seed=1,2", "-m"]
    code, _, errors = type_command(script, *arguments)
    assert (code, errors.count("\n")) == (2, 1)
    assert "its 8 TiB needs 16 TiB of memory" in errors and "use a part of it" in errors
    assert f"there are only {memory() / 2**30:.4g} GiB" in errors


def test_a_text_that_has_outgrown_memory_is_not_gone_on_with(run_folder):
    os.truncate(RunFolder(run_folder).read_config().data.path, 2**43)
    with pytest.raises(SettingsError, match="its 8 TiB needs"):
        resume(run_folder, {"training.epochs": 2})


def test_a_file_is_read_whole(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert read_regular(tmp_path / "file") == b"abc"
    with pytest.raises(OSError) as error:
        read_regular(tmp_path / "none")
    assert error.value.errno == errno.ENOENT
