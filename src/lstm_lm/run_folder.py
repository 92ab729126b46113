"""What a run leaves behind, and how it is read back.

    config.yaml            every setting
    vocabulary.json        tokens in the order of their ids
    checkpoints/last.ckpt  the newest weights, with what is needed to go on
    checkpoints/best.ckpt  the same where validation loss was lowest
    summary.json           status and figures; written whole at every change, so always true
    events.out.tfevents.*  for TensorBoard

Nothing outside the folder is needed to use a model; to evaluate it, its text.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf

from lstm_lm.atomic_file import write_whole
from lstm_lm.config import RunConfig
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import SettingsError
from lstm_lm.model.language_model import LanguageModel

# Where a text lies, what is written meanwhile, on what and for how long a run trains do not change
# what is trained. How it is validated does: the plateau schedule and the best weights follow it.
NOT_IN_FINGERPRINT = {
    "data": {"root", "path", "reset_every"},
    "training": {"epochs", "steps", "minutes", "log_every"},
    "samples": None,
    "device": None,
}


class RunFolder:
    """The names of a run's files, and the writing of its records."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.vocabulary = path / "vocabulary.json"
        self.summary = path / "summary.json"
        self.checkpoints = path / "checkpoints"
        self.values: dict[str, Any] = {}

    def create(self, config: RunConfig, vocabulary: Vocabulary) -> None:
        """Make the folder with what is known before training.

        Raises:
            SettingsError: if it holds a run already, or cannot be written.
        """
        try:
            self.checkpoints.mkdir(parents=True)
            data = config.data
            if data.path is not None:  # so that the run can be evaluated from any folder
                data = dataclasses.replace(data, path=str(Path(data.path).expanduser().absolute()))
            settings = OmegaConf.structured(dataclasses.replace(config, data=data))
            write_whole(self.config, OmegaConf.to_yaml(settings).encode())
            write_whole(self.vocabulary, json.dumps(vocabulary.tokens).encode())
        except FileExistsError as error:
            raise SettingsError(
                f"{self.path} holds a run already: choose another hydra.run.dir"
            ) from error
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


def fingerprint(config: RunConfig, text_sha256: str) -> str:
    """What is trained, in sixteen hexadecimal digits."""
    settings = dataclasses.asdict(config)
    for group, names in NOT_IN_FINGERPRINT.items():
        if names is None:
            del settings[group]
        else:
            settings[group] = {n: v for n, v in settings[group].items() if n not in names}
    content = json.dumps([settings, text_sha256], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Run:
    """A run as its folder has it."""

    config: RunConfig
    vocabulary: Vocabulary
    model: LanguageModel  # in evaluation mode
    summary: dict[str, Any]


def restore(path: Path, checkpoint: str = "best") -> Run:
    """A run read back from its folder, with the weights of one of its checkpoints.

    Raises:
        SettingsError: if the folder is no run's, or something in it is missing or damaged.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise SettingsError(f"{path} is not a run's folder: it has no {folder.config.name}")
    file = folder.checkpoints / f"{checkpoint}.ckpt"
    if not file.is_file():
        others = sorted(found.stem for found in folder.checkpoints.glob("*.ckpt"))
        instead = f"choose --checkpoint {others[0]}" if others else "no weights were saved"
        raise SettingsError(f"{path} has no {checkpoint} checkpoint: {instead}")
    config = read_config(folder.config)
    try:
        vocabulary = Vocabulary(json.loads(folder.vocabulary.read_text()))
        summary = json.loads(folder.summary.read_text())
        _ = summary["text_sha256"], summary["text_note"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"{path} is damaged: {error}") from error
    model = LanguageModel(config.model, len(vocabulary))
    if config.device.precision == "64-true":
        model = model.double()
    load_weights(model, file)
    return Run(config, vocabulary, model.eval(), summary)


def read_config(path: Path) -> RunConfig:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.load(path))
        return cast(RunConfig, OmegaConf.to_object(merged))
    except Exception as error:  # of whatever kind, the file is not what was written
        raise SettingsError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def load_weights(model: LanguageModel, checkpoint: Path) -> None:
    """Put a checkpoint's weights into a model; nothing else of the file is used.

    Raises:
        SettingsError: if the file is damaged or made for another model.
    """
    try:
        saved = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
        model.load_state_dict({name.removeprefix("model."): part for name, part in saved.items()})
    except Exception as error:  # a damaged file can raise nearly anything
        reason = str(error).splitlines()[0]
        raise SettingsError(f"{checkpoint} cannot be loaded: {reason}") from error
