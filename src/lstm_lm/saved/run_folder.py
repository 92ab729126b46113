"""The folder of a run: its files, and how they are written and read.

    config.yaml                all settings
    vocabulary.json            tokens in the order of their ids; of subwords also their merges
    checkpoints/last.ckpt      the newest state, with all that is needed to resume
    checkpoints/previous.ckpt  the one before it, in case the newest is damaged
    checkpoints/best.ckpt      the state with the lowest validation loss
    summary.json               status and figures; replaced as a whole, so always complete
    events.out.tfevents.*      for TensorBoard
    hparams.yaml               the hyperparameters that Lightning's loggers save
    metrics.csv, loggers.json  of other loggers, if configured: metrics, and ids of their runs
    progress.json              progress of a running run
    log.txt                    in a sweep: the job's output
    .lock                      locked by the process that trains

A model can be used without any file from outside; evaluating and resuming also need its text.
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
from lstm_lm.files import (
    is_locked,
    locked,
    read_json,
    read_regular,
    remove_unfinished,
    write_atomically,
)

# The logger of runs from before it was a setting; equals conf/logger/tensorboard.yaml.
TENSORBOARD = {
    "tensorboard": {
        "_target_": "lightning.pytorch.loggers.TensorBoardLogger",
        "name": "",
        "version": "",
        "default_hp_metric": False,
    }
}
PATHS = "path", "validation_path", "test_path", "root"  # of the text
# Every run's settings have these keys; another program's config is unlikely to have them all.
OUR_KEYS = {"checkpoint", "data", "device", "model", "optimizer", "samples", "seed", "training"}
# A summary must have these keys from the start of a run.
REQUIRED_KEYS = {
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
    """Status of a run, a sweep's job or a cell of a heat map; the gravest first."""

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
    """Paths of a run's files; writes and reads its records.

    Args:
        is_ours: if true, this process writes the records; other ranks only keep the values.
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

    def has_run(self) -> bool:
        """True if the folder has a run, even a damaged one; another program's config is none.

        Raises:
            SettingsError: if the folder cannot be read.
        """
        try:
            if not self.config.is_file():  # the last file that create() writes
                return False
            return self.vocabulary.is_file() or self.summary.is_file() or has_our_keys(self.config)
        except OSError as error:
            raise SettingsError(f"cannot read {self.path}: {error.strerror}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Context manager: lock the folder against other processes; create it if needed.

        Raises:
            SettingsError: if another process has locked it, or it cannot be written.
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
                raise SettingsError(
                    f"another process is training in {self.path}: wait until it ends"
                )
            remove_unfinished(self.path)
            remove_unfinished(self.checkpoints)
            yield

    def create(self, config: RunConfig, vocabulary: Vocabulary, summary: dict[str, Any]) -> None:
        """Write the records that are known before training.

        Raises:
            SettingsError: if the folder has a run already, or cannot be written.
        """
        if self.is_ours and self.has_run():
            raise SettingsError(
                f"{self.path} has a run already: choose another hydra.run.dir, or resume the run "
                f"with resume={self.path}"
            )
        if self.is_ours and self.config.exists():
            raise SettingsError(
                f"{self.path} has a {self.config.name} of another program: choose another "
                "hydra.run.dir"
            )
        if self.is_ours and any(self.checkpoints.glob("*.ckpt")):
            raise SettingsError(
                f"{self.path} has checkpoints of a run, but no {self.config.name}: choose another "
                "hydra.run.dir"
            )
        try:
            if self.is_ours:
                write_atomically(self.vocabulary, vocabulary_json(vocabulary))
            self.record(vocabulary_sha256=vocabulary_sha256(vocabulary), **summary)
            if self.is_ours:
                self.write_config(config)
        except OSError as error:
            raise SettingsError(f"cannot write to {self.path}: {error.strerror}") from error

    def write_config(self, config: RunConfig) -> None:
        write_atomically(self.config, as_yaml(config).encode())

    def restore_missing_files(self, config: RunConfig, vocabulary: Vocabulary) -> None:
        """Write the vocabulary and config again if they were removed while the run trained."""
        if self.is_ours and not self.vocabulary.exists():
            write_atomically(self.vocabulary, vocabulary_json(vocabulary))
        if self.is_ours and not self.config.exists():
            self.write_config(config)

    def save_text_path(self, config: RunConfig) -> None:
        """Save the new path of a moved text, and no other setting of ``config``.

        Raises:
            SettingsError: if the settings cannot be read or written.
        """
        before, data = self.read_config(), with_absolute_paths(config).data
        now: dict[str, Any] = {name: getattr(data, name) for name in PATHS}
        there = dataclasses.replace(before.data, **now)
        if there == before.data:
            return
        try:
            self.write_config(dataclasses.replace(before, data=there))
        except OSError as error:
            raise SettingsError(f"cannot write to {self.path}: {error.strerror}") from error

    def record(self, **values: Any) -> None:
        """Add values to the summary; numbers that are not finite become null, as JSON has none."""
        self.values |= values
        if not self.is_ours:
            return
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in self.values.items()
        }
        content = json.dumps(finite, indent=2, allow_nan=False) + "\n"
        write_atomically(self.summary, content.encode())

    def read_summary(self) -> dict[str, Any]:
        """The summary; a run that ended in a crash counts as interrupted, not as running.

        Raises:
            SettingsError: if it cannot be read.
        """
        try:
            summary = read_json(self.summary)
            missing = REQUIRED_KEYS - summary.keys()
        except OSError as error:
            raise DamagedFile(f"{self.summary} cannot be read: {error.strerror}") from error
        except (ValueError, AttributeError) as error:
            raise DamagedFile(f"{self.summary} is damaged: {error}") from error
        if missing:
            raise DamagedFile(
                f"{self.summary} lacks {', '.join(sorted(missing))}: it was edited, or "
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
        """The vocabulary, verified by its checksum.

        Raises:
            SettingsError: if it cannot be read or was changed.
        """
        try:
            vocabulary = Vocabulary.from_json(read_json(self.vocabulary))
        except OSError as error:
            raise DamagedFile(f"{self.vocabulary} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise DamagedFile(f"{self.vocabulary} is damaged: {error}") from error
        if vocabulary_sha256(vocabulary) != sha256:
            raise DamagedFile(f"{self.vocabulary} was changed: ids no longer mean the same tokens")
        return vocabulary

    def read_config(self, changes: dict[str, Any] | None = None) -> RunConfig:
        """The settings, with ``changes`` applied; keys are dotted.

        A group of Lightning's is changed as a whole: ``{"callbacks": {…}}``.

        Raises:
            SettingsError: if the file is damaged, or a change is out of range.
        """
        if not self.has_run():
            raise SettingsError(
                f"{self.path} is not a run's folder: it has no {self.config.name} of a run"
            )
        try:
            loaded: Any = OmegaConf.load(io.BytesIO(read_regular(self.config)))
            # An interpolation could pass a secret of this machine's user on to a logger.
            if has_interpolation(OmegaConf.to_container(loaded)):
                raise ValueError("it contains an interpolation, ${…}: for plain text write \\${…}")
            if "logger" not in loaded:
                convert_old_settings(loaded)
            loaded.get("data", {}).pop("reserved_tokens", None)  # a setting of earlier versions
            saved = OmegaConf.merge(OmegaConf.structured(RunConfig), loaded)
            saved = to_omegaconf(settings_of(OmegaConf.to_object(saved)))
        except OSError as error:
            raise DamagedFile(f"{self.config} cannot be read: {error.strerror}") from error
        except Exception as error:  # whichever it is, the file is not what was written
            raise DamagedFile(f"{self.config} is damaged: {str(error).splitlines()[0]}") from error
        core = saved.model.core
        for key, value in (changes or {}).items():
            change(saved, key, value)
        if saved.model.core != core and "model.backend" not in (changes or {}):
            saved.model.backend = Backend.auto  # the saved backend belongs to the saved core
        return with_absolute_paths(cast(RunConfig, OmegaConf.to_object(saved)))


def has_our_keys(file: Path) -> bool:
    try:
        settings = OmegaConf.load(file)
    # OSError: the file is only a number; RecursionError: it is nested too deeply.
    except (OSError, RecursionError, ValueError, YAMLError, OmegaConfBaseException):
        return False
    return isinstance(settings, DictConfig) and OUR_KEYS <= settings.keys()


def check_folder_name(folder: Path) -> None:
    """Raise SettingsError if the path is not UTF-8, since TensorBoard could not write there."""
    if "\0" in str(folder):
        raise SettingsError(f"no folder can have the name {str(folder)!r}: choose another")
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise SettingsError(
            f"{folder.absolute()} has a name that is not UTF-8, so nothing can be trained there: "
            "rename the folder, or choose another"
        ) from error


def convert_old_settings(settings: Any) -> None:
    """Convert settings of lstm_lm 0.1.0 in place, so that its models can still be used."""
    settings.logger = TENSORBOARD
    optimizer = settings.get("optimizer", {})
    for name in "plateau_factor", "plateau_patience":
        optimizer.pop(name, None)
    if optimizer.get("schedule") == "plateau":
        optimizer.schedule = "constant"


def as_yaml(config: RunConfig) -> str:
    settings = dataclasses.replace(with_absolute_paths(config), resume=None)
    return OmegaConf.to_yaml(to_omegaconf(settings_of(settings)))


def has_interpolation(value: Any) -> bool:
    """True if ``${`` occurs anywhere, except as text: after an odd number of backslashes."""
    if isinstance(value, dict):
        return any(has_interpolation(item) for pair in value.items() for item in pair)
    if isinstance(value, list):
        return any(has_interpolation(item) for item in value)
    return isinstance(value, str) and re.search(r"(?<!\\)(\\\\)*\$\{", value) is not None


def config_from_settings(settings: dict[str, Any]) -> RunConfig:
    """The config that has all settings as given, by their dotted names."""
    return cast(RunConfig, OmegaConf.to_object(to_omegaconf(settings)))


def to_omegaconf(settings: dict[str, Any]) -> DictConfig:
    config = OmegaConf.structured(RunConfig)
    for key, value in settings.items():
        change(config, key, value)
    return config


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with absolute paths, so that it means the same in any working folder."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(os.path.expanduser(path)).absolute())

    paths: dict[str, Any] = {name: absolute(getattr(config.data, name)) for name in PATHS}
    data = dataclasses.replace(config.data, **paths)
    return dataclasses.replace(config, data=data, init_from=absolute(config.init_from))


def vocabulary_json(vocabulary: Vocabulary) -> bytes:
    return json.dumps(vocabulary.for_json()).encode()


def vocabulary_sha256(vocabulary: Vocabulary) -> str:
    return hashlib.sha256(vocabulary_json(vocabulary)).hexdigest()
