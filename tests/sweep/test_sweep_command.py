"""Sweeps as a user types them: what they leave, and that they can be killed at any moment."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fork_server
import pytest

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"
SMALL = [
    "-m",
    "data.batch_size=8",
    "data.num_steps=16",
    "data.max_tokens=10000",
    "samples.tokens=10",
    "model.embedding_size=8",
    "device=cpu",
    "hydra.sweep.dir=sweep",
]


@pytest.fixture
def sweep_command(type_command):
    return lambda *settings: type_command("train.py", *SMALL, *settings)


def jobs_of(folder):
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    return {job["name"]: job for job in jobs}


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def files_below(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def test_lists_of_callbacks_are_jobs_and_a_refusal_starts_none(sweep_command, tmp_path):
    grid = "callbacks=[early_stopping],[early_stopping,lr_monitor],[]", "training.steps=2"
    code, _, errors = sweep_command(*grid)
    assert (code, errors.count("\n")) == (2, 1) and "differ only in callbacks" in errors
    code, _, errors = sweep_command(*grid, "trainer.max_steps=2")
    assert (code, errors.count("\n")) == (2, 1) and "trainer.max_steps is set by" in errors
    assert not list(tmp_path.iterdir())
    code, _, errors = sweep_command("callbacks=[early_stopping],[lr_monitor]", "training.steps=2")
    assert (code, errors) == (0, "")
    assert set(jobs_of(tmp_path / "sweep")) == {"000_early_stopping", "001_lr_monitor"}


def test_a_bad_value_anywhere_in_the_grid_starts_nothing(sweep_command, tmp_path):
    for settings, reason in {
        "model.hidden_size=8,0": "model.hidden_size must be positive and finite, not 0",
        "model.hidden_size=8,x": "model.hidden_size: Value 'x'",
        "model.hiden_size=8,16": "no setting model.hiden_size; did you mean model.hidden_size",
        "data.batch_size=8,9999": "a batch needs data.batch_size",
        "training.epochs=1,2": "jobs that differ only in training.epochs are one and the same job",
        "seed=1 hydra.launcher.jobs=0": "hydra.launcher.jobs must be positive and finite, not 0",
        "seed=1 hydra.launcher.job=2": "hydra.launcher.job",
        "seed=1,2 resume=runs/one": "leave out -m",
        "seed=1,2 hydra.sweep.dir=": "hydra.sweep.dir= cannot be a sweep's folder",
    }.items():
        code, output, errors = sweep_command(*settings.split())
        assert (code, errors.count("\n")) == (2, 1), settings
        assert errors.startswith("error: ") and reason in errors
        assert output in ("", "checking the settings and texts of 2 jobs\n")
        assert not list(tmp_path.iterdir())


def test_no_job_hides_another_and_what_can_be_done_later_is_left(sweep_command, tmp_path):
    settings = "device=cpu,gpu", "model.hidden_size=8,1000000", "optimizer.learning_rate=1,1e20"
    code, output, errors = sweep_command(*settings, "training.epochs=1", "hydra.launcher.jobs=2")
    assert (code, errors) == (1, "")
    jobs = jobs_of(tmp_path / "sweep")
    assert {name: job["status"] for name, job in jobs.items()} == {
        "000_cpu_h8_lr1": "completed",
        "001_cpu_h8_lr1e+20": "diverged",
        "002_cpu_h1000000_lr1": "failed",
        "003_cpu_h1000000_lr1e+20": "failed",
        "004_gpu_h8_lr1": "failed",
        "005_gpu_h8_lr1e+20": "failed",
        "006_gpu_h1000000_lr1": "failed",
        "007_gpu_h1000000_lr1e+20": "failed",
    }
    assert jobs["004_gpu_h8_lr1"]["error"] == "no GPU here"
    assert "does not fit into memory" in jobs["002_cpu_h1000000_lr1"]["error"]
    assert jobs["002_cpu_h1000000_lr1"]["tries"] == 1  # it would not fit again
    assert "not finite" in jobs["001_cpu_h8_lr1e+20"]["error"]
    last = output.splitlines()[-1]
    assert last.startswith("to resume    python ") and "device=cpu,gpu" in last
    assert last.endswith("hydra.sweep.dir=sweep")
    for file in "summary.md", "summary.csv", "best.yaml", "heat_map.png", "learning_curves.png":
        assert (tmp_path / "sweep" / file).stat().st_size > 100
    log = (tmp_path / "sweep/002_cpu_h1000000_lr1/log.txt").read_text()
    assert log.startswith("error: the model does not fit into memory")

    before = summary_of(tmp_path / "sweep/000_cpu_h8_lr1")
    code, output, errors = sweep_command(*settings[1:], "device=cpu", "training.epochs=1")
    assert (code, errors) == (1, "")
    assert "4 jobs, 2 of them done before" in output
    assert summary_of(tmp_path / "sweep/000_cpu_h8_lr1") == before
    assert jobs_of(tmp_path / "sweep")["002_cpu_h1000000_lr1"]["tries"] == 2


@pytest.mark.slow
def test_a_sweep_that_is_done_can_be_widened_and_made_longer(sweep_command, tmp_path):
    assert sweep_command("model.hidden_size=8,16", "training.epochs=1")[0] == 0
    folder = tmp_path / "sweep"
    before = {name: summary_of(folder / name) for name in ("000_h8", "001_h16")}
    code, output, errors = sweep_command("model.hidden_size=8,12,16", "training.epochs=1")
    assert (code, errors) == (0, "")
    assert {name: summary_of(folder / name) for name in before} == before
    assert [path.name for path in sorted(folder.glob("0*"))] == ["000_h8", "001_h16", "002_h12"]
    assert output.count("started") == 1 and "to resume" not in output
    code, _, _ = sweep_command("model.hidden_size=8", "training.epochs=2")
    assert (code, summary_of(folder / "000_h8")["epochs"]) == (0, 2)
    assert summary_of(folder / "001_h16") == before["001_h16"]


def test_a_second_sweep_in_the_same_folder_is_refused(sweep_command, tmp_path):
    from lstm_lm.saved.sweep_folder import SweepFolder

    with SweepFolder(tmp_path / "sweep").locked():
        code, _, errors = sweep_command("seed=1,2")
    assert (code, errors) == (2, "error: another process is running this sweep: sweep\n")


class Sweep:
    """The command in a process of its own; whatever it leaves running ends with the block.

    Args:
        is_new: whether Python starts anew, also for the jobs, or all are forked.
    """

    SETTINGS = "model.hidden_size=8,16", "optimizer.learning_rate=1,2", "training.epochs=15"

    def __init__(self, folder, is_new=False):
        self.folder = folder
        more = {} if is_new else {"forks": True}
        self.start = functools.partial(subprocess.Popen if is_new else fork_server.Popen, **more)

    def __enter__(self):
        self.process = self.start(
            [sys.executable, str(TRAIN), *SMALL, *self.SETTINGS, "hydra.launcher.jobs=2"],
            cwd=self.folder.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self

    def __exit__(self, *_):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.kill()
            self.output = self.process.communicate(timeout=600)[0]
        for process in self.job_processes():
            os.kill(process, signal.SIGKILL)

    def job_processes(self):
        """Processes that work on jobs of this sweep, by the folders they work in."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_text().rstrip("\0").split("\0")
                if "lstm_lm.commands.sweep_job" in command and self.is_ours(process):
                    found[int(process.name)] = int(command[-1])
        return found

    def is_ours(self, process):
        return Path(os.readlink(process / "cwd")) == self.folder.parent

    def wait_until(self, condition):
        until = time.monotonic() + 600
        while not condition():
            assert time.monotonic() < until and self.process.poll() is None
            time.sleep(0.05)

    def statuses(self):
        try:
            return {name: job["status"] for name, job in jobs_of(self.folder).items()}
        except OSError:
            return {}

    def trains(self, count):
        """Whether so many jobs have begun with their steps; what was killed leaves its file."""
        started = len(self.job_processes()) >= count
        return started and len(list(self.folder.glob("*/progress.json"))) >= count


