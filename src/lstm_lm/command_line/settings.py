"""The config of a run from what was typed and what Hydra composed; errors in one line."""

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lstm_lm.config import (
    Accelerator,
    Backend,
    RunConfig,
    TextName,
    all_settings,
    as_text,
    change,
    flatten,
    plain,
    settings_of,
)
from lstm_lm.errors import SettingsError
from lstm_lm.lightning_parts import allowed_trainer_arguments, check_packages, names

LIGHTNING_GROUPS = "logger", "callbacks"  # groups with entries of Lightning's
# Settings of the previous version, and what to do instead.
REMOVED = {
    "data.reserved_tokens": "leave it out, because no text ever contained such tokens",
    "optimizer.plateau_factor": "choose optimizer.schedule=linear or cosine",
    "optimizer.plateau_patience": "choose optimizer.schedule=linear or cosine",
}
MAIN, ONLY_TYPED = "train", "only_what_is_typed"  # names of configs
GROUPS = "data", "device", *LIGHTNING_GROUPS, "sweep", "experiment", "debug"

ONE_RUN = (
    "resume= resumes one run: leave out -m; to resume a sweep, type its command again with "
    "hydra.sweep.dir=<its folder>"
)


@dataclass
class SweepOutcome:
    """Outcome of a sweep, set by the launcher, because Hydra returns nothing to the program."""

    sweep_dir: Path | None = None
    all_completed: bool = True


outcome = SweepOutcome()


def register() -> None:
    """Register the settings with Hydra: once with their defaults, once all without a value."""
    store = ConfigStore.instance()
    store.store("schema", schema())
    nothing_chosen = [{group: None} for group in GROUPS]
    only_typed = OmegaConf.create({"defaults": ["_self_", *nothing_chosen]})
    for name in setting_names():
        OmegaConf.update(only_typed, name, {} if name in LIGHTNING_GROUPS else MISSING)
    store.store(ONLY_TYPED, only_typed)


def schema() -> type:
    """The settings and the arguments of Lightning's ``Trainer``: the only keys Hydra accepts."""
    trainer = make_dataclass("TrainerArguments", [(name, Any, MISSING) for name in names()])
    of_trainer = ("trainer", trainer, field(default_factory=trainer))
    return make_dataclass("Settings", [of_trainer], bases=(RunConfig,))


def run_config(
    composed: DictConfig, overrides: Sequence[str], config_name: str = MAIN
) -> RunConfig:
    """The config of one run; with ``init_from`` it has the model settings of the source run.

    Args:
        overrides: what was typed for it.
        config_name: the file named by ``-cn``; Hydra alone would let it override a typed group.

    Raises:
        SettingsError: if a setting does not exist or is out of range.
    """
    check_settings_exist(composed)
    for key in OmegaConf.missing_keys(composed):
        if not key.startswith("trainer."):
            raise SettingsError(f"{key} has no value: ??? is not one")
    if config_name != MAIN:
        typed = explicit_settings(overrides, flat(composed))
        if typed.get("data.text", TextName.file) != TextName.file:
            for name in "path", "validation_path", "test_path":  # they are of another text
                composed.data[name] = None
        for key, value in typed.items():
            change(composed, key, value)
    if composed.init_from is not None:
        from lstm_lm.saved.run_folder import RunFolder  # imports torch; --help must not

        folder = RunFolder(Path(composed.init_from))
        # The source's backend was chosen for its machine.
        source = settings_of(folder.read_config({"model.backend": Backend.auto}).model, "model.")
        said = explicit_settings(overrides, flat(composed) | source, config_name)
        of_model = {key: value for key, value in said.items() if key.startswith("model.")}
        composed.model = OmegaConf.structured(folder.read_config(of_model).model)
    values = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    values["trainer"] = {n: value for n, value in values["trainer"].items() if value != MISSING}
    config = OmegaConf.merge(OmegaConf.structured(RunConfig), as_text(values))
    checked = cast(RunConfig, OmegaConf.to_object(config))
    for group in LIGHTNING_GROUPS:
        for name, entry in getattr(checked, group).items():
            on_cpu = checked.device.accelerator is Accelerator.cpu
            check_packages(f"{group}.{name}", entry, on_cpu)
    return checked


