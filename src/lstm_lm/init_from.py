"""A new run that starts from the weights of another."""

import hashlib
from pathlib import Path

from lstm_lm.config import Backend, RunConfig
from lstm_lm.errors import SettingsError
from lstm_lm.restore import TrainedModel, restore
from lstm_lm.run_folder import RunFolder
from lstm_lm.training.session import Session

# What must be the same for weights to mean the same.
SHAPE = "cell", "hidden_size", "num_layers", "embedding_size", "second_bias", "reset_gate"


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


def start_from(source: TrainedModel, session: Session, expected: str | None = None) -> str:
    """Copy the weights of a run; their checksum, which must be as expected."""
    session.module.model.load_state_dict(source.model.state_dict())
    sha256 = weights_sha256(source)
    if expected not in (None, sha256):
        raise SettingsError("init_from: the best weights there are no longer those of then")
    return sha256


def weights_sha256(source: TrainedModel) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(source.model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()
