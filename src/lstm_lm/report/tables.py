"""Tables of runs, or of any rows: in a terminal, as Markdown, plain text or CSV."""

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.console
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lstm_lm.config import flatten
from lstm_lm.files import write_atomically
from lstm_lm.report.differences import (
    as_text,
    differing,
    differing_texts,
    perplexity_text,
    short_names,
)
from lstm_lm.saved.results import Result
from lstm_lm.saved.run_folder import Status
from lstm_lm.saved.sweep_folder import Job

UNLIMITED = 10_000  # columns
LEAST_NAME = 10  # characters, with the space before the next column
NUMBERED = re.compile(r"\d+_")  # a sweep's job, whose name contains its settings
RED = dict.fromkeys((Status.diverged, Status.failed), "red")
COLORS = RED | {Status.completed: "green", Status.waiting: "dim"}


class Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Raise what Python raises when ``head`` leaves; Rich would end the program with 1."""
        raise BrokenPipeError


@dataclass
class Column:
    heading: str
    text: Callable[[Any], str]  # of a row
    is_number: bool = True
    drop_priority: int = 0  # in a narrow terminal the highest is left out first; 0: never


def print_summary(results: list[Result]) -> None:
    def style(result: Result) -> str:
        return ("bold " if result is results[0] else "") + COLORS.get(result.status, "")

    print_table(columns(results), results, style)


def columns(results: list[Result]) -> list[Column]:
    """Name, settings that differ, and figures; some of these only where a run has them."""
    floor = [
        Column("floor", figure("test/floor_perplexity", perplexity_text), drop_priority=1),
        Column("gap", figure("test/gap", "{:.4f}".format), drop_priority=1),
        Column("memory gap", figure("test/memory_gap", "{:.4f}".format), drop_priority=1),
    ]
    bits = [
        Column("bits per character", figure("test/bits_per_character", "{:.4f}".format)),
        Column("bits per byte", figure("test/bits_per_byte", "{:.4f}".format), drop_priority=1),
    ]
    unknown = Column("unknown", figure("validation/unknown", percentage), drop_priority=1)
    figures = [
        Column("status", lambda result: result.status, is_number=False),
        Column("epochs", figure("epochs", "{:,}".format), drop_priority=2),
        Column("training", train_perplexity, drop_priority=4),
        Column("validation", validation_perplexity),
        Column("test", figure("test/perplexity", perplexity_text), drop_priority=1),
        *(bits if differing_texts(results) else []),
        *([unknown] if any(map(has_unknown, results)) else []),
        *(floor if any(map(has_floor, results)) else []),
        Column("tokens/s", figure("tokens_per_second", "{:,.0f}".format), drop_priority=3),
        Column("seconds", figure("seconds", "{:,.0f}".format), drop_priority=5),
        Column("device", device, is_number=False, drop_priority=6),
    ]
    taken = {"name", *(column.heading for column in figures)}
    priority = 7 if all(NUMBERED.match(Path(result.name).name) for result in results) else 0
    settings = [
        Column(name if short in taken else short, setting(name), drop_priority=priority)
        for name, short in short_names(differing(results)).items()
    ]
    return [Column("name", lambda result: result.name, is_number=False), *settings, *figures]


def setting(name: str) -> Callable[[Result], str]:
    return lambda result: as_text(result.settings[name]) if name in result.settings else ""


def figure(name: str, form: Callable[[Any], str]) -> Callable[[Result], str]:
    return lambda result: text_of(result.summary.get(name), form)


def percentage(share: float) -> str:
    return f"{100 * share:.3g} %"


def train_perplexity(result: Result) -> str:
    value = result.summary.get("train/perplexity")
    curve = result.curves.get("train/perplexity")
    return perplexity_text(curve.values[-1] if value is None and curve else value)


def is_so_far(result: Result) -> bool:
    return result.best is None and result.so_far is not None


def validation_perplexity(result: Result) -> str:
    return ("so far " if is_so_far(result) else "") + perplexity_text(result.perplexity)


def has_floor(result: Result) -> bool:
    return "test/floor" in result.summary


def has_unknown(result: Result) -> bool:
    return bool(result.summary.get("validation/unknown") or result.summary.get("test/unknown"))


def device(result: Result) -> str:
    return result.summary.get("device") or str(result.settings.get("device.accelerator", ""))


def explanation(results: list[Result]) -> list[str]:
    """Lines that explain how to read the table."""
    differ_in_text = differing_texts(results)
    differ_in_level = "data.level" in differ_in_text
    lines = {
        "Perplexities: training while the weights moved, over the last epoch; validation and test "
        "of the best weights.": True,
        "Curves end at other values: training over the steps since the last reading, validation "
        "in rows of text, while the table's figures are exact.": True,
        "So far: the lowest of the validations while training, of a run without final "
        "figures.": any(map(is_so_far, results)),
        "Floor: the lowest perplexity that any model can have on the test text, on average. "
        "Gap: how far a model is above it, in nats per token; memory gap: the same, where it "
        "must remember.": any(map(has_floor, results)),
        "Unknown: how much of the validation text is not in the vocabulary. It counts as one "
        "token, <unk>, so the perplexities of runs that differ in this cannot be "
        "compared.": any(map(has_unknown, results)),
        "The runs differ in data.level: perplexities of characters and of words cannot be "
        "compared, bits per character and per byte can.": differ_in_level,
        "Bits: of the test text.": bool(differ_in_text),
        "The runs differ in their texts: their perplexities cannot be compared.": differ_in_text
        and not differ_in_level,
    }
    return [line for line, applies in lines.items() if applies]


def reasons(results: Sequence[Result | Job]) -> list[str]:
    """Why runs or jobs failed or diverged, in a line for each reason."""
    names: dict[str, list[str]] = {}
    for result in results:
        if result.error:
            names.setdefault(result.error, []).append(result.name)
    return [
        ", ".join(some[:3]) + (f" and {len(some) - 3} more" if len(some) > 3 else "") + f": {error}"
        for error, some in names.items()
    ]


def write_csv(results: list[Result], file: Path) -> None:
    """All results with all figures and all settings that differ, in full precision."""
    settings = differing(results, with_effect=False)
    records = [
        {
            "name": result.name,
            "folder": relative(result.path, file.parent),
            "status": result.status,
            "error": result.error,
            **{name: result.settings.get(name) for name in settings},
            "so far/validation/perplexity": result.so_far,
            **flatten({name: v for name, v in result.summary.items() if name != "status"}),
        }
        for result in results
    ]
    content = io.StringIO()
    names = dict.fromkeys(name for record in records for name in record)
    writer = csv.DictWriter(content, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_atomically(file, content.getvalue())


def relative(path: Path, folder: Path) -> str:
    """A path below a folder is relative to it, so that both can be moved together."""
    folder = folder.absolute()
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)


def text_of(value: Any, form: Callable[[Any], str]) -> str:
    """The value as text; empty if it is not known."""
    return "" if value is None else form(value)


def print_table(
    columns: Sequence[Column], rows: Sequence[Any], style: Callable[[Any], str]
) -> None:
    """Print the columns that fit into the terminal; all of them where there is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = UNLIMITED

    def width(some: Sequence[Column]) -> int:
        options = console.options.update(width=UNLIMITED)
        return console.measure(rich_table(some, rows, style, **layout), options=options).maximum

    layout = {"box": SIMPLE_HEAD, "pad_edge": False}
    shown = list(columns)
    while width(shown) > console.width:
        spare = max(reversed(shown), key=lambda column: column.drop_priority)
        if spare.drop_priority == 0:
            break
        shown.remove(spare)
    table = rich_table(shown, rows, style, **layout)
    # Fold only the names, unless that leaves no room for them.
    folds_all = width(shown[1:]) + LEAST_NAME > console.width
    for number, column in enumerate(table.columns):
        column.overflow, column.no_wrap = "fold", number > 0 and not folds_all
    console.print(table)
    if left_out := [column.heading for column in columns if column not in shown]:
        console.print(f"Left out for want of room: {', '.join(left_out)}.\n")


def rich_table(
    columns: Sequence[Column], rows: Iterable[Any], style: Callable[[Any], str], **layout: Any
) -> Table:
    table = Table(**layout)
    for column in columns:
        table.add_column(Text(column.heading), justify="right" if column.is_number else "left")
    for row in rows:
        table.add_row(*(Text(column.text(row)) for column in columns), style=style(row))
    return table


def markdown_lines(columns: Sequence[Column], rows: Iterable[Any]) -> list[str]:
    cells = [[column.text(row) for column in columns] for row in rows]
    alignments = ["--:" if column.is_number else ":--" for column in columns]
    return [
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in ([column.heading for column in columns], alignments, *cells)
    ]


def plain_lines(columns: Sequence[Column], rows: Iterable[Any]) -> list[str]:
    texts = [[column.heading, *map(column.text, rows)] for column in columns]
    widths = [max(map(len, text)) for text in texts]
    aligned = [
        [text.rjust(width) if column.is_number else text.ljust(width) for text in column_texts]
        for column, column_texts, width in zip(columns, texts, widths, strict=True)
    ]
    return ["  ".join(line).rstrip() for line in zip(*aligned, strict=True)]
