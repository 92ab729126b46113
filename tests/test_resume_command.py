"""Stopping and going on as a user types it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import fork_server
import pytest

from lstm_lm.errors import Stopped
from lstm_lm.training.session import Session

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "scripts" / "train.py"
SMALL = [
    "data.max_tokens=5000",
    "data.batch_size=8",
    "data.num_steps=16",
    "model.hidden_size=16",
    "samples.tokens=10",
    "device=cpu",
]
LONG = [*SMALL, "training.epochs=1000"]
PATIENCE = 600  # seconds, so that what hangs ends some time; nothing is expected to take so long


@pytest.fixture
def train_command(type_command):
    return lambda *settings: type_command("train.py", *settings)


@pytest.fixture
def run_folder(train_command, compose, copy_of_run):
    return copy_of_run(Path("runs/one"), compose(*SMALL, "training.steps=20"))


def summary_of(folder):
    return json.loads((Path(folder) / "summary.json").read_text())


def test_a_run_is_extended_by_what_was_typed_alone(train_command, run_folder):
    code, output, errors = train_command("resume=runs/one", "training.steps=30")
    assert (code, errors) == (0, "")
    assert "resumes after step 20" in output and "run folder   runs/one" in output
    summary = summary_of(run_folder)
    assert (summary["steps"], summary["status"]) == (30, "completed")
    assert [path.name for path in Path("runs").iterdir()] == ["one"]
    config = (run_folder / "config.yaml").read_text()
    assert "hidden_size: 16" in config and "steps: 30" in config and "resume: null" in config


def test_groups_that_are_typed_are_applied_with_all_that_is_in_them(train_command, run_folder):
    code, output, errors = train_command("resume=runs/one", "device=cpu", "samples.prompts=[a]")
    assert (code, errors) == (0, "") and "nothing to do" in output
    code, _, errors = train_command("resume=runs/one", "experiment=d2l_scratch")
    assert code == 2
    for name in ("data.text", "model.core", "model.hidden_size from 16 to 256", "model.init"):
        assert name in errors
    assert "training.epochs" not in errors


def test_what_is_typed_counts_even_if_it_is_the_default(train_command, run_folder):
    code, _, errors = train_command("resume=runs/one", "model.hidden_size=256")
    assert code == 2
    assert "cannot change model.hidden_size from 16 to 256: start a new run" in errors
    assert errors.count("\n") == 1


def test_only_the_settings_of_the_run_decide_what_is_possible(train_command, text_file):
    text = "data=text_file", f"data.path={text_file}"
    code, _, _ = train_command(*text, *SMALL[1:], "training.steps=5", "hydra.run.dir=runs/one")
    assert code == 0
    Path(text_file).rename("moved.txt")
    code, output, errors = train_command(
        "resume=runs/one", "training.epochs=null", "training.steps=7", "data.path=moved.txt"
    )
    assert (code, errors) == (0, "")
    assert summary_of("runs/one")["steps"] == 7
    assert str(Path("moved.txt").absolute()) in Path("runs/one/config.yaml").read_text()
    code, output, _ = train_command("resume=runs/one", "data.path=moved.txt")
    assert code == 0 and "nothing to do" in output


def test_a_run_goes_on_in_the_current_folder(train_command, run_folder, monkeypatch):
    monkeypatch.chdir(run_folder)
    code, output, errors = train_command("resume=.", "training.steps=21")
    assert (code, errors) == (0, "")
    assert "tensorboard --logdir ." in output


@pytest.mark.parametrize("name", ["it's", "a=b", "a, b", "ü(1)"])
def test_a_folder_with_any_name_is_given_as_it_must_be_typed(name, train_command, tmp_path):
    folder = tmp_path / name
    with Process(str(folder).replace("'", "\\'").join("''"), *LONG) as training:
        training.folder = folder
        training.wait_until_it_trains()
        _, output, errors = training.end_by(signal.SIGTERM)
    assert errors == ""
    (line,) = [line for line in output.splitlines() if line.startswith("to resume")]
    setting = shlex.split(line)[-1]
    code, output, errors = train_command(setting, f"training.steps={summary_of(folder)['steps']}")
    assert (code, errors) == (0, "")


MISTAKES = {
    "resume=runs/two": "resume=runs/two is not a run's folder: it has no config.yaml",
    "resume=auto": "resume=auto needs hydra.run.dir=",
    "resume=runs/one hydra.run.dir=runs/three": "names the folder already: leave out hydra.run.dir",
    "resume=runs/one model.hiden_size=3": "no setting model.hiden_size",
    "resume=runs/one device=tpu": "there is no device=tpu",
    "resume=runs/one training.epochs=many": "training.epochs",
    "resume=runs/one training.epochs=0": "training.epochs must be positive",
    "resume=runs/one +nonsense=1": "there is no setting nonsense",
    "-m resume=runs/one seed=1,2": "resume= resumes one run: leave out -m",
    "init_from=runs/two": "runs/two is not a run's folder",
    "init_from=runs/one model.hidden_size=8": "the weights of runs/one need model.hidden_size=16",
    "checkpoint.every_steps=0": "checkpoint.every_steps must be positive",
}


@pytest.mark.parametrize("settings", MISTAKES)
def test_a_mistake_changes_and_creates_nothing(settings, train_command, run_folder, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, output, errors = train_command(*settings.split())
    assert MISTAKES[settings] in errors
    assert code == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_auto_starts_and_goes_on_and_ends(train_command):
    command = *SMALL, "resume=auto", "hydra.run.dir=job"
    for steps, seen in ((20, "run     job"), (30, "resumes after step 20"), (30, "nothing to do")):
        code, output, errors = train_command(*command, f"training.steps={steps}")
        assert (code, errors) == (0, "")
        assert seen in output
        assert summary_of("job")["steps"] == steps
    code, _, errors = train_command(*command, "training.steps=40", "seed=5")
    assert code == 2 and "cannot change seed from 0 to 5" in errors


def test_a_new_run_takes_the_shape_of_the_one_it_starts_from(train_command, run_folder):
    code, output, errors = train_command(
        "init_from=runs/one",
        "model.core=scratch",
        "training.steps=3",
        "hydra.run.dir=runs/two",
        *(setting for setting in SMALL if "hidden_size" not in setting),
    )
    assert (code, errors) == (0, "")
    assert "started from the best weights of runs/one" in output
    code, output, errors = train_command(
        "resume=runs/two", f"init_from={Path('runs/one').absolute()}"
    )
    assert (code, errors) == (0, "") and "nothing to do" in output
    config = Path("runs/two/config.yaml").read_text()
    assert "hidden_size: 16" in config and "core: scratch" in config


@pytest.mark.parametrize(
    "core", ["scratch", "builtin", "fused model.backend=torch", "fused model.backend=cpp"]
)
def test_a_run_is_used_under_another_core(core, type_command, run_folder):
    core = f"model.core={core}".split()
    outputs = [type_command("evaluate.py", "runs/one", *core_) for core_ in ([], core)]
    assert all((code, errors) == (0, "") for code, _, errors in outputs)
    losses = [float(output.split("loss")[1].split()[0]) for _, output, _ in outputs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    code, text, errors = type_command("generate.py", "runs/one", "--prompt", "T", "--greedy", *core)
    assert (code, errors) == (0, "") and len(text) > 100
    code, _, errors = type_command("evaluate.py", "runs/one", "model.core=fast")
    assert code == 2 and "invalid choice: 'model.core=fast'" in errors


class Process:
    """A training process of its own; it is killed in the end, whatever becomes of the test."""

    def __init__(self, folder, *settings, start=fork_server.Popen, **environment):
        self.folder = folder
        self.process = start(
            [sys.executable, str(TRAIN), *settings, f"hydra.run.dir={folder}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def wait_until_it_trains(self):
        end = time.monotonic() + PATIENCE
        while not (self.folder / "checkpoints/last.ckpt").exists():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.02)

    def end_by(self, *signals):
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.3)
        output, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output, errors


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGINT, signal.SIGINT], 130),
        ([signal.SIGTERM], 143),
        ([signal.SIGTERM, signal.SIGINT], 143),
        ([signal.SIGHUP], 129),
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(signals, code, tmp_path, monkeypatch, train_command):
    folder = tmp_path / "run"
    with Process(folder, *LONG) as training:
        training.wait_until_it_trains()
        returned, output, errors = training.end_by(*signals)
    assert (returned, errors) == (code, "")
    summary = summary_of(folder)
    assert summary["status"] == "interrupted"
    (line,) = [line for line in output.splitlines() if line.startswith("to resume")]
    python, script, setting = shlex.split(line.removeprefix("to resume"))
    assert (python, script) == ("python", "scripts/train.py")
    step = summary["steps"] + 2
    code, output, errors = train_command(setting, f"training.steps={step}")
    assert (code, errors) == (0, "")
    assert summary_of(folder)["steps"] == step


# What is about to be imported, or called of the task that is trained, when the signal comes.
IMPORTS = {
    "while PyTorch is imported": "torch.nn",
    "while Lightning is imported": "lightning.pytorch",
    "while it starts": "lstm_lm.experiment",
}
CALLS = {"in validation": "validation_step", "after validation": "on_validation_epoch_end"}


@pytest.mark.parametrize("moment", [*IMPORTS, *CALLS])
def test_a_signal_at_any_moment_ends_a_run_in_good_order(moment, tmp_path):
    folder = tmp_path / "run"
    code = (
        "import os, runpy, signal, sys; sys.argv = sys.argv[1:]\n"
        "def kill(): os.kill(os.getpid(), signal.SIGTERM)\n"
        "def kill_in(original):\n"
        "    def killed(*arguments):\n"
        "        kill()\n"
        "        return original(*arguments)\n"
        "    return killed\n"
    )
    if moment in IMPORTS:
        code += (
            "sys.addaudithook(lambda event, arguments: event == 'import' and arguments[0] =="
            f" {IMPORTS[moment]!r} and kill())\n"
        )
    else:
        code += (
            "from lstm_lm.training.module import LanguageModelModule as Task\n"
            f"name = {CALLS[moment]!r}\n"
            "setattr(Task, name, kill_in(getattr(Task, name)))\n"
        )
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    run = subprocess.run if moment in IMPORTS else fork_server.run
    done = run(
        [sys.executable, "-c", code, str(TRAIN), *LONG, f"hydra.run.dir={folder}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (143, "")
    if moment in IMPORTS:
        assert not folder.exists()
    else:
        assert summary_of(folder)["status"] == "interrupted"
        assert f"to resume    python scripts/train.py resume={folder}" in done.stdout


def test_a_signal_counts_even_if_nobody_reads_what_is_printed(tmp_path):
    folder = tmp_path / "run"
    with Process(folder, *LONG) as training:
        training.wait_until_it_trains()
        training.process.stdout.close()
        training.process.send_signal(signal.SIGTERM)
        assert training.process.wait(timeout=PATIENCE) == 143
        assert training.process.stderr.read() == ""
    assert summary_of(folder)["status"] == "interrupted"


def test_slurm_stops_and_requeues_a_job(tmp_path):
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked')
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {"SLURM_JOB_ID": "42", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    slurm |= {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_LOCALID": "0"}
    slurm |= {"SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}
    folder = tmp_path / "run"
    with Process(folder, *LONG, "resume=auto", **slurm) as job:
        job.wait_until_it_trains()
        code, output, errors = job.end_by(signal.SIGUSR1)
    assert (code, errors) == (128 + signal.SIGUSR1, "")
    assert (tmp_path / "asked").read_text() == "requeue 42\n"
    steps = summary_of(folder)["steps"]
    with Process(folder, *LONG, "resume=auto", **slurm) as job:
        while summary_of(folder)["steps"] <= steps:
            assert job.process.poll() is None
            time.sleep(0.02)
        assert job.end_by(signal.SIGTERM)[0] == 143


@pytest.mark.slow
def test_two_at_once_and_a_kill(tmp_path):
    folder = tmp_path / "run"
    real = {"start": subprocess.Popen}
    with Process(folder, *LONG, **real) as first:
        first.wait_until_it_trains()
        with Process(folder, *LONG, "resume=auto", **real) as second:
            output, errors = second.process.communicate(timeout=PATIENCE)
            assert second.process.returncode == 2
            assert errors == f"error: another process is training in {folder}: wait until it ends\n"
        assert first.process.poll() is None
        first.process.kill()
        first.process.wait()
    assert summary_of(folder)["status"] == "running"  # it could not say otherwise
    with Process(folder, *LONG, "resume=auto") as third:
        steps = summary_of(folder)["steps"]
        while summary_of(folder)["steps"] <= steps:
            assert third.process.poll() is None
            time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.ci
def test_kills_at_random_moments_change_nothing(tmp_path):
    # The README tells of a longer run of the same script.
    command = [sys.executable, str(ROOT / "benchmarks/kill_and_resume.py"), "--kills", "2"]
    command += ["--cases", "lstm", "--", "training.epochs=4"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 kills" in done.stdout and "the same bits" in done.stdout


CHDIR = "hydra.job.chdir=true"


def test_paths_are_those_of_where_they_were_typed_also_if_hydra_changes_the_folder(
    train_command, monkeypatch
):
    Path("text.txt").write_text("time traveller " * 1500)
    small = "data=text_file", "data.path=text.txt", *SMALL[1:], "training.steps=20", CHDIR
    code, output, errors = train_command(*small, "hydra.run.dir=runs/one")
    assert (code, errors) == (0, "") and "run folder   runs/one\n" in output
    code, output, _ = train_command(*small, "init_from=runs/one", "hydra.run.dir=runs/two")
    assert code == 0 and "run folder   runs/two\n" in output
    code, output, _ = train_command("resume=runs/one", "training.steps=25", CHDIR)
    assert code == 0 and "run folder   runs/one\n" in output
    monkeypatch.chdir("runs/one")
    for steps, more in (30, [CHDIR]), (35, []):
        code, output, _ = train_command("resume=.", f"training.steps={steps}", *more)
        assert code == 0 and "run folder   .\n" in output
    assert sorted(os.listdir("..")) == ["one", "two"]


def test_a_refused_run_does_not_remove_the_current_folder(train_command):
    code, _, errors = train_command("data=text_file", "data.path=no.txt", "hydra.run.dir=.")
    assert code == 2 and "cannot read no.txt" in errors
    assert Path.cwd().is_dir()


def test_a_callback_writes_and_a_refused_run_leaves_where_it_would_without(train_command):
    entry = "+callbacks.mine._target_=lightning.pytorch.callbacks.ModelCheckpoint"
    where = "+callbacks.mine.dirpath=mine", "hydra.run.dir=runs/one", CHDIR
    assert train_command(*SMALL, "training.steps=20", entry, *where)[0] == 0
    assert list(Path("mine").glob("*.ckpt")) and not Path("runs/one/mine").exists()
    code, _, errors = train_command("model.hidden_size=0", "hydra.run.dir=runs/no", CHDIR)
    assert (code, errors.count("\n")) == (2, 1)
    assert os.listdir("runs") == ["one"]


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_jobs_of_a_sweep_read_and_write_there_too(launcher, train_command):
    Path("text.txt").write_text("time traveller " * 1500)
    text = "data=text_file", "data.path=text.txt", f"hydra/launcher={launcher}", CHDIR
    settings = *SMALL[1:], "training.steps=10", "seed=1", "hydra.sweep.dir=sweep"
    code, output, errors = train_command("-m", *text, *settings)
    assert (code, errors) == (0, "")
    assert len(list(Path("sweep").glob("*/summary.json"))) == 1
    assert sorted(os.listdir()) == ["sweep", "text.txt"]


def test_what_is_stopped_before_a_new_state_is_saved_goes_on_with_what_was_typed(
    train_command, run_folder, monkeypatch
):
    def stopped(*_):
        raise Stopped(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "assemble", stopped)
        _, output, _ = train_command(
            "resume=runs/one", "training.steps=30", "samples.prompts=['a b']"
        )
    assert "the run is unchanged" in output
    command = output.splitlines()[-1].removeprefix("to resume    python scripts/train.py ")
    assert train_command(*shlex.split(command))[0] == 0
    assert summary_of(run_folder)["steps"] == 30
