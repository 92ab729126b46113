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

# Settings of the first versions belong to every fingerprint. A newer one does only if it differs
# from its default, so runs without it keep their fingerprint.
FIRST_SETTINGS = set(
    """
    seed training.validate_every data.text data.level data.cleaning data.validation_size
    data.test_size data.max_tokens data.vocabulary_from data.minimum_count data.order
    data.batch_size data.num_steps data.evaluation_rows data.text_seed data.lag data.longest
    model.cell model.core model.hidden_size model.num_layers model.embedding_size model.dropout
    model.second_bias model.reset_gate model.init model.longest_memory model.forget_bias
    model.context model.heads optimizer.name optimizer.learning_rate optimizer.momentum
    optimizer.weight_decay optimizer.clip_norm optimizer.schedule optimizer.warmup_steps
    """.split()
)


def fingerprint(config: RunConfig, text_sha256: str, started_from: str | None = None) -> str:
    """A checksum of what is trained, in sixteen hexadecimal digits.

    Args:
        started_from: checksum of the initial weights, if they come from another run.
    """
    defaults = trained_settings(RunConfig()).items()
    counted = {
        name: value
        for name, value in trained_settings(config).items()
        if name in FIRST_SETTINGS or (name, value) not in defaults
    }
    content = json.dumps([counted | ONCE_SETTINGS, text_sha256, started_from], sort_keys=True)
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
