"""What a run leaves behind, and how it is read back.

    config.yaml                every setting
    vocabulary.json            tokens in the order of their ids
    checkpoints/last.ckpt      the newest state, with all that is needed to go on
    checkpoints/previous.ckpt  the one before it, should the newest be damaged
    checkpoints/best.ckpt      that where validation loss was lowest
    summary.json               status and figures; written whole at every change, so always true
    events.out.tfevents.*      for TensorBoard
    .lock                      held by the process that trains

Nothing outside the folder is needed to use a model; to evaluate it or to go on, its text.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from lstm_lm.atomic_file import remove_unfinished, write_whole
from lstm_lm.checkpoint_file import load_checkpoint, load_newest
from lstm_lm.config import CoreName, RunConfig
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.lock import is_locked, locked
from lstm_lm.model.language_model import LanguageModel

# Where a text lies, what is written meanwhile, on what and for how long a run trains do not change
# what is trained. How it is validated does: the plateau schedule and the best weights follow it.
NOT_IN_FINGERPRINT = {
    "resume",
    "init_from",
    "data.root",
    "data.path",
    "data.reset_every",
    "training.epochs",
    "training.steps",
    "training.minutes",
    "training.log_every",
    "checkpoint",
    "samples",
    "device",
}


class RunFolder:
    """The names of a run's files, and the writing and reading of its records."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.vocabulary = path / "vocabulary.json"
        self.summary = path / "summary.json"
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.previous = self.checkpoints / "previous.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.lock = path / ".lock"
        self.values: dict[str, Any] = {}

    def holds_a_run(self) -> bool:
        return self.config.is_file()  # which is written last

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training in this folder, which is made if need be.

        Raises:
            SettingsError: if one does already, or the folder cannot be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.checkpoints.mkdir(parents=True, exist_ok=True)
                is_ours = stack.enter_context(locked(self.lock))
            except OSError as error:
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
        if self.holds_a_run():
            raise SettingsError(
                f"{self.path} holds a run already: choose another hydra.run.dir, or go on with "
                f"resume={self.path}"
            )
        try:
            write_whole(self.vocabulary, vocabulary_json(vocabulary))
            self.record(vocabulary_sha256=vocabulary_sha256(vocabulary), **summary)
        except OSError as error:
            raise SettingsError(f"cannot write to {self.path}: {error.strerror}") from error
        self.write_config(config)

    def write_config(self, config: RunConfig) -> None:
        """Write every setting.

        Raises:
            SettingsError: if that is not possible.
        """
        data = config.data
        if data.path is not None:  # so that the run can be evaluated from any folder
            data = dataclasses.replace(data, path=str(Path(data.path).expanduser().absolute()))
        settings = OmegaConf.structured(dataclasses.replace(config, data=data, resume=None))
        try:
            write_whole(self.config, OmegaConf.to_yaml(settings).encode())
        except OSError as error:
            raise SettingsError(f"cannot write to {self.path}: {error.strerror}") from error

    def record(self, **values: Any) -> None:
        """Add to the summary; a number that is not finite becomes null, as JSON has none."""
        self.values |= values
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in self.values.items()
        }
        write_whole(self.summary, json.dumps(finite, indent=2, allow_nan=False).encode())

    def read_summary(self) -> dict[str, Any]:
        """The summary; a run that a crash has cut off is interrupted, whatever it says there.

        Raises:
            SettingsError: if it cannot be read.
        """
        try:
            summary = json.loads(self.summary.read_text())
            if summary["status"] == "running" and not is_locked(self.lock):
                summary["status"] = "interrupted"
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DamagedFile(f"{self.summary} is damaged: {error}") from error
        return summary

    def read_vocabulary(self, sha256: str) -> Vocabulary:
        """The vocabulary, which must have this checksum.

        Raises:
            SettingsError: if it cannot be read or was changed.
        """
        try:
            vocabulary = Vocabulary(json.loads(self.vocabulary.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise DamagedFile(f"{self.vocabulary} is damaged: {error}") from error
        if vocabulary_sha256(vocabulary) != sha256:
            raise DamagedFile(f"{self.vocabulary} was changed: ids no longer mean what they did")
        return vocabulary

    def read_config(self, changes: dict[str, Any] | None = None) -> RunConfig:
        """The settings, with some of them changed; keys are dotted.

        Raises:
            SettingsError: if the file is not what was written, or a change is out of range.
        """
        if not self.holds_a_run():
            raise SettingsError(f"{self.path} is not a run's folder: it has no {self.config.name}")
        try:
            saved = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.load(self.config))
            OmegaConf.to_object(saved)
        except Exception as error:  # of whatever kind, the file is not what was written
            raise DamagedFile(f"{self.config} is damaged: {str(error).splitlines()[0]}") from error
        for key, value in (changes or {}).items():
            OmegaConf.update(saved, key, value)
        return cast(RunConfig, OmegaConf.to_object(saved))


def vocabulary_json(vocabulary: Vocabulary) -> bytes:
    return json.dumps(vocabulary.tokens).encode()


def vocabulary_sha256(vocabulary: Vocabulary) -> str:
    return hashlib.sha256(vocabulary_json(vocabulary)).hexdigest()


def what_is_trained(config: RunConfig) -> dict[str, Any]:
    """The settings that belong to the fingerprint, by their dotted names."""
    settings = flatten(dataclasses.asdict(config))
    return {
        name: value
        for name, value in settings.items()
        if name not in NOT_IN_FINGERPRINT and name.split(".")[0] not in NOT_IN_FINGERPRINT
    }


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def fingerprint(config: RunConfig, text_sha256: str, started_from: str | None = None) -> str:
    """What is trained, in sixteen hexadecimal digits.

    Args:
        started_from: a checksum of the weights it began with, if they were another run's.
    """
    content = json.dumps([what_is_trained(config), text_sha256, started_from], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Run:
    """A run as its folder has it."""

    config: RunConfig
    vocabulary: Vocabulary
    model: LanguageModel  # in evaluation mode
    summary: dict[str, Any]


def restore(path: Path, checkpoint: str = "best", core: CoreName | None = None) -> Run:
    """A run read back from its folder, with the weights of one of its checkpoints.

    Args:
        core: the core to run it on, if not the one it was trained with.

    Raises:
        SettingsError: if the folder is no run's, or something in it is missing or damaged.
    """
    folder = RunFolder(path)
    config = folder.read_config({} if core is None else {"model.core": core})
    file = folder.checkpoints / f"{checkpoint}.ckpt"
    if not file.is_file():
        others = sorted({found.stem for found in folder.checkpoints.glob("*.ckpt")} - {"previous"})
        instead = f"choose --checkpoint {others[0]}" if others else "no weights were saved"
        raise SettingsError(f"{path} has no {checkpoint} checkpoint: {instead}")
    summary = folder.read_summary()
    vocabulary = folder.read_vocabulary(summary["vocabulary_sha256"])
    model = LanguageModel(config.model, len(vocabulary))
    if config.device.precision == "64-true":
        model = model.double()
    if file == folder.last:
        put_weights(model, *load_newest(folder.last, folder.previous))
    else:
        put_weights(model, file, load_checkpoint(file))
    return Run(config, vocabulary, model.eval(), summary)


def put_weights(model: LanguageModel, path: Path, checkpoint: dict[str, Any]) -> None:
    """Put a checkpoint's weights into a model; nothing else of it is used.

    Raises:
        SettingsError: if they are another model's; names the file they came from.
    """
    try:
        saved = checkpoint["state_dict"]
        model.load_state_dict({name.removeprefix("model."): part for name, part in saved.items()})
    except (KeyError, RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"{path} is not of a model as {path.parents[1]} has it: {reason}"
        ) from error
