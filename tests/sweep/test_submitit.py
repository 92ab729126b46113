"""Sweeps by SLURM's launcher, in its local mode: resumed where a job was requeued."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fork_server
import pytest

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
TRAIN = sys.executable, str(Path(__file__).parents[2] / "scripts" / "train.py")
SETTINGS = [
    "data.max_tokens=20000",
    "data.batch_size=8",
    "data.num_steps=16",
    "model.hidden_size=8",
    "samples.tokens=10",
    "training.epochs=20",
    "device=cpu",
]
SWEEP = [*TRAIN, "-m", "hydra/launcher=submitit_local", *SETTINGS, "hydra.sweep.dir=sweep"]


@pytest.mark.slow
def test_a_job_whose_time_is_up_goes_on_when_it_is_requeued(tmp_path, assert_same_end):
    """SLURM warns a job with the same signal."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(SWEEP, cwd=tmp_path, env=environment) as sweep:
        wait_until((tmp_path / "sweep/0/progress.json").exists)
        os.kill(job_process(tmp_path), signal.SIGUSR2)
        assert sweep.wait(timeout=600) == 0
    (log,) = tmp_path.glob("sweep/.submitit/*/*.out")
    assert "Requeued job" in log.read_text()
    summary = (tmp_path / "sweep/0/summary.json").read_text()
    assert json.loads(summary)["status"] == "completed"
    assert fork_server.run(SWEEP, cwd=tmp_path, env=environment).returncode == 0
    assert (tmp_path / "sweep/0/summary.json").read_text() == summary  # nothing was to do
    alone = [*TRAIN, *SETTINGS, "hydra.run.dir=alone"]
    fork_server.run(alone, cwd=tmp_path, env=environment, check=True)
    assert_same_end(tmp_path / "sweep/0", tmp_path / "alone")


def job_process(folder):
    return next(
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if "submitit.core._submit" in command_line(process)
        and Path(os.readlink(process / "cwd")) == folder
    )


def wait_until(condition):
    until = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def command_line(process):
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""
