"""How the ranks of a run come together.

torchrun and srun start all of them, on any number of nodes. Started alone, a process is the first
rank and starts the others itself, as long as they are on this computer:

    scripts/train.py                      rank 0; writes, prints, decides
      └ follower_process.py 1 4 …         rank 1; ends when rank 0 does, however that ends
      └ follower_process.py 2 4 …         …
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from torch import distributed
from torch.distributed import Store, TCPStore, rendezvous

from lstm_lm.config import DeviceConfig
from lstm_lm.errors import LostRank, RunFailed, SettingsError
from lstm_lm.machine import choose_device
from lstm_lm.ranks import ALONE, Ranks, somebody
from lstm_lm.training.followers import Followers
from lstm_lm.training.stop_signals import StopSignals

MEETING = timedelta(minutes=10)
# While the first rank reads a text, saves or writes samples, the others wait for it. It need not
# wait so long for them; now and then gloo does not notice that one of them was killed.
PATIENCE, PATIENCE_OF_FIRST = timedelta(hours=2), timedelta(minutes=10)
HERE = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """Of one rank among all."""

    number: int
    local_number: int  # on its node
    count: int


def given_place(config: DeviceConfig) -> Place | None:
    """The place that torchrun or srun gave to this process; None if it was started alone.

    Raises:
        SettingsError: if they started another number of ranks than the settings say.
    """
    place, given = None, os.environ
    if int(given.get("WORLD_SIZE", 1)) > 1 and "RANK" in given:
        local_number = int(given.get("LOCAL_RANK", 0))
        place = Place(int(given["RANK"]), local_number, int(given["WORLD_SIZE"]))
    elif config.ranks > 1 and int(given.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        local_number, count = int(given["SLURM_LOCALID"]), int(given["SLURM_STEP_NUM_TASKS"])
        place = Place(int(given["SLURM_PROCID"]), local_number, count)
        first_node = SLURMEnvironment.resolve_root_node_address(given["SLURM_STEP_NODELIST"])
        os.environ.setdefault("MASTER_ADDR", first_node)
        os.environ.setdefault("MASTER_PORT", str(15000 + int(given["SLURM_JOB_ID"][-4:])))
    if place is not None and place.count != config.ranks:
        if place.number > 0:
            raise SystemExit(2)  # the first one says why
        raise SettingsError(
            f"{place.count} processes were started together, but device.devices x device.nodes = "
            f"{config.ranks}: choose them to make {place.count}"
        )
    if place is None and config.nodes > 1:
        raise SettingsError(
            f"device.nodes={config.nodes} needs torchrun or srun, to start the processes of all"
        )
    return place


@contextmanager
def company(config: DeviceConfig, signals: StopSignals) -> Iterator[Ranks]:
    """All ranks of a run together, for the first of them.

    Raises:
        SettingsError: if there are not as many GPUs or processes as asked for.
        RunFailed: if they do not come together.
    """
    place = given_place(config)
    if config.ranks == 1:
        yield ALONE
        return
    choose_device(config.accelerator, config.devices)
    if place is not None:
        with joined(place, config, meet(place)) as ranks:
            yield ranks
        return
    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, threads // config.devices))
    place = Place(0, 0, config.devices)
    store = TCPStore(HERE, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
    try:
        with Followers(place.count, store.port, config.accelerator) as followers:
            while not store.check([here(number) for number in range(1, place.count)]):
                signals.heed()
                if followers.any_ended():
                    raise LostRank(followers.who_ended())
                time.sleep(0.02)
            with joined(place, config, store, followers.who_ended) as ranks:
                yield ranks
    finally:
        torch.set_num_threads(threads)


def meet(place: Place) -> Store:
    """Where ranks that were started from outside find each other."""
    try:
        url, timeout = "env://", MEETING
        store, _, _ = next(rendezvous(url, place.number, place.count, timeout=timeout))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunFailed(f"the processes of this run did not come together: {reason}") from error
    return store


def here(number: int) -> str:
    return f"rank {number} is here"


@contextmanager
def joined(
    place: Place, config: DeviceConfig, store: Store, who_ended: Callable[[], str] = somebody
) -> Iterator[Ranks]:
    """All ranks, as the one at ``place`` sees them; it can reach them while this context lasts."""
    device = choose_device(config.accelerator, config.devices, place.local_number)
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(place.local_number)
        backend = "cpu:gloo,cuda:nccl"
    patience = PATIENCE if place.number > 0 else PATIENCE_OF_FIRST
    try:
        store.set(here(place.number), "")
        distributed.init_process_group(
            backend, store=store, rank=place.number, world_size=place.count, timeout=patience
        )
    except RuntimeError as error:
        raise LostRank(who_ended()) from error
    try:
        ranks = Ranks(place.number, place.count, who_ended)
        try:
            yield ranks
        finally:
            if ranks.is_first:
                ranks.dismiss()
    finally:
        distributed.destroy_process_group()
