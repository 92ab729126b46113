"""From what Hydra composed, and what was typed for it, to the config of a run."""

import difflib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from lstm_lm.config import Backend, RunConfig
from lstm_lm.errors import SettingsError
from lstm_lm.fingerprint import flatten

GROUPS = "data", "device", "sweep", "experiment"


def register() -> None:
    """Tell Hydra the settings, once as they are and once all without a value."""
    store = ConfigStore.instance()
    store.store("schema", RunConfig)
    nothing_chosen = [{group: None} for group in GROUPS]
    store.store(
        "only_what_is_typed", {"defaults": ["_self_", *nothing_chosen], **all_missing(RunConfig)}
    )


def run_config(composed: DictConfig, overrides: Sequence[str]) -> RunConfig:
    """The config of one run; one that starts from another has that one's model.

    Args:
        overrides: what was typed for it.

    Raises:
        SettingsError: if a setting does not exist or is out of range.
    """
    refuse_unknown_settings(composed)
    if composed.init_from is not None:
        from lstm_lm.run_folder import RunFolder  # torch: not for --help

        typed = typed_settings(overrides)
        of_model = {key: value for key, value in typed.items() if key.startswith("model.")}
        of_model.setdefault(
            "model.backend", Backend.auto
        )  # the source's was chosen for its machine
        source = RunFolder(Path(composed.init_from)).read_config(of_model)
        composed.model = OmegaConf.structured(source.model)
    return cast(RunConfig, OmegaConf.to_object(composed))


def typed_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """What is typed by itself, groups included, without any default."""
    return {
        key: value
        for key, value in flat(hydra.compose("only_what_is_typed", list(overrides))).items()
        if value != MISSING
    }


def refuse_unknown_settings(composed: DictConfig) -> None:
    known = set(settings(RunConfig))
    for key in flat(composed):
        if key not in known:  # which +key=value lets through
            raise SettingsError(f"there is no setting {key}; {nearest(key, sorted(known))}")


def nearest(wrong: str, right: list[str]) -> str:
    """The names most like a wrong one: by their last part, else as a whole."""
    last = {name: name.rpartition(".")[2] for name in right}
    close = difflib.get_close_matches(wrong.rpartition(".")[2], last.values(), cutoff=0.75)
    names = [name for part in dict.fromkeys(close) for name in right if last[name] == part]
    if names := names or difflib.get_close_matches(wrong, right):
        return f"did you mean {', '.join(names)}?"
    return f"there are {', '.join(right)}" if len(right) < 20 else "--help lists every setting"


def settings(group: type, prefix: str = "") -> Iterator[str]:
    for field in fields(group):
        if isinstance(field.type, type) and is_dataclass(field.type):
            yield from settings(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def flat(group: DictConfig) -> dict[str, Any]:
    return flatten(cast(dict[str, Any], OmegaConf.to_container(group, resolve=True)))


def all_missing(group: type) -> dict[str, Any]:
    """The settings of a config class, none of which has a value."""
    return {
        field.name: all_missing(field.type)
        if isinstance(field.type, type) and is_dataclass(field.type)
        else MISSING
        for field in fields(group)
    }


def as_setting(key: str, value: object) -> str:
    """As it must be typed, for the shell and for Hydra."""
    if re.fullmatch(r"[\w./+-]+", str(value)):
        return f"{key}={value}"
    quoted = str(value).replace("'", "\\'")
    return shlex.quote(f"{key}='{quoted}'")
