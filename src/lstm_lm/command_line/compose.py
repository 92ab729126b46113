"""What a command line stands for, composed in Python: the same settings, checks and messages.

Hydra keeps what it composes with in globals, and belongs to one program. Here it is borrowed: one
thread at a time, and what it held before is put back, also inside another ``@hydra.main``.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lstm_lm.command_line.settings import (
    explain,
    refuse_unknown_settings,
    register,
    run_config,
    typed_settings,
)
from lstm_lm.config import ComposedConfig, RunConfig, settings_of
from lstm_lm.errors import SettingsError

PACKAGE = Path(__file__).parents[1]
ONE_AT_A_TIME = threading.RLock()


def compose(overrides: Sequence[str] = ()) -> ComposedConfig:
    """The config that ``python scripts/train.py`` would train with.

        config = lstm_lm.compose(["data=time_machine", "model.hidden_size=64"])

    Args:
        overrides: settings and groups, as they are typed on the command line.

    Raises:
        SettingsError: if a setting does not exist or is out of range; the same line that the
            command prints.
    """
    with composed(overrides) as (config, folder):
        return ComposedConfig(**vars(run_config(config, overrides)), output=folder)


def compose_changes(overrides: Sequence[str], before: RunConfig) -> dict[str, Any]:
    """The settings that a run is to go on with, by their dotted names; without any default.

    Args:
        before: those of the run.

    Raises:
        SettingsError: as :func:`compose` does.
    """
    with composed(overrides) as (config, folder):
        if config.resume is not None or folder is not None:
            raise SettingsError("a run goes on in its own folder: leave out resume, hydra.run.dir")
        refuse_unknown_settings(config)
        return typed_settings(overrides, settings_of(before))


@contextlib.contextmanager
def composed(overrides: Sequence[str]) -> Iterator[tuple[DictConfig, str | None]]:
    """What Hydra makes of them, and the folder that they name, if they do."""
    if isinstance(overrides, str):
        raise SettingsError(f"settings are given as a list: [{overrides!r}]")
    try:
        with borrowed_hydra():
            config = hydra.compose("train", list(overrides), return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            if config.hydra.mode is RunMode.MULTIRUN:
                raise SettingsError(
                    "these settings make a sweep, which python scripts/train.py runs: compose its "
                    "jobs one by one"
                )
            is_default = "${run_folder:" in OmegaConf.to_yaml(config.hydra.run)  # as it is written
            folder = str(config.hydra.run.dir)  # which checks resume, too
            with open_dict(config):
                del config["hydra"]
            yield config, None if is_default else folder
    except SettingsError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise SettingsError(explain(error)) from error


@contextlib.contextmanager
def borrowed_hydra() -> Iterator[None]:
    """Hydra with this project's settings, whatever it is used for outside."""
    with ONE_AT_A_TIME:
        before = GlobalHydra.instance().hydra
        config, version = HydraConfig.instance().cfg, VersionBase.instance().version_base
        store = ConfigStore.instance().repo
        stored = dict(store)
        register()
        register_resolver()
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(str(conf_folder()), "train", version_base="1.3"):
                yield
        finally:
            store.update(stored)  # Hydra's plugins may have added to it
            GlobalHydra.instance().hydra = before
            HydraConfig.instance().cfg = config
            VersionBase.instance().version_base = version


def conf_folder() -> Path:
    """In a wheel the settings' files lie in the package, in a checkout beside ``src``."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parents[1] / "conf"


def register_resolver() -> None:
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)


def run_folder(resume: str | None, fresh: str) -> str:
    """For ``hydra.run.dir``: where a run is to be. Hydra creates it before anybody can object."""
    if resume is None or resume == "auto":
        return fresh
    try:
        is_run = (Path(resume) / "config.yaml").is_file()
    except OSError as error:
        raise SettingsError(f"cannot read {resume}: {error.strerror}") from error
    if not is_run:
        raise SettingsError(f"resume={resume} is not a run's folder: it has no config.yaml")
    return resume
