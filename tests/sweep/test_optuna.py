"""Searches with Optuna: what it draws from, and that they can be killed at any moment."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import fork_server
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lstm_lm.errors import SettingsError

optuna = pytest.importorskip("optuna")
from hydra_plugins.lstm_lm_optuna.sweeper import Study, distribution, values_to_check  # noqa: E402

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"
SMALL = [
    "-m",
    "hydra/sweeper=optuna",
    "data.batch_size=8",
    "data.num_steps=16",
    "data.max_tokens=10000",
    "samples.tokens=10",
    "model.embedding_size=8",
    "device=cpu",
    "hydra.sweep.dir=sweep",
]


@pytest.fixture
def search_command(type_command):
    return lambda *settings: type_command("train.py", *SMALL, *settings)


def drawn_from(typed):
    return distribution(OverridesParser.create().parse_override(typed))


def trials_in(folder):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "optuna.log"))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    return study.trials


def jobs_of(folder):
    return json.loads((folder / "sweep.json").read_text())["jobs"]


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_what_is_typed_is_what_is_drawn_from():
    numbers, choices = optuna.distributions, optuna.distributions.CategoricalDistribution
    for typed, expected in {
        "a=interval(0,0.5)": numbers.FloatDistribution(0, 0.5),
        "a=tag(log, interval(0.1, 10))": numbers.FloatDistribution(0.1, 10, log=True),
        "a=int(interval(8,16))": numbers.IntDistribution(8, 16),
        "a=range(1,4)": numbers.IntDistribution(1, 3),
        "a=range(10,1,-4)": numbers.IntDistribution(2, 10, step=4),
        "a=tag(log,range(1,65))": numbers.IntDistribution(1, 64, log=True),
        "a=range(0.5,2,0.5)": numbers.FloatDistribution(0.5, 1.5, step=0.5),
        "a=shuffle(choice(lstm,gru,lstm))": choices(["gru", "lstm"]),
        "a=16,32": choices(["16", "32"]),
        "a='x y',null,[1,2]": choices(["'x y'", "[1,2]", "null"]),
    }.items():
        assert drawn_from(typed) == expected, typed
    assert values_to_check(drawn_from("a=range(1,4)")) == (1, 3)
    assert values_to_check(drawn_from("a=2,1")) == ("1", "2")
    for typed in "a=range(4,1)", "a=tag(log,interval(0,1))", "a=tag(log,range(1,9,2))":
        with pytest.raises(SettingsError, match="cannot search a="):
            drawn_from(typed)


@pytest.fixture
def study_at(tmp_path):
    space = {typed[:1]: drawn_from(typed) for typed in ("a=interval(0,1)", "b=1,2", "c=range(9)")}

    def study_with(file="optuna.log", seed=0):
        return Study(tmp_path / file, "search", space, seed, startup_trials=3)

    return study_with


def value_of(trial):
    return math.inf if trial.number == 1 else trial.params["a"] + int(trial.params["b"])


def test_a_search_that_goes_on_proposes_what_it_would_have(study_at):
    whole = study_at()
    for _ in range(8):
        trial = whole.ask()
        whole.tell(trial, value_of(trial))
    for _ in range(8):
        study_at("other.log").ask()
        (trial,) = [t for t in study_at("other.log").trials() if not t.state.is_finished()]
        study_at("other.log").tell(trial, value_of(trial))
    in_pieces = study_at("other.log").trials()
    assert [t.params for t in in_pieces] == [t.params for t in whole.trials()]
    assert [t.values for t in in_pieces] == [t.values for t in whole.trials()]
    assert [t.state.name for t in in_pieces] == ["COMPLETE", "PRUNED", *["COMPLETE"] * 6]
    assert len({str(t.params) for t in in_pieces}) == 8
    assert study_at("third.log", seed=1).ask().params != in_pieces[0].params


def test_a_process_that_was_killed_at_any_point_leaves_a_search_that_goes_on(study_at, tmp_path):
    study = study_at()
    study.tell(study.ask(), 1.0)
    study.refuse(study.ask())
    cut_off = study.study.ask()  # before it had any settings
    cut_off.suggest_float("a", 0, 1)
    record = tmp_path / "optuna.log"
    with open(record, "ab") as file:
        file.write(b'{"op_code":5,"work')
    (tmp_path / "optuna.log.lock").symlink_to("optuna.log")  # held while it wrote
    started = time.monotonic()
    assert [trial.number for trial in study_at().trials()] == [0]
    assert study_at().ask().number == 3
    assert [trial.number for trial in study_at().trials()] == [0, 3]
    assert time.monotonic() - started < 5
    assert all(json.loads(line) for line in record.read_text().splitlines())


def test_what_cannot_be_searched_leaves_nothing(search_command, tmp_path):
    for settings, reason in {
        "model.hidden_size=8": "nothing to search: give a setting",
        "model.hidden_size=interval(8,16)": "model.hidden_size: Value '8.0'",
        "model.hidden_size=range(4,1)": "cannot search model.hidden_size=range(4,1): ",
        "model.hiden_size=range(1,4)": "no setting model.hiden_size; did you mean",
        "model.cell=choice(gru,lstm,sltm)": "model.cell: Invalid value 'sltm'",
        "model.dropout=interval(2,3)": "model.dropout must be at least 0 and below 1, not 2.",
        "seed=1,2 hydra.sweeper.trials=0": "hydra.sweeper.trials must be positive",
        "seed=1,2 hydra.sweeper.at_once=0": "hydra.sweeper.at_once must be positive",
        "seed=1,2 hydra.sweeper.trial=1": "hydra.sweeper.trial",
        "seed=1,2 hydra.sweep.dir=": "hydra.sweep.dir= cannot be a sweep's folder",
    }.items():
        code, _, errors = search_command(*settings.split())
        assert (code, errors.count("\n")) == (2, 1), errors
        assert errors.startswith("error: ") and reason in errors
        assert not list(tmp_path.iterdir()), settings


def test_without_optuna_one_line_says_what_to_install(search_command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, output, errors = search_command("seed=1,2")
    assert (code, output) == (2, "")
    assert errors == 'error: hydra/sweeper=optuna needs: pip install "lstm_lm[optuna]"\n'
    assert not list(tmp_path.iterdir())


def test_a_second_search_in_the_same_folder_is_refused(search_command, tmp_path):
    from lstm_lm.files import locked

    (tmp_path / "sweep").mkdir()
    with locked(tmp_path / "sweep/.optuna.lock"):
        code, _, errors = search_command("seed=1,2")
    assert (code, errors) == (2, "error: another process runs this search: sweep\n")
    assert (tmp_path / "sweep/.optuna.lock").exists()


def test_what_diverged_is_not_trained_again(search_command, tmp_path):
    settings = "optimizer.learning_rate=tag(log,interval(1e19,1e20))", "training.epochs=1"
    numbers = "hydra.sweeper.trials=2", "hydra.sweeper.at_once=2", "hydra.launcher.jobs=2"
    assert search_command(*settings, *numbers)[0] == 1
    assert [trial.state.name for trial in trials_in(tmp_path / "sweep")] == ["PRUNED"] * 2
    code, output, errors = search_command(*settings, *numbers)
    assert (code, errors) == (1, "")
    assert "2 jobs, 2 of them done before" in output and "started" not in output


@pytest.mark.slow
def test_what_is_refused_is_not_proposed_again(search_command, tmp_path):
    settings = "model.dropout=interval(0,3)", "training.epochs=1", "hydra.sweeper.trials=2"
    code, output, errors = search_command(*settings, "hydra.sweeper.seed=27")
    assert (code, output.count("started")) == (2, 1)
    assert errors.startswith("error: model.dropout must be at least 0 and below 1, not ")
    code, output, errors = search_command(*settings, "hydra.sweeper.seed=27")
    assert (code, errors) == (0, "")
    assert "1 jobs, 1 of them done before" in output and output.count("started") == 1
    states = [trial.state.name for trial in trials_in(tmp_path / "sweep")]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]


SEARCHED = {
    "optimizer.learning_rate": "tag(log, interval(0.1, 10))",
    "model.hidden_size": "choice(16,32)",
    "model.dropout": "interval(0,0.5)",
    "model.num_layers": "range(1,3)",
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_ten_trials_killed_and_given_again(tmp_path):
    folder = tmp_path / "sweep"
    command = [
        *(sys.executable, str(TRAIN), *SMALL, "training.epochs=3"),
        *(f"{setting}={values}" for setting, values in SEARCHED.items()),
        *("hydra.sweeper.trials=10", "hydra.sweeper.at_once=3", "hydra.launcher.jobs=3"),
    ]

    with subprocess.Popen(command, cwd=tmp_path) as process:
        wait_until(lambda: statuses(folder).count("completed") >= 3 and trains(folder), process)
        process.kill()
    wait_until(lambda: not jobs_that_run(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in summaries(folder, "completed")}
    cut_off = summaries(folder, "interrupted")[0].parent
    steps = summary_of(cut_off)["steps"]
    assert 3 <= len(before) < 10

    done = fork_server.run(command, cwd=tmp_path, capture_output=True, text=True, forks=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    jobs = jobs_of(folder)
    assert [job["status"] for job in jobs] == ["completed"] * 10
    assert len({job["name"] for job in jobs}) == 10
    parts = ["_lr", "_h", "_dropout", "_layers"]  # in all names, whether they differed yet or not
    assert all(part in job["name"] for job in jobs for part in parts)
    trials = trials_in(folder)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 10
    for trial, job in zip(trials, jobs, strict=True):
        assert {setting: job["settings"][setting] for setting in SEARCHED} == {
            setting: int(value) if setting == "model.hidden_size" else value
            for setting, value in trial.params.items()
        }
        assert summary_of(folder / job["name"])["epochs"] == 3
    assert summary_of(cut_off)["steps"] > steps > 0
    assert next(job["tries"] for job in jobs if job["name"] == cut_off.name) == 2
    assert (folder / "summary.md").exists()


def statuses(folder):
    try:
        return [job["status"] for job in jobs_of(folder)]
    except OSError:
        return []


def trains(folder):
    return any((folder / job["name"] / "progress.json").exists() for job in jobs_of(folder))


def summaries(folder, status):
    found = folder.glob("*/summary.json")
    return [path for path in found if summary_of(path.parent)["status"] == status]


def jobs_that_run(folder):
    return [
        process
        for process in Path("/proc").glob("[0-9]*")
        if "lstm_lm.commands.sweep_job" in command_line(process)
        and Path(os.readlink(process / "cwd")) == folder
    ]


def command_line(process):
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


def wait_until(condition, process=None):
    until = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < until and (process is None or process.poll() is None)
        time.sleep(0.05)


def test_a_search_needs_no_symbolic_links(file_system_refuses, study_at):
    file_system_refuses("symlink:EPERM")
    study = study_at()
    study.tell(study.ask(), 1.0)
    assert len(study.trials()) == 1
