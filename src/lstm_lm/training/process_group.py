"""Which of the processes of a run this one is, its *rank*, and who starts them.

Each owns some rows of every batch. Two ranks and a batch of six rows:

    rank 0    rows 0 1 2   →  gradient ┐
                                       ├  mean  →  the same step on both
    rank 1    rows 3 4 5   →  gradient ┘

torchrun and srun start all of them, on any number of nodes; else Lightning starts the others, as
long as they are on this computer. Every rank runs the same program; rank 0 writes and prints.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator

import torch
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    KubeflowEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only

from lstm_lm.config import DeviceConfig
from lstm_lm.errors import Diverged, RunFailed, SettingsError, Stopped

PARENT = "LSTM_LM_PARENT"  # the process that starts the others of a run
OF_SRUN = "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS"  # for each process
# What is set for the processes that Lightning starts.
VARIABLES = (
    PARENT,
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "OMP_NUM_THREADS",
    "PL_GLOBAL_SEED",
    "WORLD_SIZE",
)


def environment_of(config: DeviceConfig) -> ClusterEnvironment:
    """What started the ranks of a run; a process alone is rank 0, whatever it runs in.

    Raises:
        SettingsError: if another number of processes was started than the settings say.
    """
    if is_started_by_torchrun():
        has_local_rank = "LOCAL_RANK" in os.environ
        environment: ClusterEnvironment = (
            TorchElasticEnvironment() if has_local_rank else KubeflowEnvironment()
        )
        started = environment.world_size()
    elif config.ranks > 1 and int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        if missing := [name for name in OF_SRUN if name not in os.environ]:
            raise SettingsError(
                f"SLURM_STEP_NUM_TASKS={os.environ['SLURM_STEP_NUM_TASKS']} says that srun started "
                f"several processes, but {', '.join(missing)} not which one this is: start them "
                "with srun, or unset SLURM_STEP_NUM_TASKS"
            )
        try:
            environment = SLURMEnvironment(auto_requeue=False)  # it would take its own file
        except RuntimeError as error:  # srun was not told how many on each node
            raise SettingsError(str(error)) from error
        started = int(os.environ["SLURM_STEP_NUM_TASKS"])
    else:
        if config.nodes > 1:
            raise SettingsError(
                f"device.nodes={config.nodes} needs torchrun or srun, to start the processes of all"
            )
        if config.ranks > 1 and "LOCAL_RANK" in os.environ and PARENT not in os.environ:
            raise SettingsError(
                f"LOCAL_RANK={os.environ['LOCAL_RANK']} in the environment says that all processes "
                f"are started together, but WORLD_SIZE does not say {config.ranks}, which is "
                "device.devices x device.nodes: unset LOCAL_RANK, or set both"
            )
        return LightningEnvironment()
    if started != config.ranks:
        raise SettingsError(
            f"{started} processes were started together, but device.devices x device.nodes = "
            f"{config.ranks}: choose them to make {started}"
        )
    return environment


def is_started_by_torchrun() -> bool:
    """Or by whatever else sets the same variables, as Kubeflow does without a local rank."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def rank_of(config: DeviceConfig) -> int:
    """This process's number among those of a run.

    Raises:
        SettingsError: as :func:`environment_of` does.
    """
    environment = environment_of(config)
    if isinstance(environment, LightningEnvironment):
        return environment.local_rank() if config.ranks > 1 else 0
    return environment.global_rank()


def local_rank_of(config: DeviceConfig) -> int:
    """Its number among those on this computer."""
    return environment_of(config).local_rank() if config.ranks > 1 else 0


@contextlib.contextmanager
def as_rank(rank: int) -> Iterator[None]:
    """Let a rank other than 0 train without a word, and end with the others or with rank 0.

    Lightning's loggers are for rank 0, of which it has an idea of its own where a scheduler
    numbers processes that have nothing to do with each other.

    It ends with code 0 where all end together, as Lightning kills them all for another code.
    """
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    if rank == 0:
        yield
        return
    logging.getLogger("lstm_lm").setLevel(logging.ERROR)
    if PARENT in os.environ:
        parent = int(os.environ[PARENT])
        threading.Thread(target=end_with_parent, args=[parent], daemon=True).start()
    try:
        yield
    except (Diverged, Stopped):
        raise SystemExit(0) from None
    except (RunFailed, SettingsError) as error:
        print(f"error on rank {rank}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def end_with_parent(parent: int) -> None:
    """End at once when it has ended, however that happened, and also if it had by now."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextlib.contextmanager
def environment_for_ranks(config: DeviceConfig) -> Iterator[None]:
    """Let the ranks that Lightning starts compute with as many threads as this one.

    What is set for them is forgotten when the run is over.
    """
    before = {name: os.environ.get(name) for name in VARIABLES}
    if config.ranks > 1:
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
        os.environ[PARENT] = str(os.getpid())
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def strategy() -> DDPStrategy:
    """Of several processes.

    By default the reducer puts gradients into other buckets after the first step, and the first
    step comes again after a resume: three ranks then add in another order, and the run would not
    end with the same bits (tried with PyTorch 2.13). It does not where it looks for parameters
    that a step did not use.
    """
    return DDPStrategy(find_unused_parameters=True)


def is_lost_rank(error: BaseException) -> bool:
    """Whether gloo or NCCL says that another process has gone."""
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        word in text for word in ("Connection closed by peer", "Connection reset", "gloo", "NCCL")
    )
