"""Several processes train one run: together they do what one does, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fork_server
import pytest
import torch
from lightning.fabric.plugins.environments import KubeflowEnvironment, SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from lstm_lm.config import DeviceConfig
from lstm_lm.errors import SettingsError
from lstm_lm.experiment import train
from lstm_lm.process import drop_malformed_rank_variables
from lstm_lm.resume import resume
from lstm_lm.saved.checkpoint_file import load_checkpoint
from lstm_lm.training.process_group import cluster_environment, local_rank_of, rank_of

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"
SMALL = [
    "data.max_tokens=20000",
    "data.batch_size=9",
    "data.num_steps=16",
    "model.hidden_size=16",
    "samples.tokens=10",
    "device=ddp",
    "device.accelerator=cpu",
]
EXACT = [
    "model.num_layers=2",
    "model.dropout=0.3",
    "optimizer.name=adamw",
    "data.variable_num_steps=true",
    "callbacks=tail_averaging",
    "training.epochs=2",
    "training.log_every=7",
    "checkpoint.every_steps=5",
    "device.devices=3",  # as two ranks' gradients are the same whichever is added to the other
]
LONG = [*SMALL, "data.batch_size=8", "training.epochs=1000"]


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def saved_steps(folder):
    file = folder / "summary.json"
    return summary_of(folder)["steps"] if file.exists() else 0


def curves(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = set(events.Tags()["scalars"]) - {"tokens_per_second"}
    return {
        tag: torch.tensor([[event.step, event.value] for event in events.Scalars(tag)])
        for tag in tags
    }


def losses(folder):
    return {k: v for k, v in summary_of(folder).items() if "loss" in k or k == "tokens"}


def weights(folder):
    return load_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]


class Commands:
    """Processes that are killed in the end, whatever becomes of the test."""

    def __init__(self):
        self.processes = []

    def start(self, *settings, program=(sys.executable, str(TRAIN)), new=False, **environment):
        process = (subprocess if new else fork_server).Popen(
            [*program, *settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )
        self.processes.append(process)
        return process

    def finish(self, *settings):
        process = self.start(*settings)
        output, errors = process.communicate(timeout=600)
        assert (process.returncode, errors) == (0, "")
        return output


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


@pytest.mark.parametrize(
    ("order", "core", "cell", "evaluation_rows"),  # of which neither can be shared out evenly
    [("consecutive", "scratch", "lstm", 5), ("random", "builtin", "gru", 1)],
)
def test_two_ranks_do_what_one_does(
    order, core, cell, evaluation_rows, tmp_path, commands, compose
):
    settings = (
        *SMALL,
        "data.batch_size=8",
        "data.max_tokens=4000",
        f"data.order={order}",
        f"data.variable_num_steps={str(order == 'consecutive').lower()}",
        "callbacks=tail_averaging",
        f"model.core={core}",
        f"model.cell={cell}",
        f"data.evaluation_rows={evaluation_rows}",
        "device.precision=64-true",
        "training.epochs=2",
        "training.log_every=1",
    )
    one, two = tmp_path / "1", tmp_path / "2"
    train(compose(*settings, "device.devices=1"), one)
    commands.finish(*settings, "device.devices=2", f"hydra.run.dir={two}")
    assert_close(curves(two), curves(one), rtol=1e-6, atol=0)  # as TensorBoard rounds them
    assert_close(losses(two), losses(one), rtol=1e-10, atol=0)
    assert_close(weights(two), weights(one), rtol=1e-10, atol=1e-12)
    assert summary_of(one)["fingerprint"] == summary_of(two)["fingerprint"]
    assert [summary_of(folder)["ranks"] for folder in (one, two)] == [1, 2]


@pytest.mark.slow
@pytest.mark.ci
def test_a_run_whose_rank_was_killed_goes_on_exactly(tmp_path, commands, assert_same_end):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    commands.finish(*SMALL, *EXACT, f"hydra.run.dir={whole}")
    first = commands.start(*SMALL, *EXACT, f"hydra.run.dir={cut}", new=True)
    wait_for(lambda: saved_steps(cut) >= 20, first)
    others = children(first.pid)
    os.kill(others[1], signal.SIGKILL)
    began = time.monotonic()
    _, errors = first.communicate(timeout=600)
    assert first.returncode in (1, -9)  # Lightning kills the rest, where gloo did not notice
    assert first.returncode == -9 or "another process of this run ended" in errors
    wait_for(lambda: not any(map(is_alive, others)))
    assert time.monotonic() - began < 30
    saved = load_checkpoint(cut / "checkpoints/last.ckpt")
    states = [states["cpu"] for states in saved["lstm_lm"]["random"]]
    assert len(states) == 3 and not torch.equal(states[0], states[1])
    assert 20 <= saved["global_step"] < summary_of(whole)["steps"]
    commands.finish(f"resume={cut}")
    assert_same_end(whole, cut)


@pytest.mark.slow
def test_a_run_may_go_on_with_another_number_of_ranks(tmp_path, commands):
    often = "training.epochs=2", "training.log_every=7", "checkpoint.every_steps=5"
    settings = *SMALL, *often, "data.batch_size=8", "device.precision=64-true"
    two, one = tmp_path / "two", tmp_path / "one"
    first = commands.start(*settings, "device.devices=2", f"hydra.run.dir={two}")
    wait_for(lambda: saved_steps(two) >= 20, first)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=600)
    assert first.returncode == 143
    resume(two, {"device.devices": 1})
    commands.finish(*settings, "device.devices=1", f"hydra.run.dir={one}")
    assert_close(curves(two), curves(one), rtol=1e-6, atol=0)
    assert_close(weights(two), weights(one), rtol=1e-10, atol=1e-12)
    assert summary_of(two)["ranks"] == 1


def test_all_ranks_stop_after_the_same_step_whichever_is_told(tmp_path, commands):
    folder = tmp_path / "run"
    first = commands.start(*LONG, "checkpoint.every_steps=3", f"hydra.run.dir={folder}")
    wait_for(lambda: saved_steps(folder) >= 20, first)
    (other,) = children(first.pid)
    os.kill(other, signal.SIGTERM)
    output, errors = first.communicate(timeout=600)
    assert (first.returncode, errors) == (143, "")
    assert not is_alive(other)
    summary = summary_of(folder)
    saved = load_checkpoint(folder / "checkpoints/last.ckpt")["global_step"]
    assert summary["status"] == "interrupted"
    assert summary["steps"] == saved >= 20


@pytest.mark.slow
def test_no_process_outlives_the_first(tmp_path, commands):
    folder = tmp_path / "run"
    first = commands.start(*LONG, f"hydra.run.dir={folder}", new=True)
    wait_for((folder / "checkpoints/last.ckpt").exists, first)
    (other,) = children(first.pid)
    first.kill()
    first.wait()
    wait_for(lambda: not is_alive(other))
    assert summary_of(folder)["status"] == "running"  # it could not say otherwise
    again = commands.start(f"resume={folder}")
    saved = summary_of(folder)["steps"]
    wait_for(lambda: summary_of(folder)["steps"] > saved, again)
    (other,) = children(again.pid)
    again.send_signal(signal.SIGINT)
    output, errors = again.communicate(timeout=600)
    assert (again.returncode, errors) == (130, "")
    assert "2 processes, each with 4 rows of a batch" in output
    assert f"resume={folder}" in output and not is_alive(other)


def test_ranks_that_torchrun_started_come_together(tmp_path, commands):
    folder = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launcher = commands.start(
        *LONG, f"hydra.run.dir={folder}", "resume=auto", program=[*torchrun, str(TRAIN)]
    )
    wait_for((folder / "checkpoints/last.ckpt").exists, launcher)
    launcher.send_signal(signal.SIGTERM)
    output, _ = launcher.communicate(timeout=600)
    assert output.count("to resume") == 1
    assert summary_of(folder)["status"] == "interrupted"


def test_what_cannot_be_shared_out_is_refused(tiny_run, tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match="data.batch_size=3 .* choose data.batch_size=4"):
        tiny_run("data.batch_size=3", "device.devices=2")
    with pytest.raises(SettingsError, match="device.nodes=2 needs torchrun or srun"):
        train(tiny_run("device.nodes=2"), tmp_path / "run")
    for name in "RANK", "LOCAL_RANK", "GROUP_RANK":
        monkeypatch.setenv(name, "0")
    for name in "WORLD_SIZE", "LOCAL_WORLD_SIZE":
        monkeypatch.setenv(name, "4")
    with pytest.raises(SettingsError, match="4 processes .* = 2: it must be 4"):
        train(tiny_run("device.devices=2"), tmp_path / "run")
    assert not list(tmp_path.glob("run"))


def test_slurm_says_which_rank_a_process_is(monkeypatch):
    slurm = {"PROCID": 5, "LOCALID": 1, "NTASKS": 8, "STEP_NUM_TASKS": 8, "JOB_ID": 123456}
    slurm |= {"NTASKS_PER_NODE": 4, "NODEID": 1}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    config = DeviceConfig(devices=4, nodes=2)
    environment = cluster_environment(config)
    assert isinstance(environment, SLURMEnvironment) and not environment.auto_requeue
    assert rank_of(config) == 5
    assert rank_of(DeviceConfig()) == 0  # a run of its own in each task
    with pytest.raises(SettingsError, match="8 processes .* = 2: it must be 8"):
        rank_of(DeviceConfig(devices=2))
    monkeypatch.setenv("SLURM_PROCID", "fifth")
    monkeypatch.delenv("SLURM_NODEID")
    drop_malformed_rank_variables()
    with pytest.raises(SettingsError, match="=8 says .* without SLURM_PROCID, SLURM_NODEID"):
        rank_of(config)


SCHEDULERS = {
    "slurm": "SLURM_JOB_ID=4242 SLURM_JOB_NAME=train SLURM_NTASKS=4 SLURM_PROCID=3 SLURM_LOCALID=3 "
    "SLURM_NODEID=0 SLURM_NODELIST=localhost",
    "torchrun of one": "TORCHELASTIC_RUN_ID=a RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 GROUP_RANK=0",
    "lsf": "LSB_JOBID=7 LSB_DJOB_RANKFILE=/nowhere JSM_NAMESPACE_RANK=2 JSM_NAMESPACE_SIZE=4 "
    "JSM_NAMESPACE_LOCAL_RANK=2",
    "mpi": "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 PMI_RANK=1 PMI_SIZE=4",
    "kubeflow": "KUBERNETES_PORT=tcp://10.0.0.1 MASTER_ADDR=a MASTER_PORT=1 RANK=0 WORLD_SIZE=1",
    "nothing said": "RANK= LOCAL_RANK= SLURM_PROCID= WORLD_SIZE= NODE_RANK= MASTER_PORT=",
}


def variables(settings):
    return dict(setting.split("=") for setting in settings.split())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_one_process_among_those_of_a_scheduler_trains_alone(
    scheduler, tiny_run, tmp_path, monkeypatch
):
    for name, value in variables(SCHEDULERS[scheduler]).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # as Lightning reads it when it is imported
    drop_malformed_rank_variables()
    assert train(tiny_run("training.epochs=1"), tmp_path / "run")["status"] == "completed"
    assert list(tmp_path.glob("run/events.out.tfevents.*"))
    assert resume(tmp_path / "run", {"training.epochs": 2})["epochs"] == 2


@pytest.mark.parametrize(
    "scheduler", ["slurm", pytest.param("nothing said", marks=pytest.mark.slow)]
)
def test_a_sweep_trains_its_jobs_alone(scheduler, tmp_path, commands):
    small = "data.max_tokens=2000", "model.hidden_size=8", "samples.tokens=5"
    grid = "-m", "device=cpu", "seed=1,2", "training.epochs=1", *small
    folder = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    sweep = commands.start(*grid, folder, **variables(SCHEDULERS[scheduler]))
    output, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, output
    assert len(list(tmp_path.glob("sweep/*/events.out.tfevents.*"))) >= 2


def test_processes_of_which_some_are_missing_are_refused(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")  # Lightning would wait for the others for ever
    with pytest.raises(SettingsError, match="LOCAL_RANK=0 .* WORLD_SIZE is not 2"):
        train(tiny_run("device.devices=2"), tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("LOCAL_RANK")
    assert isinstance(cluster_environment(DeviceConfig(nodes=2)), KubeflowEnvironment)
    assert (rank_of(DeviceConfig(nodes=2)), local_rank_of(DeviceConfig(nodes=2))) == (1, 0)


def test_arguments_that_only_the_environment_has_are_refused(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_TRAINER_FAST_DEV_RUN", "true")
    with pytest.raises(SettingsError, match="unset it, and type trainer.fast_dev_run=true"):
        train(tiny_run(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_no_number_is_left_out(monkeypatch, caplog):
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("LOCAL_RANK", "")
    monkeypatch.setenv("WORLD_SIZE", "2")
    drop_malformed_rank_variables()
    assert "RANK=first in the environment is no number" in caplog.text
    assert "RANK" not in os.environ and "LOCAL_RANK" not in os.environ
    assert os.environ["WORLD_SIZE"] == "2"


BY_THE_CLOCK = """
import sys
from datetime import timedelta

