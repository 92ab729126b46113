"""What makes two runs the same."""

import dataclasses
import hashlib
import json
from typing import Any

from lstm_lm.config import RunConfig

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
}


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
    # Runs made before the backend was left out had this one, as a rule; they can still go on.
    trained = what_is_trained(config) | {"model.backend": "torch"}
    content = json.dumps([trained, text_sha256, started_from], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
