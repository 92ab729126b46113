"""Compose a config in Python as the command line does: same settings, checks and messages.

Hydra keeps its state in globals, for one program. Here that state is borrowed by one thread at a
time and restored afterwards, even inside another ``@hydra.main``.
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
    check_settings_exist,
    explain_typed,
    explicit_settings,
    register,
    run_config,
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
        SettingsError: if a setting does not exist or is out of range; with the message that the
            command prints.
    """
    with composed(overrides) as (config, folder):
        return ComposedConfig(**vars(run_config(config, overrides)), output=folder)


def compose_resume(overrides: Sequence[str], before: RunConfig) -> dict[str, Any]:
    """The changed settings of a resume, by their dotted names, without defaults.

    Args:
        before: the settings of the run.

    Raises:
        SettingsError: as :func:`compose` does.
    """
    with composed(overrides) as (config, folder):
        if config.resume is not None or folder is not None:
            raise SettingsError("a run resumes in its folder: leave out resume and hydra.run.dir")
        check_settings_exist(config)
        return explicit_settings(overrides, settings_of(before))


@contextlib.contextmanager
def composed(overrides: Sequence[str]) -> Iterator[tuple[DictConfig, str | None]]:
    """Context manager: the composed config, and the run folder if the overrides name one."""
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
            is_default = "${run_folder:" in OmegaConf.to_yaml(config.hydra.run)  # unresolved
            folder = str(config.hydra.run.dir)  # checks resume, too
            with open_dict(config):
                del config["hydra"]
            yield config, None if is_default else folder
    except SettingsError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise SettingsError(explain_typed(error)) from error


@contextlib.contextmanager
def borrowed_hydra() -> Iterator[None]:
    """Context manager: Hydra with this project's settings; its other state is restored."""
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
            store.update(stored)  # keeps entries that Hydra's plugins have added
            GlobalHydra.instance().hydra = before
            HydraConfig.instance().cfg = config
            VersionBase.instance().version_base = version


def conf_folder() -> Path:
    """Folder of the YAML files: in the package in a wheel, beside ``src`` in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parents[1] / "conf"


def register_resolver() -> None:
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)


def run_folder(resume: str | None, fresh: str) -> str:
    """The run folder for ``hydra.run.dir``; checked here, before Hydra creates it."""
    if resume is None or resume == "auto":
        return fresh
    try:
        is_run = (Path(resume) / "config.yaml").is_file()
    except OSError as error:
        raise SettingsError(f"cannot read {resume}: {error.strerror}") from error
    if not is_run:
        raise SettingsError(f"resume={resume} is not a run's folder: it has no config.yaml")
    return resume
