"""Trained models read back from the folders of their runs."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lstm_lm.config import Backend, CoreName, RunConfig
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import SettingsError
from lstm_lm.model.fused.kernels import backend_here, refuse_impossible
from lstm_lm.model.language_model import LanguageModel, refuse_too_large
from lstm_lm.saved.checkpoint_file import load_checkpoint, load_newest
from lstm_lm.saved.run_folder import RunFolder

# What must be the same for weights to mean the same.
SHAPE = "cell", "hidden_size", "num_layers", "embedding_size", "second_bias", "reset_gate"
CPU = torch.device("cpu")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A model as the folder of its run has it."""

    folder: Path
    config: RunConfig
    vocabulary: Vocabulary
    model: LanguageModel  # in evaluation mode
    summary: dict[str, Any]


def restore(
    path: Path,
    checkpoint: str = "best",
    core: CoreName | None = None,
    backend: Backend = Backend.auto,
    device: torch.device = CPU,
) -> TrainedModel:
    """A model read back from the folder of its run, with the weights of one of its checkpoints.

    Where a fused core's backend cannot run, another computes the same, and a warning says so: what
    was learned on a GPU can be used without one.

    Args:
        core: the core to run it on, if not the one it was trained with.
        backend: of that core.
        device: where the model is to run.

    Raises:
        SettingsError: if the folder is no run's, or something in it is missing or damaged.
    """
    folder = RunFolder(path)
    another = {"model.core": core, "model.backend": backend}
    config = folder.read_config({} if core is None else another)
    config.model.backend = usable_backend(config, device)
    file = folder.checkpoints / f"{checkpoint}.ckpt"
    if not file.is_file():
        others = sorted({found.stem for found in folder.checkpoints.glob("*.ckpt")} - {"previous"})
        instead = f"choose --checkpoint {others[0]}" if others else "no weights were saved"
        raise SettingsError(f"{path} has no {checkpoint} checkpoint: {instead}")
    summary = folder.read_summary()
    vocabulary = folder.read_vocabulary(summary["vocabulary_sha256"])
    refuse_too_large(config, len(vocabulary))
    model = LanguageModel(config.model, len(vocabulary))
    if config.device.precision == "64-true":
        model = model.double()
    if file == folder.last:
        put_weights(model, *load_newest(folder.last, folder.previous))
    else:
        put_weights(model, file, load_checkpoint(file))
    return TrainedModel(path, config, vocabulary, model.eval().to(device), summary)


def usable_backend(config: RunConfig, device: torch.device) -> Backend:
    """The backend of the config, or another that computes the same where that cannot run."""
    if config.model.core is CoreName.fused and config.model.backend is Backend.auto:
        return backend_here(device.type)
    try:
        refuse_impossible(config.model.backend, device)
    except SettingsError as error:
        log.warning("warning: %s. Here model.backend=torch is taken", error)
        return Backend.torch
    return config.model.backend


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


def run_to_start_from(config: RunConfig) -> TrainedModel:
    """The run whose weights are asked for, with the core that is asked for.

    Making it draws from the random states, so it comes before they are seeded.

    Raises:
        SettingsError: if its weights would mean something else here.
    """
    folder = RunFolder(Path(str(config.init_from)))
    if folder.holds_a_run() and not folder.best.exists():
        raise SettingsError(f"init_from: {folder.path} has no best weights, it was not validated")
    # It computes nothing, so there is nothing to compile.
    source = restore(folder.path, core=config.model.core, backend=Backend.torch)
    here, there = vars(config.model), vars(source.config.model)
    differing = [f"model.{name}={there[name]}" for name in SHAPE if here[name] != there[name]]
    if config.data.level != source.config.data.level:
        differing.append(f"data.level={source.config.data.level}")
    if differing:
        raise SettingsError(
            f"init_from: the weights of {config.init_from} need {' '.join(differing)}"
        )
    return source


def weights_sha256(source: TrainedModel) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(source.model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()
