"""The table of results: in a terminal, as CSV with all figures, and as Markdown to be read."""

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import rich.console
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lstm_lm.config import flatten
from lstm_lm.files import write_whole
from lstm_lm.report.differences import (
    about,
    differing,
    short,
    show,
    show_perplexity,
    texts_apart,
    with_effect,
)
from lstm_lm.saved.results import Result
from lstm_lm.saved.sweep_folder import Job

NUMBERED = re.compile(r"\d+_")  # a sweep's job: what sets it apart is in its name


class Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Raise what Python does when ``head`` leaves; Rich would end the program with 1."""
        raise BrokenPipeError


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


def write_csv(results: list[Result], file: Path) -> None:
    """All results, all their figures and all settings that differ, in full precision."""
    settings = differing(results)
    figures = in_order(flatten(result.summary, "") for result in results)
    figures = [name for name in figures if name != "status"]
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    so_far = "so far/validation/perplexity"
    writer.writerow(["name", "folder", "status", "error", *settings, so_far, *figures])
    for result in results:
        summary = flatten(result.summary)
        writer.writerow(
            [result.name, relative(result.path, file.parent), result.status, result.error]
            + [result.settings.get(name) for name in settings]
            + [result.so_far]
            + [summary.get(name) for name in figures]
        )
    write_whole(file, content.getvalue())


def write_markdown(
    results: list[Result],
    folders: list[Path],
    pictures: dict[str, Path],
    notes: list[str],
    command: str | None,
    file: Path,
) -> None:
    """The table as it is shown at a terminal, how it came about, and the pictures."""
    shown = columns(results)
    now = datetime.now().astimezone()
    parts = [
        f"# {len(results)} {'run' if len(results) == 1 else 'runs'} compared",
        f"{about(results)}.".lstrip("."),
        f"From {', '.join(f'`{folder}`' for folder in folders)}, {now:%Y-%m-%d %H:%M %Z}.",
        "\n".join(
            [
                row(column.heading for column in shown),
                row("--:" if column.is_number else ":--" for column in shown),
                *(row(column.text(result) for column in shown) for result in results),
            ]
        ),
        "\n".join(f"- {line}" for line in reasons(results) + explanation(results) + notes),
        "" if command is None else f"The best run's settings again:\n\n```sh\n{command}\n```",
        *(f"![{title}]({picture.name})" for title, picture in pictures.items()),
    ]
    write_whole(file, "\n\n".join(filter(None, parts)) + "\n")


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def in_order(rows: Iterable[dict[str, Any]]) -> list[str]:
    """All keys, in the order in which they are met first."""
    return list(dict.fromkeys(key for row in rows for key in row))


def relative(path: Path, folder: Path) -> str:
    """Below a folder its path from there, so that both can be moved together."""
    folder = folder.absolute()
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)


UNLIMITED = 10_000  # columns
LEAST_NAME = 10  # characters, and the room before the next column
COLORS = {"completed": "green", "diverged": "red", "failed": "red", "waiting": "dim"}


def print_table(results: list[Result]) -> None:
    """At a terminal with as many columns as fit, elsewhere whole."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=UNLIMITED)
    shown = all_columns = columns(results)
    while width(table(results, shown), console) > console.width:
        spare = max(reversed(shown), key=lambda column: column.goes)
        if spare.goes == 0:
            break
        shown = [column for column in shown if column is not spare]
    # Only names are folded, unless that leaves no room for them.
    others = width(table(results, shown[1:]), console)
    console.print(table(results, shown, folds_all=others + LEAST_NAME > console.width))
    if left_out := [column.heading for column in all_columns if column not in shown]:
        console.print(f"Left out for want of room: {', '.join(left_out)}.\n")


def table(results: list[Result], shown: list[Column], folds_all: bool = False) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in shown:
        table.add_column(
            Text(column.heading),
            justify="right" if column.is_number else "left",
            overflow="fold",
            no_wrap=not folds_all and column.heading != "name",
        )
    for result in results:
        color = COLORS.get(result.status, "")
        cells = [Text(column.text(result)) for column in shown]
        table.add_row(*cells, style=color if result is not results[0] else f"bold {color}")
    return table


def width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(width=UNLIMITED)).maximum
