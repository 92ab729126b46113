"""The fingerprint of a run; runs with equal fingerprints train the same model."""

import hashlib
import json
from typing import Any

from lstm_lm.config import Effect, RunConfig, effect_of, flatten, settings_of
from lstm_lm.lightning_parts import (
    OBSERVING_CALLBACKS,
    STOPPING_CALLBACKS,
    WITHOUT_EFFECT,
    is_one_of,
)

# Former settings at their defaults: runs that had them keep their fingerprint.
ONCE_SETTINGS = {
    "data.reserved_tokens": [],
    "model.backend": "torch",
    "optimizer.plateau_factor": 0.5,
    "optimizer.plateau_patience": 2,
}


def fingerprint(config: RunConfig, text_sha256: str, started_from: str | None = None) -> str:
    """A checksum of what is trained, in sixteen hexadecimal digits.

    Args:
        started_from: checksum of the initial weights, if they come from another run.
    """
    trained = trained_settings(config) | ONCE_SETTINGS
    content = json.dumps([trained, text_sha256, started_from], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def trained_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that belong to the fingerprint, by their dotted names."""
    return select_trained(settings_of(config))


def select_trained(settings: dict[str, Any]) -> dict[str, Any]:
    """The part of ``settings`` that belongs to the fingerprint, by dotted names."""
    callbacks = {
        name: entry
        for name, entry in settings.get("callbacks", {}).items()
        if not is_one_of(OBSERVING_CALLBACKS | STOPPING_CALLBACKS, entry)
    }
    trainer = {n: v for n, v in settings.get("trainer", {}).items() if n not in WITHOUT_EFFECT}
    flat = flatten(settings | {"callbacks": callbacks, "trainer": trainer})
    return {name: v for name, v in flat.items() if effect_of(name) is Effect.training}