def explicit_settings(
    overrides: Sequence[str], known: Mapping[str, Any], config_name: str = MAIN
) -> dict[str, Any]:
    """The typed settings alone, groups included, without any default.

    A choice of loggers or callbacks is one value: ``{"callbacks": {…}}``.

    Args:
        known: all settings by their dotted names; typed values may refer to them.
        config_name: another main file than the usual one; its settings count as typed, too.
    """
    name = ONLY_TYPED if config_name == MAIN else register_explicit_config(config_name)
    composed = hydra.compose(name, list(overrides), return_hydra_config=True)
    chosen = composed.hydra.runtime.choices
    with open_dict(composed):
        del composed["hydra"]
    unresolved = flatten(cast(dict[str, Any], OmegaConf.to_container(composed)))
    is_typed = {key for key, value in unresolved.items() if value != MISSING}
    for key, value in known.items():
        if unresolved.get(key) == MISSING:
            change(composed, key, value)
    typed = {key: value for key, value in flat(composed).items() if key in is_typed}
    for group in LIGHTNING_GROUPS:
        if group not in chosen or chosen[group] is not None:  # Hydra records no list of choices
            typed = {k: value for k, value in typed.items() if not k.startswith(f"{group}.")}
            typed[group] = plain(group, OmegaConf.to_container(composed[group], resolve=True))
    return typed


def register_explicit_config(config_name: str, base: Sequence[str] = (ONLY_TYPED,)) -> str:
    """Register a config with only what a main file and its bases set, not ours; return its name."""
    sources = GlobalHydra.instance().config_loader().get_sources()
    source = next(source for source in sources if source.is_config(config_name))
    said = OmegaConf.load(Path(source.path, config_name.removesuffix(".yaml") + ".yaml"))
    content = cast(dict[str, Any], OmegaConf.to_container(said))
    content.pop("hydra", None)
    defaults = list(base)
    for entry in content.pop("defaults", []):
        file = entry.lstrip("/") if isinstance(entry, str) else "a group's/file"
        is_main = "/" not in file and any(source.is_config(file) for source in sources)
        if file.removesuffix(".yaml") not in (MAIN, "schema"):
            defaults.append(register_explicit_config(file, ()) if is_main else entry)
    name = f"said_in_{Path(config_name).stem}"
    ConfigStore.instance().store(name, {"defaults": defaults, **content})
    return name


def check_main_config(hydra_config: Any) -> None:
    """Raise SettingsError if the file named by ``-cn`` lacks the settings of a run."""
    if "data" not in hydra_config.runtime.choices:
        raise SettingsError(
            f"-cn {hydra_config.job.config_name} does not name the settings of a run: its defaults "
            f"must begin with {MAIN}"
        )


def check_settings_exist(composed: DictConfig) -> None:
    """Raise SettingsError for an unknown setting; Hydra accepts any as ``+key=value``."""
    known = set(setting_names())
    for key in flat(composed):
        if key not in known and key.split(".")[0] not in LIGHTNING_GROUPS:
            raise unknown_setting_error(key)


def unknown_setting_error(key: str) -> SettingsError:
    if key in setting_names():
        return SettingsError(
            f"the file that -cn names has no {key}: its defaults must begin with {MAIN}"
        )
    if key in REMOVED:
        return SettingsError(f"{key} is no longer a setting: {REMOVED[key]}")
    group, _, entry = key.partition(".")
    if group in LIGHTNING_GROUPS and "." not in entry:
        return SettingsError(f"there is no {key} yet: choose it with {group}={entry}")
    if group in LIGHTNING_GROUPS:
        return SettingsError(
            f"there is no setting {key}; +{key}=… passes it to the class, if that accepts it"
        )
    of_trainer = [f"trainer.{name}" for name in allowed_trainer_arguments()]
    others = [name for name in setting_names() if not name.startswith("trainer.")]
    right = of_trainer if key.startswith("trainer.") else [*others, *of_trainer]
    return SettingsError(f"there is no setting {key}; {nearest(key, right)}")


