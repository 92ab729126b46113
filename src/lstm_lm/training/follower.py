"""What all ranks but the first do: train along, without a word or a file."""

import logging
import signal
import sys
import time

import torch
from lightning import seed_everything
from torch.distributed import Store, TCPStore

from lstm_lm.config import Accelerator, DeviceConfig
from lstm_lm.data.data_module import TextDataModule
from lstm_lm.errors import Diverged, LostRank, RunFailed, SettingsError, Stopped
from lstm_lm.machine import choose_device
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.ranks import Ranks
from lstm_lm.run_folder import RunFolder
from lstm_lm.training.followers import LOST_OTHERS
from lstm_lm.training.processes import HERE, PATIENCE, Place, given_place, joined, meet
from lstm_lm.training.session import Assignment, Session
from lstm_lm.training.stop_signals import StopSignals


class FollowedFolder(RunFolder):
    """The first rank's folder, of which another one only knows what it holds."""

    def record(self, **values: object) -> None:
        self.values |= values


def follow_if_asked(config: DeviceConfig) -> None:
    """Do all there is to do, and leave, if torchrun or srun started this process to follow."""
    place = given_place(config)
    if place is None or place.number == 0:
        return
    for number in signal.SIGINT, signal.SIGTERM:  # until there is something to be finished
        signal.signal(number, signal.SIG_DFL)
    raise SystemExit(follow(place, config, meet(place)))


def follow_here(number: int, count: int, port: int, accelerator: str) -> int:
    """Follow a first rank on the same computer; the exit code."""
    config = DeviceConfig(Accelerator(accelerator), devices=count)
    store = TCPStore(HERE, port, is_master=False, timeout=PATIENCE)
    return follow(Place(number, number, count), config, store)


def follow(place: Place, config: DeviceConfig, store: Store) -> int:
    """Train along with the first rank; the exit code, 0 also where all ranks stop together."""
    logging.getLogger("lstm_lm").setLevel(logging.ERROR)
    with StopSignals() as signals:
        try:
            with joined(place, config, store) as ranks:
                told = ranks.tell()
                device = choose_device(config.accelerator, config.devices, place.local_number)
                if told is not None:
                    train_along(told, ranks, device, signals)
        except LostRank:
            return LOST_OTHERS
        except (Diverged, Stopped):
            return 0
        except (RunFailed, SettingsError) as error:
            print(f"error on rank {place.number}: {error}", file=sys.stderr)
            return 1
    return 0


def train_along(told: Assignment, ranks: Ranks, device: torch.device, signals: StopSignals) -> None:
    config, splits = told.config, told.splits
    torch.set_num_threads(told.threads)
    seed_everything(config.seed, verbose=False)
    folder = FollowedFolder(told.folder)
    folder.values = told.values
    data = TextDataModule(splits, config.data, config.seed, ranks)
    model = LanguageModel(config.model, len(splits.vocabulary)).to(device)
    now = time.monotonic()
    session = Session(config, folder, data, [], model, device, signals, now, ranks)
    session.train_and_score(told.checkpoint)