needs_proc = pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")


@pytest.mark.slow
@pytest.mark.ci
@needs_proc
def test_a_sweep_that_is_killed_again_and_again_comes_to_the_same(
    sweep_command, tmp_path, assert_same_end
):
    folder = tmp_path / "sweep"
    with Sweep(folder, is_new=True) as sweep:
        sweep.wait_until(lambda: sweep.trains(2))
        os.kill(sweep.process.pid, signal.SIGKILL)
        sweep.process.wait()
        until = time.monotonic() + 600
        while sweep.job_processes() and time.monotonic() < until:
            time.sleep(0.1)
        assert not sweep.job_processes()  # they have noticed
    with Sweep(folder, is_new=True) as sweep:
        sweep.wait_until(lambda: "completed" in sweep.statuses().values() and sweep.trains(1))
        done = {n: summary_of(folder / n) for n, s in sweep.statuses().items() if s == "completed"}
        victim = next(iter(sweep.job_processes()))
        os.kill(victim, signal.SIGKILL)
        sweep.process.send_signal(signal.SIGTERM)
        output, _ = sweep.process.communicate(timeout=600)
        assert sweep.process.returncode == 128 + signal.SIGTERM
        assert not sweep.job_processes()
        assert "running" not in sweep.statuses().values()
        assert "to resume    python" in output
    with Sweep(folder, is_new=True) as sweep:
        sweep.wait_until(lambda: sweep.trains(1))
        killed = set(sweep.job_processes())
        for process in killed:
            os.kill(process, signal.SIGKILL)
        output, _ = sweep.process.communicate(timeout=600)
        assert sweep.process.returncode == 0, output
        assert "failed" in output and "ended by SIGKILL" in output  # and tried again
    assert all(summary_of(folder / name) == summary for name, summary in done.items())
    (tmp_path / "other").mkdir()
    with Sweep(tmp_path / "other/sweep") as sweep:
        output, _ = sweep.process.communicate(timeout=600)
        assert sweep.process.returncode == 0, output
    names = sorted(jobs_of(folder))
    assert names == sorted(jobs_of(tmp_path / "other/sweep")) and len(names) == 4
    for name in names:
        assert_same_end(folder / name, tmp_path / "other/sweep" / name)


@needs_proc
def test_ctrl_c_saves_every_job(tmp_path):
    with Sweep(tmp_path / "sweep") as sweep:
        sweep.wait_until(lambda: sweep.trains(2))
        sweep.process.send_signal(signal.SIGINT)
        sweep.process.communicate(timeout=600)
        assert sweep.process.returncode == 130
        assert not sweep.job_processes()
        assert sorted(sweep.statuses().values()) == ["interrupted"] * 2 + ["waiting"] * 2
    for path in (tmp_path / "sweep").glob("*/summary.json"):
        summary = json.loads(path.read_text())
        assert summary["status"] == "interrupted" and summary["steps"] > 0


@needs_proc
def test_a_second_ctrl_c_does_not_wait(tmp_path):
    with Sweep(tmp_path / "sweep") as sweep:
        sweep.wait_until(lambda: sweep.trains(2))
        jobs = sweep.job_processes()
        for process in jobs:  # which cannot end
            os.kill(process, signal.SIGSTOP)
        sweep.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert sweep.process.poll() is None
        sweep.process.send_signal(signal.SIGINT)
        sweep.process.communicate(timeout=60)
        assert sweep.process.returncode == 130
        assert not sweep.job_processes()
        assert "running" not in sweep.statuses().values()