import torch
from lightning import Callback, Trainer
from lstm_lm import LanguageModelModule, TextDataModule


class Tell(Callback):
    def on_train_end(self, trainer, module):
        weights = torch.cat([weight.detach().flatten() for weight in module.parameters()])
        rate = module.metrics.learning_rate
        sys.stdout.write(f"sum {weights.double().sum():.12f} rate {rate!r}\\n")


data = TextDataModule(max_tokens=20000, batch_size=8, num_steps=10)
model = {"hidden_size": 8, "embedding_size": None}
module = LanguageModelModule(len(data.vocabulary), model, {"schedule": "cosine"})
Trainer(
    max_epochs=-1, max_time=timedelta(seconds=2), accelerator="cpu", devices=2, strategy="ddp",
    callbacks=[Tell()], logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, limit_val_batches=0,
).fit(module, data)
"""


@pytest.mark.slow
def test_a_rate_that_follows_the_clock_is_the_same_on_all_ranks(tmp_path, commands):
    (tmp_path / "program.py").write_text(BY_THE_CLOCK)
    program = commands.start(program=[sys.executable, str(tmp_path / "program.py")])
    output, _ = program.communicate(timeout=600)
    assert program.returncode == 0
    one, other = [line for line in output.splitlines() if line.startswith("sum")]
    assert one == other
    assert 0 < float(one.split()[-1]) < 0.5
