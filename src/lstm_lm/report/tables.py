"""Tables of any rows: in a terminal, as Markdown, and as plain text."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import rich.console
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

UNLIMITED = 10_000  # columns
LEAST_NAME = 10  # characters, with the space before the next column


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
