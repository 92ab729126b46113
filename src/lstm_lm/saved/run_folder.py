"""What a run leaves behind, and how it is read back.

    config.yaml                every setting
    vocabulary.json            tokens in the order of their ids
    checkpoints/last.ckpt      the newest state, with all that is needed to go on
    checkpoints/previous.ckpt  the one before it, should the newest be damaged
    checkpoints/best.ckpt      that where validation loss was lowest
    summary.json               status and figures; written whole at every change, so always true
    events.out.tfevents.*      for TensorBoard
    hparams.yaml               what Lightning's loggers know of the model
    metrics.csv, loggers.json  of other loggers, where they were asked for: rows, and their ids
    progress.json              how far it is, while it runs
    log.txt                    in a sweep: what it printed
    .lock                      held by the process that trains

Nothing outside the folder is needed to use a model; to evaluate it or to go on, its text.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterator
from enum import StrEnum, auto
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from lstm_lm.config import Backend, RunConfig, change, settings_of
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.files import is_locked, locked, read_json, read_regular, remove_unfinished, write_whole

# What runs logged with before that was a setting; conf/logger/tensorboard.yaml has the same.
TENSORBOARD = {
    "tensorboard": {
        "_target_": "lightning.pytorch.loggers.TensorBoardLogger",
        "name": "",
        "version": "",
        "default_hp_metric": False,
    }
}
# Each run's settings have these, and those of another program hardly all of them.
OUR_KEYS = {"checkpoint", "data", "device", "model", "optimizer", "samples", "seed", "training"}
# Without these a summary cannot be read back.
KNOWN_FROM_THE_START = {
    "status",
    "fingerprint",
    "started_from",
    "vocabulary_sha256",
    "text_sha256",
    "text_note",
    "test_is_validation",
    "device",
    "threads",
    "versions",
    "epochs",
    "steps",
    "seconds",
}


class Status(StrEnum):
    """How a run, a sweep's job or a cell of a heat map stands; the gravest first."""

    diverged = auto()
    failed = auto()
    infinite = auto()  # of a cell: completed, but no perplexity is finite
    interrupted = auto()
    running = auto()
    unknown = auto()  # the summary is damaged
    completed = auto()
    waiting = auto()  # a job that was never started
    not_tried = "not tried"  # a cell without runs


