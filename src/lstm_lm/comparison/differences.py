"""In which settings runs differ, and how these are called where there is little room."""

import json
from collections.abc import Iterable
from typing import Any

from lstm_lm.comparison.results import Result

# They change where things lie and what is written meanwhile, but not what a run comes to.
WITHOUT_EFFECT = {"resume", "data.root", "data.reset_every", "training.log_every"}
GROUPS_WITHOUT_EFFECT = {"checkpoint", "samples", "inside", "logger"}

TEXTS = "data.text", "data.path", "data.text_sha256", "data.level"

LABEL = 40  # characters


def differing(results: Iterable[Result]) -> list[str]:
    """The settings that are not the same in all results that have them, by their dotted names."""
    values: dict[str, set[str]] = {}
    for result in results:
        for name, value in result.settings.items():
            values.setdefault(name, set()).add(json.dumps(value))
    return [name for name, found in values.items() if len(found) > 1]


def with_effect(names: Iterable[str]) -> list[str]:
    """Those that can change what a run comes to."""
    return [
        name
        for name in names
        if name not in WITHOUT_EFFECT and name.split(".")[0] not in GROUPS_WITHOUT_EFFECT
    ]


def texts_apart(results: Iterable[Result]) -> list[str]:
    """The settings for which perplexities of these results cannot be compared."""
    return [name for name in differing(results) if name in TEXTS]


def short(names: Iterable[str]) -> dict[str, str]:
    """The last parts of dotted names, where these tell them apart."""
    names = list(names)
    last = [name.rpartition(".")[2] for name in names]
    return {
        name: part if last.count(part) == 1 else name
        for name, part in zip(names, last, strict=True)
    }


def show(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)


def show_perplexity(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value < 1000 else f"{value:.3g}"


def labels(results: list[Result], names: Iterable[str]) -> tuple[str, list[str]]:
    """A heading, and under it what sets each run apart: a few settings, else its name."""
    names = list(names)
    values = [", ".join(show(r.settings.get(name)) for name in names) for r in results]
    if not names or len(set(values)) < len(values) or any(len(value) > LABEL for value in values):
        return "name", [shortened(result.name) for result in results]
    return ", ".join(part.replace("_", " ") for part in short(names).values()), values


def shortened(label: str) -> str:
    """Its end, which tells names apart, if it is long."""
    return label if len(label) <= LABEL else f"…{label[1 - LABEL :]}"


def about(results: list[Result]) -> str:
    """The text and the model, as far as they are the same everywhere."""
    apart = set(differing(results))
    settings = next((result.settings for result in results if result.settings), {})

    def common(name: str, form: str = "{}") -> str:
        value = settings.get(name)
        return "" if name in apart or value is None else form.format(show(value))

    text = common("data.path") or common("data.text")
    model = [common("model.core"), common("model.cell")]
    layers = common("model.num_layers")
    parts = [
        " ".join(filter(None, [text.rpartition("/")[2], common("data.level", "by {}")])),
        " ".join(filter(None, model)),
        "" if layers in ("", "1") else f"{layers} layers",
        common("model.hidden_size", "hidden size {}"),
        common("optimizer.name"),
        common("optimizer.learning_rate", "learning rate {}"),
    ]
    return ", ".join(filter(None, parts))
