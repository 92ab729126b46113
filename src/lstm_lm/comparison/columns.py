"""The columns of the table of results, as they are shown to a reader."""

from collections.abc import Callable
from dataclasses import dataclass

from lstm_lm.comparison.differences import differing, short, show, show_perplexity, with_effect
from lstm_lm.comparison.results import Result


@dataclass
class Column:
    heading: str
    text: Callable[[Result], str]
    is_number: bool = True
    goes: int = 0  # the higher, the sooner it is left out where there is little room; 0 never


def columns(results: list[Result]) -> list[Column]:
    settings = short(with_effect(differing(results)))
    return [
        Column("name", lambda result: result.name, is_number=False),
        *(Column(heading, setting(name)) for name, heading in settings.items()),
        Column("status", lambda result: result.status, is_number=False),
        Column("epochs", figure("epochs", "{:,}"), goes=2),
        Column("training", train_perplexity, goes=4),
        Column("validation", validation_perplexity),
        Column("test", test_perplexity, goes=1),
        Column("tokens/s", figure("tokens_per_second", "{:,.0f}"), goes=3),
        Column("seconds", figure("seconds", "{:,.0f}"), goes=5),
        Column("device", device, is_number=False, goes=6),
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


def device(result: Result) -> str:
    return result.summary.get("device") or str(result.settings.get("device.accelerator", ""))


def explanation(results: list[Result]) -> list[str]:
    """What must be said about the table, in lines."""
    lines = [
        "Perplexities: training while the weights moved, over the last epoch; validation and test "
        "of the best weights."
    ]
    if any(result.best is None and result.so_far is not None for result in results):
        lines.append(
            "So far: the lowest of the validations while training, of a run without final figures."
        )
    apart = {name for name in differing(results) if name in ("data.text", "data.path")}
    if "data.level" in differing(results):
        lines.append(
            "The runs differ in data.level: perplexities of characters and of words cannot be "
            "compared, bits per character can."
        )
    elif apart:
        lines.append("The runs differ in their texts: their perplexities cannot be compared.")
    return lines
