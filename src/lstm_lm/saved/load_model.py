"""Load trained models from the folders of their runs."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lstm_lm.config import Backend, CoreName, RunConfig
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import SettingsError
from lstm_lm.model.fused.kernels import backend_here, check_backend
from lstm_lm.model.language_model import LanguageModel, check_model_size
from lstm_lm.saved.checkpoint_file import load_checkpoint, load_newest
from lstm_lm.saved.run_folder import RunFolder

# Settings that must be equal for weights to mean the same.
SHAPE = (
    *("cell", "hidden_size", "num_layers", "embedding_size", "second_bias", "reset_gate"),
    *("last_hidden_size", "skip_connections", "tie_weights"),
)
CPU = torch.device("cpu")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, with what else its run folder has."""

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
    """Load a model from its run folder, with the weights of one checkpoint.

    If a fused core's backend cannot run here, another one computes the same, with a warning. So a
    model trained on a GPU can be used without one.

    Args:
        core: the core to run the model with; by default the one it was trained with.
        backend: the backend of that core.
        device: the device to put the model on.

    Raises:
        SettingsError: if the folder has no run, or a file in it is missing or damaged.
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
    check_model_size(config, len(vocabulary))
    model = LanguageModel(config.model, len(vocabulary))
    if config.device.precision == "64-true":
        model = model.double()
    if file == folder.last:
        load_weights(model, *load_newest(folder.last, folder.previous))
    else:
        load_weights(model, file, load_checkpoint(file))
    return TrainedModel(path, config, vocabulary, model.eval().to(device), summary)


def usable_backend(config: RunConfig, device: torch.device) -> Backend:
    """The backend of the config; if it cannot run here, another that computes the same."""
    if config.model.core is CoreName.fused and config.model.backend is Backend.auto:
        return backend_here(device.type)
    try:
        check_backend(config.model.backend, device)
    except SettingsError as error:
        log.warning("warning: %s. Using model.backend=torch instead", error)
        return Backend.torch
    return config.model.backend


def load_weights(model: LanguageModel, path: Path, checkpoint: dict[str, Any]) -> None:
    """Load a checkpoint's weights into a model; the rest of the checkpoint is ignored.

    Raises:
        SettingsError: if the weights do not fit the model; names the file.
    """
    try:
        saved = checkpoint["state_dict"]
        own = {
            n.removeprefix("model."): part for n, part in saved.items() if n.startswith("model.")
        }
        model.load_state_dict(own)
    except (KeyError, RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"{path} does not match the model described by {path.parents[1]}: {reason}"
        ) from error


def load_init_run(config: RunConfig) -> TrainedModel:
    """Load the run that ``init_from`` names, with the core of ``config``.

    Building the model draws random numbers, so call this before seeding.

    Raises:
        SettingsError: if its weights do not fit the model or tokens of ``config``.
    """
    folder = RunFolder(Path(str(config.init_from)))
    if folder.has_run() and not folder.best.exists():
        raise SettingsError(f"init_from: {folder.path} has no best weights: it was not validated")
    # Only its weights are used, so no backend need be compiled.
    source = restore(folder.path, core=config.model.core, backend=Backend.torch)
    here, there = vars(config.model), vars(source.config.model)
    differing = [f"model.{name}={there[name]}" for name in SHAPE if here[name] != there[name]]
    if config.data.level != source.config.data.level:
        differing.append(f"data.level={source.config.data.level}")
    elif config.data.vocabulary_size != (size := source.config.data.vocabulary_size):
        differing.append(f"data.vocabulary_size={size}")
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