def nearest(wrong: str, right: list[str]) -> str:
    """A hint with the names most similar to a wrong one: by their last part, else as a whole."""
    last = {name: name.rpartition(".")[2] for name in right}
    close = difflib.get_close_matches(wrong.rpartition(".")[2], last.values(), cutoff=0.75)
    names = [name for part in dict.fromkeys(close) for name in right if last[name] == part]
    if names := names or difflib.get_close_matches(wrong, right):
        return f"did you mean {', '.join(names)}?"
    return f"there are {', '.join(right)}" if len(right) < 20 else "--help lists every setting"


def setting_names() -> list[str]:
    """The dotted names of all settings, arguments of Lightning's ``Trainer`` among them."""
    ours = [setting.name for setting in all_settings() if setting.name != "trainer"]
    return [*ours, *(f"trainer.{name}" for name in names())]


def flat(group: DictConfig) -> dict[str, Any]:
    return flatten(cast(dict[str, Any], OmegaConf.to_container(group, resolve=True)))


def quoted_setting(key: str, value: object) -> str:
    """``key=value`` as typed: quoted for the shell and for Hydra, so that the value is text."""
    text = str(value)
    is_plain = re.fullmatch(r"[\w./+-]+", text, re.ASCII)
    if is_plain and not re.fullmatch(r"[\d._e+-]+|null|true|false|nan|[+-]?inf", text.lower()):
        return f"{key}={text}"
    # Hydra takes backslashes literally, except before a quote; the last quote is not in the text.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", f"{as_text(text)}'").removesuffix("\\'")
    return shlex.quote(f"{key}='{escaped}'")


def explain_typed(error: Exception) -> str:
    """One line for an error of Hydra's, on the command line and in :func:`lstm_lm.compose`."""
    cause = error.__cause__ or error.__context__  # the latter for an error in a file
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        return str(unknown_setting_error(str(cause.full_key)))
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"there is no {group}={choice}; {nearest(choice, list(error.options))}"
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override!r}: settings are given as key=value, a value with "
            "special characters as \"key='value'\""
        )
    if "Ambiguous value" in str(error):
        value = str(error).partition("'")[2].partition("'")[0]
        return f"{value} gives several values: -m trains with each of them"
    text = str(cause if isinstance(cause, OmegaConfBaseException) else error)
    key = re.search(r"full_key: (\S+)", text)
    text = text.removeprefix("SettingsError raised while resolving interpolation: ")
    first_line = text.strip().splitlines()[0]
    if "No match in the defaults list" in first_line:
        return f"{first_line} The defaults of a file that -cn names must begin with train"
    if key is None or key[1] in first_line or key[1] == "hydra.run.dir":
        return first_line
    return f"{key[1]}: {first_line}"


def check_no_sweep(sweeper: Any, overrides: Sequence[str]) -> None:
    """Raise SettingsError if a job is a sweep itself; only its first job would run.

    Args:
        sweeper: the sweeper of the job, with the settings that it would sweep over.
        overrides: what was typed for the job.
    """
    swept = choices(list(sweeper.get("params") or {}))
    if names := ", ".join(sorted(swept.keys() - choices(overrides).keys())):
        raise SettingsError(
            f"{' '.join(overrides)} is a sweep itself, over {names}: sweep over one such file "
            "at a time"
        )


def choices(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides by setting or group: ``["model.core=scratch"]`` → ``{"model.core": "scratch"}``."""
    pairs = (override.lstrip("+").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs}
