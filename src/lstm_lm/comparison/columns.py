"""The columns of the table of results, as they are shown to a reader."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lstm_lm.comparison.differences import (
    differing,
    short,
    show,
    show_perplexity,
    texts_apart,
    with_effect,
)
from lstm_lm.comparison.results import Result
from lstm_lm.sweep.sweep_folder import Job

NUMBERED = re.compile(r"\d+_")  # a sweep's job: what sets it apart is in its name


@dataclass
class Column:
    heading: str
    text: Callable[[Result], str]
    is_number: bool = True
    goes: int = 0  # the higher, the sooner it is left out where there is little room; 0 never


def columns(results: list[Result]) -> list[Column]:
    figures = [
        Column("status", lambda result: result.status, is_number=False),
        Column("epochs", figure("epochs", "{:,}"), goes=2),
        Column("training", train_perplexity, goes=4),
        Column("validation", validation_perplexity),
        Column("test", test_perplexity, goes=1),
        Column("tokens/s", figure("tokens_per_second", "{:,.0f}"), goes=3),
        Column("seconds", figure("seconds", "{:,.0f}"), goes=5),
        Column("device", device, is_number=False, goes=6),
    ]
    if any("test/floor" in result.summary for result in results):
        after_test = 1 + [column.heading for column in figures].index("test")
        figures[after_test:after_test] = [
            Column("floor", floor_perplexity, goes=1),
            Column("gap", figure("test/gap", "{:.4f}"), goes=1),
            Column("memory gap", figure("test/memory_gap", "{:.4f}"), goes=1),
        ]
    if any(map(has_unknown, results)):
        after_test = 1 + [column.heading for column in figures].index("test")
        figures.insert(after_test, Column("unknown", unknown, goes=1))
    taken = {"name", *(column.heading for column in figures)}
    settings = short(with_effect(differing(results)))
    goes = 7 if all(NUMBERED.match(Path(result.name).name) for result in results) else 0
    return [
        Column("name", lambda result: result.name, is_number=False),
        *(
            Column(name if heading in taken else heading, setting(name), goes=goes)
            for name, heading in settings.items()
        ),
        *figures,
    ]


def setting(name: str) -> Callable[[Result], str]:
    return lambda result: show(result.settings[name]) if name in result.settings else ""


def figure(name: str, form: str) -> Callable[[Result], str]:
    def text(result: Result) -> str:
        value = result.summary.get(name)
        return "" if value is None else form.format(value)

    return text


def train_perplexity(result: Result) -> str:
    value = result.summary.get("train/perplexity")
    curve = result.curves.get("train/perplexity")
    if value is None and curve:
        value = curve.values[-1]
    return show_perplexity(value)


def validation_perplexity(result: Result) -> str:
    is_so_far = result.best is None and result.so_far is not None
    return f"{'so far ' if is_so_far else ''}{show_perplexity(result.perplexity)}"


def test_perplexity(result: Result) -> str:
    return show_perplexity(result.summary.get("test/perplexity"))


def floor_perplexity(result: Result) -> str:
    return show_perplexity(result.summary.get("test/floor_perplexity"))


def has_unknown(result: Result) -> bool:
    return bool(result.summary.get("validation/unknown") or result.summary.get("test/unknown"))


def unknown(result: Result) -> str:
    value = result.summary.get("validation/unknown")
    return "" if value is None else f"{100 * value:.3g} %"


def device(result: Result) -> str:
    return result.summary.get("device") or str(result.settings.get("device.accelerator", ""))


def explanation(results: list[Result]) -> list[str]:
    """What must be said about the table, in lines."""
    lines = [
        "Perplexities: training while the weights moved, over the last epoch; validation and test "
        "of the best weights.",
        "Curves end at other values: training over the steps since the last reading, validation "
        "in rows of text, while the table's figures are exact.",
    ]
    if any(result.best is None and result.so_far is not None for result in results):
        lines.append(
            "So far: the lowest of the validations while training, of a run without final figures."
        )
    if any("test/floor" in result.summary for result in results):
        lines.append(
            "Floor: the lowest perplexity that any model can have on the test text, on average. "
            "Gap: how far a model is above it, in nats per token; memory gap: the same, where it "
            "must remember."
        )
    if any(map(has_unknown, results)):
        lines.append(
            "Unknown: how much of the validation text is not in the vocabulary. It counts as one "
            "token, <unk>, so the perplexities of runs that differ in this cannot be compared."
        )
    apart = texts_apart(results)
    if "data.level" in apart:
        lines.append(
            "The runs differ in data.level: perplexities of characters and of words cannot be "
            "compared, bits per character can."
        )
    elif apart:
        lines.append("The runs differ in their texts: their perplexities cannot be compared.")
    return lines


def reasons(results: Sequence[Result | Job]) -> list[str]:
    """Why runs or jobs failed or diverged, in a line for each reason."""
    lines = []
    for error in dict.fromkeys(result.error for result in results if result.error):
        names = [result.name for result in results if result.error == error]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"{', '.join(names[:3])}{more}: {error}")
    return lines
