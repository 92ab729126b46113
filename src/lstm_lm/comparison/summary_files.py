"""The table of results as files: one for programs, one for readers."""

import csv
import io
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from lstm_lm.atomic_file import write_whole
from lstm_lm.comparison.columns import columns, explanation, reasons
from lstm_lm.comparison.differences import about, differing
from lstm_lm.comparison.results import Result
from lstm_lm.fingerprint import flatten


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