class RunFolder:
    """The names of a run's files, and the writing and reading of its records.

    Args:
        is_ours: whether this process is the one that writes; others only know what it would.
    """

    def __init__(self, path: Path, is_ours: bool = True) -> None:
        self.path, self.is_ours = path, is_ours
        self.config = path / "config.yaml"
        self.vocabulary = path / "vocabulary.json"
        self.summary = path / "summary.json"
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.previous = self.checkpoints / "previous.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.progress = path / "progress.json"
        self.log = path / "log.txt"
        self.lock = path / ".lock"
        self.values: dict[str, Any] = {}

    def holds_a_run(self) -> bool:
        """Whether there is one, damaged or not; settings of another program are none.

        Raises:
            SettingsError: if the folder cannot be read.
        """
        try:
            if not self.config.is_file():  # which is written last
                return False
            return self.vocabulary.is_file() or self.summary.is_file() or has_our_keys(self.config)
        except OSError as error:
            raise SettingsError(f"cannot read {self.path}: {error.strerror}") from error

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training in this folder, which is made if need be.

        Raises:
            SettingsError: if one does already, or the folder cannot be written.
        """
        with contextlib.ExitStack() as stack:
            if not self.is_ours:
                yield
                return
            try:
                self.checkpoints.mkdir(parents=True, exist_ok=True)
                is_ours = stack.enter_context(locked(self.lock))
            except OSError as error:
                with contextlib.suppress(OSError):
                    self.checkpoints.rmdir()
                raise SettingsError(f"cannot write to {self.path}: {error.strerror}") from error
            if not is_ours:
                raise SettingsError(f"another process is training in {self.path}: wait for its end")
            remove_unfinished(self.path)
            remove_unfinished(self.checkpoints)
            yield

    def create(self, config: RunConfig, vocabulary: Vocabulary, summary: dict[str, Any]) -> None:
        """Write what is known before training.

        Raises:
            SettingsError: if the folder holds a run already, or cannot be written.
        """
        if self.is_ours and self.holds_a_run():
            raise SettingsError(
                f"{self.path} holds a run already: choose another hydra.run.dir, or go on with "
                f"resume={self.path}"
            )
        if self.is_ours and self.config.exists():
            raise SettingsError(
                f"{self.path} has a {self.config.name} of another program: choose another "
                "hydra.run.dir"
            )
        if self.is_ours and any(self.checkpoints.glob("*.ckpt")):
            raise SettingsError(
                f"{self.path} has checkpoints, of a run without {self.config.name}: choose another "
                "hydra.run.dir"
            )
        try:
            if self.is_ours:
                write_whole(self.vocabulary, vocabulary_json(vocabulary))
            self.record(vocabulary_sha256=vocabulary_sha256(vocabulary), **summary)
            if self.is_ours:
                self.write_config(config)
        except OSError as error:
            raise SettingsError(f"cannot write to {self.path}: {error.strerror}") from error

    def write_config(self, config: RunConfig) -> None:
        write_whole(self.config, as_yaml(config).encode())

    def write_missing(self, config: RunConfig, vocabulary: Vocabulary) -> None:
        """Write again what somebody removed while it trained, and without which it is no run."""
        if self.is_ours and not self.vocabulary.exists():
            write_whole(self.vocabulary, vocabulary_json(vocabulary))
        if self.is_ours and not self.config.exists():
            self.write_config(config)

    def write_where_the_text_is(self, config: RunConfig) -> None:
        """Write that alone of other settings, if the text was moved.

        Raises:
            SettingsError: if the settings cannot be read or written.
        """
        before, data = self.read_config(), with_absolute_paths(config).data
        there = dataclasses.replace(before.data, path=data.path, root=data.root)
        if there == before.data:
            return
        try:
            self.write_config(dataclasses.replace(before, data=there))
        except OSError as error:
            raise SettingsError(f"cannot write to {self.path}: {error.strerror}") from error

    def record(self, **values: Any) -> None:
        """Add to the summary; a number that is not finite becomes null, as JSON has none."""
        self.values |= values
        if not self.is_ours:
            return
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in self.values.items()
        }
        content = json.dumps(finite, indent=2, allow_nan=False) + "\n"
        write_whole(self.summary, content.encode())

    def read_summary(self) -> dict[str, Any]:
        """The summary; a run that a crash has cut off is interrupted, whatever it says there.

        Raises:
            SettingsError: if it cannot be read.
        """
        try:
            summary = read_json(self.summary)
            missing = KNOWN_FROM_THE_START - summary.keys()
        except OSError as error:
            raise DamagedFile(f"{self.summary} cannot be read: {error.strerror}") from error
        except (ValueError, AttributeError) as error:
            raise DamagedFile(f"{self.summary} is damaged: {error}") from error
        if missing:
            raise DamagedFile(
                f"{self.summary} does not say {', '.join(sorted(missing))}: it was edited, or "
                "written by another version of lstm_lm"
            )
        if not isinstance(summary["threads"] or 1, int) or (summary["threads"] or 1) < 1:
            raise DamagedFile(f"{self.summary} is damaged: threads is {summary['threads']!r}")
        if summary["status"] not in list(Status):
            raise DamagedFile(f"{self.summary} is damaged: status is {summary['status']!r}")
        if summary["status"] == Status.running and is_locked(self.lock) is False:
            summary["status"] = Status.interrupted.value
        return summary

    def read_vocabulary(self, sha256: str) -> Vocabulary:
        """The vocabulary, which must have this checksum.

        Raises:
            SettingsError: if it cannot be read or was changed.
        """
        try:
            vocabulary = Vocabulary(read_json(self.vocabulary))
        except OSError as error:
            raise DamagedFile(f"{self.vocabulary} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise DamagedFile(f"{self.vocabulary} is damaged: {error}") from error
        if vocabulary_sha256(vocabulary) != sha256:
            raise DamagedFile(f"{self.vocabulary} was changed: ids no longer mean what they did")
        return vocabulary

    def read_config(self, changes: dict[str, Any] | None = None) -> RunConfig:
        """The settings, with some of them changed; keys are dotted.

        All of a group of Lightning's can be changed at once, as ``{"callbacks": {…}}``.

        Raises:
            SettingsError: if the file is not what was written, or a change is out of range.
        """
        if not self.holds_a_run():
            raise SettingsError(
                f"{self.path} is not a run's folder: it has no {self.config.name} of one"
            )
        try:
            loaded: Any = OmegaConf.load(io.BytesIO(read_regular(self.config)))
            # Looked up, it could tell a logger what only this machine's user should know.
            if looks_up(OmegaConf.to_container(loaded)):
                raise ValueError("it has ${…} in it, and not only values: as text that is \\${…}")
            if "logger" not in loaded:
                translate_first_version(loaded)
            loaded.get("data", {}).pop("reserved_tokens", None)  # once a setting
            saved = OmegaConf.merge(OmegaConf.structured(RunConfig), loaded)
            saved = in_omegaconf(settings_of(OmegaConf.to_object(saved)))
        except OSError as error:
            raise DamagedFile(f"{self.config} cannot be read: {error.strerror}") from error
        except Exception as error:  # of whatever kind, the file is not what was written
            raise DamagedFile(f"{self.config} is damaged: {str(error).splitlines()[0]}") from error
        core = saved.model.core
        for key, value in (changes or {}).items():
            change(saved, key, value)
        if saved.model.core != core and "model.backend" not in (changes or {}):
            saved.model.backend = Backend.auto  # the one saved belongs to the core saved
        return with_absolute_paths(cast(RunConfig, OmegaConf.to_object(saved)))


def has_our_keys(file: Path) -> bool:
    try:
        settings = OmegaConf.load(file)
    # OSError: of a mere number; RecursionError: of brackets within brackets.
    except (OSError, RecursionError, ValueError, YAMLError, OmegaConfBaseException):
        return False
    return isinstance(settings, DictConfig) and OUR_KEYS <= settings.keys()


def refuse_odd_name(folder: Path) -> None:
    """
    Raises:
        SettingsError: if its path is not UTF-8, so that TensorBoard could not write there.
    """
    if "\0" in str(folder):
        raise SettingsError(f"no folder can have the name {str(folder)!r}: choose another")
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise SettingsError(
            f"{folder.absolute()} has a name that is not UTF-8, and nothing can be trained there: "
            "give the folder another name, or choose another"
        ) from error


def translate_first_version(settings: Any) -> None:
    """Settings of lstm_lm 0.1.0 as they are now, for what can be done with a model of then."""
    settings.logger = TENSORBOARD
    optimizer = settings.get("optimizer", {})
    for name in "plateau_factor", "plateau_patience":
        optimizer.pop(name, None)
    if optimizer.get("schedule") == "plateau":
        optimizer.schedule = "constant"


def as_yaml(config: RunConfig) -> str:
    settings = dataclasses.replace(with_absolute_paths(config), resume=None)
    return OmegaConf.to_yaml(in_omegaconf(settings_of(settings)))


def looks_up(value: Any) -> bool:
    """Whether ``${`` is anywhere in it, but as text, after an odd number of backslashes."""
    if isinstance(value, dict):
        return any(looks_up(item) for pair in value.items() for item in pair)
    if isinstance(value, list):
        return any(looks_up(item) for item in value)
    return isinstance(value, str) and re.search(r"(?<!\\)(\\\\)*\$\{", value) is not None


def config_of(settings: dict[str, Any]) -> RunConfig:
    """
    Args:
        settings: all of them, by their dotted names.
    """
    return cast(RunConfig, OmegaConf.to_object(in_omegaconf(settings)))


def in_omegaconf(settings: dict[str, Any]) -> DictConfig:
    config = OmegaConf.structured(RunConfig)
    for key, value in settings.items():
        change(config, key, value)
    return config


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same from whatever folder it is read."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(os.path.expanduser(path)).absolute())

    data = dataclasses.replace(
        config.data, path=absolute(config.data.path), root=absolute(config.data.root)
    )
    return dataclasses.replace(config, data=data, init_from=absolute(config.init_from))


def vocabulary_json(vocabulary: Vocabulary) -> bytes:
    return json.dumps(vocabulary.tokens).encode()


def vocabulary_sha256(vocabulary: Vocabulary) -> str:
    return hashlib.sha256(vocabulary_json(vocabulary)).hexdigest()
