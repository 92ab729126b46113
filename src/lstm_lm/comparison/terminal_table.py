"""The table of results for a terminal, or for whatever else standard output is."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lstm_lm.comparison.columns import Column, columns
from lstm_lm.comparison.results import Result
from lstm_lm.console import Console

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
