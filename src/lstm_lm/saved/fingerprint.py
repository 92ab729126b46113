"""What makes two runs the same."""

import dataclasses
import hashlib
import json
from typing import Any

from lstm_lm.config import RunConfig
from lstm_lm.lightning_parts import ENDING, WATCHING, WITHOUT_EFFECT, is_one_of

# Where a text lies, what is written meanwhile, on what and for how long a run trains do not change
# what is trained, nor does what computes a fused core. How it is validated does: the plateau
# schedule and the best weights follow it.
NOT_IN_FINGERPRINT = {
    "resume",
    "init_from",
    "data.root",
    "data.path",
    "data.reset_every",
    "model.backend",
    "training.epochs",
    "training.steps",
    "training.minutes",
    "training.log_every",
    "checkpoint",
    "samples",
    "inside",
    "device",
    "logger",
}

# Of runs made when these were settings, so that they still count as the same.
ONCE_SETTINGS = {
    "model.backend": "torch",
    "optimizer.plateau_factor": 0.5,
    "optimizer.plateau_patience": 2,
}


def what_is_trained(config: RunConfig) -> dict[str, Any]:
    """The settings that belong to the fingerprint, by their dotted names."""
    return trained_of(settings_of(config))


def trained_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of all settings that belong to the fingerprint."""
    callbacks = {
        name: entry
        for name, entry in settings.get("callbacks", {}).items()
        if not is_one_of(WATCHING | ENDING, entry)
    }
    trainer = {n: v for n, v in settings.get("trainer", {}).items() if n not in WITHOUT_EFFECT}
    flat = flatten(settings | {"callbacks": callbacks, "trainer": trainer})
    return {
        name: value
        for name, value in flat.items()
        if name not in NOT_IN_FINGERPRINT and name.split(".")[0] not in NOT_IN_FINGERPRINT
    }


def settings_of(config: Any, prefix: str = "") -> dict[str, Any]:
    """All settings of a config by their dotted names; Lightning's groups are one value each."""
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            settings |= settings_of(value, f"{prefix}{field.name}.")
        else:
            settings[prefix + field.name] = value
    return settings


def flatten(settings: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def fingerprint(config: RunConfig, text_sha256: str, started_from: str | None = None) -> str:
    """What is trained, in sixteen hexadecimal digits.

    Args:
        started_from: a checksum of the weights it began with, if they were another run's.
    """
    trained = what_is_trained(config) | ONCE_SETTINGS
    content = json.dumps([trained, text_sha256, started_from], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
