"""Several processes train one run: together they do what one does, and end together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from lstm_lm.checkpoint_file import load_checkpoint
from lstm_lm.config import DeviceConfig
from lstm_lm.errors import LostRank, SettingsError, Stopped
from lstm_lm.experiment import resume, train
from lstm_lm.ranks import Ranks
from lstm_lm.training import processes
from lstm_lm.training.exact_resume import ExactResume
from lstm_lm.training.followers import Followers

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"
LONG = [
    "data.max_tokens=20000",
    "data.batch_size=8",
    "data.num_steps=16",
    "model.hidden_size=16",
    "samples.tokens=10",
    "device=ddp",
    "device.accelerator=cpu",
    "training.epochs=1000",
]


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def curves(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = set(events.Tags()["scalars"]) - {"tokens_per_second"}
    return {
        tag: torch.tensor([[event.step, event.value] for event in events.Scalars(tag)])
        for tag in tags
    }


def figures(folder):
    """All losses of the summary and the checkpoint, which has them with all their digits."""
    latest = load_checkpoint(folder / "checkpoints/last.ckpt")["callbacks"]["Measurements"][
        "latest"
    ]
    in_summary = {k: v for k, v in summary_of(folder).items() if "loss" in k or k == "tokens"}
    return in_summary | {name: value for name, value in latest.items() if "second" not in name}


def weights(folder):
    return load_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]


@pytest.mark.parametrize(
    ("order", "core", "cell", "evaluation_rows"),  # of which neither can be shared out evenly
    [("consecutive", "scratch", "lstm", 5), ("random", "builtin", "gru", 1)],
)
def test_two_ranks_do_what_one_does(order, core, cell, evaluation_rows, tiny_run, tmp_path):
    settings = (
        f"data.order={order}",
        f"model.core={core}",
        f"model.cell={cell}",
        f"data.evaluation_rows={evaluation_rows}",
        "optimizer.schedule=plateau",
        "optimizer.plateau_patience=0",
        "device.precision=64-true",
        "training.log_every=1",
    )
    for ranks in 1, 2:
        train(tiny_run(*settings, f"device.devices={ranks}"), tmp_path / str(ranks))
    one, two = tmp_path / "1", tmp_path / "2"
    assert_close(curves(two), curves(one), rtol=1e-6, atol=0)  # as TensorBoard rounds them
    assert_close(figures(two), figures(one), rtol=1e-10, atol=0)
    assert_close(weights(two), weights(one), rtol=1e-10, atol=1e-12)
    assert summary_of(one)["fingerprint"] == summary_of(two)["fingerprint"]
    assert [summary_of(folder)["ranks"] for folder in (one, two)] == [1, 2]


@pytest.fixture
def at_step(monkeypatch):
    """Do something in the middle of a step of the first rank, given its followers."""
    all_followers = []

    def remember(self):
        all_followers.append(self)
        return enter(self)

    enter = Followers.__enter__
    monkeypatch.setattr(Followers, "__enter__", remember)

    def set_up(step, action):
        def act(self, trainer, *_):
            if trainer.global_step == step:
                action(all_followers[-1].processes)

        monkeypatch.setattr(ExactResume, "on_train_batch_start", act, raising=False)
        return all_followers

    return set_up


def test_a_run_whose_rank_was_killed_goes_on_exactly(tiny_run, tmp_path, assert_same_end, at_step):
    # Three, as two ranks' gradients are the same whichever is added to the other.
    config = tiny_run(
        "data.batch_size=9",
        "model.num_layers=2",
        "model.dropout=0.3",
        "optimizer.name=adamw",
        "training.log_every=7",
        "checkpoint.every_steps=5",
        "device.devices=3",
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, whole)
    all_followers = at_step(18, lambda processes: processes[2].kill())
    with pytest.raises(LostRank, match="a process of this run, rank 2, was ended by SIGKILL"):
        train(config, cut)
    assert {process.poll() for process in all_followers[-1].processes.values()} <= {-9, 3}
    assert (summary_of(cut)["status"], summary_of(cut)["steps"]) == ("failed", 18)
    saved = load_checkpoint(cut / "checkpoints/last.ckpt")
    assert saved["global_step"] == 15
    states = [states["cpu"] for states in saved["callbacks"]["ExactResume"]["random"]]
    assert len(states) == 3 and not torch.equal(states[0], states[1])
    at_step(-1, None)
    resume(cut, {})
    assert_same_end(whole, cut)


def test_a_run_may_go_on_with_another_number_of_ranks(tiny_run, tmp_path, at_step):
    config = tiny_run("device.precision=64-true", "model.num_layers=2", "device.devices=2")
    at_step(20, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    two, one = tmp_path / "two", tmp_path / "one"
    with pytest.raises(Stopped):
        train(config, two)
    at_step(-1, None)
    resume(two, {"device.devices": 1})
    train(replace(config, device=replace(config.device, devices=1)), one)
    assert_close(curves(two), curves(one), rtol=1e-6, atol=0)
    assert_close(weights(two), weights(one), rtol=1e-10, atol=1e-12)
    assert summary_of(two)["ranks"] == 1


def test_all_ranks_go_by_one_clock_and_stop_after_the_same_step(
    tiny_run, tmp_path, at_step, monkeypatch
):
    config = tiny_run("device.devices=2", "training.epochs=1000", "checkpoint.every_minutes=0.001")
    # The first one's, which here is so fast that it saves after every step.
    fast = SimpleNamespace(monotonic=lambda: 1000 * time.monotonic())
    monkeypatch.setattr("lstm_lm.ranks.time", fast)
    all_followers = at_step(20, lambda processes: processes[1].send_signal(signal.SIGTERM))
    with pytest.raises(Stopped) as stopped:
        train(config, tmp_path / "run")
    assert stopped.value.code == 143
    assert all_followers[-1].processes[1].poll() is not None
    summary = summary_of(tmp_path / "run")
    previous = load_checkpoint(tmp_path / "run/checkpoints/previous.ckpt")["global_step"]
    saved = load_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"]
    assert summary["status"] == "interrupted"
    assert summary["steps"] == saved == previous + 1 > 20


class Commands:
    """Processes that are killed in the end, whatever becomes of the test."""

    def __init__(self):
        self.processes = []

    def start(self, *settings, **environment):
        process = subprocess.Popen(
            [sys.executable, str(TRAIN), *settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )
        self.processes.append(process)
        return process


@pytest.fixture
def commands():
    commands = Commands()
    yield commands
    for process in commands.processes:
        process.kill()
        process.communicate()


def wait_for(condition, *processes):
    end = time.monotonic() + 600
    while not condition():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < end
        time.sleep(0.02)


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(child) for child in found.stdout.split()]


def is_alive(pid):
    state = subprocess.run(["ps", "-o", "stat=", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and "Z" not in state


def test_no_process_outlives_the_first(tmp_path, commands):
    folder = tmp_path / "run"
    first = commands.start(*LONG, f"hydra.run.dir={folder}")
    wait_for((folder / "checkpoints/last.ckpt").exists, first)
    (follower,) = children(first.pid)
    first.kill()
    first.wait()
    wait_for(lambda: not is_alive(follower))
    assert summary_of(folder)["status"] == "running"  # it could not say otherwise
    again = commands.start(f"resume={folder}")
    saved = summary_of(folder)["steps"]
    wait_for(lambda: summary_of(folder)["steps"] > saved, again)
    (follower,) = children(again.pid)
    again.send_signal(signal.SIGINT)
    output, errors = again.communicate(timeout=600)
    assert (again.returncode, errors) == (130, "")
    assert "2 processes, each with 4 rows of a batch" in output
    assert f"resume={folder}" in output and not is_alive(follower)


def test_a_follower_that_waits_ends_with_the_first_rank():
    with socket.create_server(("127.0.0.1", 0)) as never_answers:
        port = str(never_answers.getsockname()[1])
        command = [sys.executable, "-m", "lstm_lm.training.follower_process", "1", "2", port, "cpu"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            process.stdin.close()  # as the system does when its holder is killed
            try:
                assert process.wait(timeout=30) == 1
            finally:
                process.kill()


def test_ranks_that_were_started_from_outside_come_together(tmp_path, commands):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "run"
    settings = *LONG, f"hydra.run.dir={folder}", "resume=auto"
    both = [
        commands.start(
            *settings,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        for rank in (0, 1)
    ]
    wait_for((folder / "checkpoints/last.ckpt").exists, *both)
    for process in both:
        process.send_signal(signal.SIGTERM)
    (output, errors), others = (process.communicate(timeout=600) for process in both)
    assert (both[0].returncode, errors) == (143, "")
    assert "to go on" in output
    assert (both[1].returncode, others) == (0, ("", ""))
    assert summary_of(folder)["status"] == "interrupted"


def test_what_cannot_be_shared_out_is_refused(tiny_run, tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match="data.batch_size=3 .* choose data.batch_size=4"):
        tiny_run("data.batch_size=3", "device.devices=2")
    with pytest.raises(SettingsError, match="device.nodes=2 needs torchrun or srun"):
        train(tiny_run("device.nodes=2"), tmp_path / "run")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SettingsError, match="4 processes .* = 2: choose them to make 4"):
        train(tiny_run("device.devices=2"), tmp_path / "run")
    assert not list(tmp_path.glob("run"))


def test_slurm_says_which_rank_a_process_is(monkeypatch):
    for name in "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK":
        monkeypatch.setenv(name, "")  # so that it is as before when the test is over
        monkeypatch.delenv(name)
    slurm = {"PROCID": 5, "LOCALID": 1, "STEP_NUM_TASKS": 8, "STEP_NODELIST": "node[03-04]"}
    for name, value in (slurm | {"JOB_ID": 123456}).items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    place = processes.given_place(DeviceConfig(devices=4, nodes=2))
    assert place == processes.Place(number=5, local_number=1, count=8)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node03", "18456")
    assert processes.given_place(DeviceConfig()) is None  # a run of its own in each task


@pytest.mark.parametrize(("total", "count"), [(32, 2), (5, 3), (2, 4)])
def test_each_row_is_owned_by_one_rank(total, count, monkeypatch):
    monkeypatch.setattr(Ranks, "agree", lambda self, signal: signal)
    rows = [range(total)[Ranks(number, count).rows(total)] for number in range(count)]
    assert [row for some in rows for row in some] == list(range(total))
