"""The ranks of a run: its processes, their numbers, and who starts them.

Each rank owns some rows of every batch. Two ranks and a batch of six rows:

    rank 0    rows 0 1 2   →  gradient ┐
                                       ├  mean  →  the same step on both
    rank 1    rows 3 4 5   →  gradient ┘

torchrun and srun start all ranks, on any number of nodes; without them, Lightning starts the other
ranks on this computer. Every rank runs the same program; rank 0 writes and prints.
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

PARENT = "LSTM_LM_PARENT"  # id of the process that starts the other ranks
SRUN_VARIABLES = (
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_NTASKS",
)  # set for each process
# Variables that are set for the ranks that Lightning starts.
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


def cluster_environment(config: DeviceConfig) -> ClusterEnvironment:
    """Lightning's environment for whatever started the ranks; a single process is always rank 0.

    Raises:
        SettingsError: if the number of started processes differs from the settings.
    """
    if is_started_by_torchrun():
        has_local_rank = "LOCAL_RANK" in os.environ
        environment: ClusterEnvironment = (
            TorchElasticEnvironment() if has_local_rank else KubeflowEnvironment()
        )
        started = environment.world_size()
    elif config.ranks > 1 and int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        if missing := [name for name in SRUN_VARIABLES if name not in os.environ]:
            raise SettingsError(
                f"SLURM_STEP_NUM_TASKS={os.environ['SLURM_STEP_NUM_TASKS']} says that srun started "
                f"several processes, but their ranks are unknown without {', '.join(missing)}: "
                "start them with srun, or unset SLURM_STEP_NUM_TASKS"
            )
        try:
            environment = SLURMEnvironment(auto_requeue=False)  # it would save its own file
        except RuntimeError as error:  # without --ntasks-per-node
            raise SettingsError(str(error)) from error
        started = int(os.environ["SLURM_STEP_NUM_TASKS"])
    else:
        if config.nodes > 1:
            raise SettingsError(
                f"device.nodes={config.nodes} needs torchrun or srun to start all processes"
            )
        if config.ranks > 1 and "LOCAL_RANK" in os.environ and PARENT not in os.environ:
            raise SettingsError(
                f"LOCAL_RANK={os.environ['LOCAL_RANK']} in the environment says that all processes "
                f"are started together, but WORLD_SIZE is not {config.ranks}, which is "
                "device.devices x device.nodes: unset LOCAL_RANK, or set both"
            )
        return LightningEnvironment()
    if started != config.ranks:
        raise SettingsError(
            f"{started} processes were started together, but device.devices x device.nodes = "
            f"{config.ranks}: it must be {started}"
        )
    return environment


def is_started_by_torchrun() -> bool:
    """True if torchrun started this process, or Kubeflow, which sets no local rank."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def rank_of(config: DeviceConfig) -> int:
    """Rank of this process in its run.

    Raises:
        SettingsError: as :func:`cluster_environment` does.
    """
    environment = cluster_environment(config)
    if isinstance(environment, LightningEnvironment):
        return environment.local_rank() if config.ranks > 1 else 0
    return environment.global_rank()


def local_rank_of(config: DeviceConfig) -> int:
    """Rank of this process among those on this computer."""
    return cluster_environment(config).local_rank() if config.ranks > 1 else 0


@contextlib.contextmanager
def as_rank(rank: int) -> Iterator[None]:
    """Context manager: a rank other than 0 trains silently and ends with the others or rank 0.

    Lightning's loggers write on rank 0 only. Lightning would take the rank from a scheduler, even
    from one that numbers unrelated processes, so it is set here.

    The rank exits with code 0 if all end together, as Lightning kills all ranks for another code.
    """
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    if rank == 0:
        yield
        return
    logging.getLogger("lstm_lm").setLevel(logging.ERROR)
    if PARENT in os.environ:
        parent = int(os.environ[PARENT])
        threading.Thread(target=exit_with_parent, args=[parent], daemon=True).start()
    try:
        yield
    except (Diverged, Stopped):
        raise SystemExit(0) from None
    except (RunFailed, SettingsError) as error:
        print(f"error on rank {rank}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def exit_with_parent(parent: int) -> None:
    """End this process as soon as its parent has ended, for any reason, or had ended before."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextlib.contextmanager
def environment_for_ranks(config: DeviceConfig) -> Iterator[None]:
    """Context manager: the ranks that Lightning starts use as many threads as this one.

    The environment is restored when the run is over.
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
    """Lightning's strategy for several processes, with the same bits after a resume.

    By default the reducer puts gradients into other buckets after the first step, and each resume
    has a first step of its own: three ranks then add in another order, and the run ends with other
    bits (tried with PyTorch 2.13). With find_unused_parameters it keeps its buckets.
    """
    return DDPStrategy(find_unused_parameters=True)


def is_peer_exit(error: BaseException) -> bool:
    """True if gloo or NCCL reports that another process has ended."""
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        word in text for word in ("Connection closed by peer", "Connection reset", "gloo", "NCCL")
    )
