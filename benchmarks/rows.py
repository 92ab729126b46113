"""Results of a benchmark, a row for each comparison: as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lstm_lm.files import write_atomically


@dataclass
class Row:
    what: str  # this / that
    shape: str
    threads: int
    device: str
    dtype: str
    ratio: float  # the median over the rounds
    low: float
    high: float
    tokens_per_second: float | None = None  # of this
    share_of_peak: float | None = None  # of the machine's own speed at matrix products
    milliseconds: float | None = None  # a step that this takes more than that

    @property
    def is_reference(self) -> bool:
        """True if others are compared with this one, and it with none."""
        return "/" not in self.what


def table(rows: Sequence[Row]) -> str:
    """Lines of text, rows of one shape and number of threads under a heading of their own."""
    width = max(len(row.what) for row in rows)
    lines, before = [], None
    for row in rows:
        heading = f"{row.shape}; {count(row.threads, 'thread')}, {row.device}"
        if heading != before:
            lines += ["", heading, " " * width + "   ratio    low   high   tokens/s   of peak"]
            before = heading
        speed = "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}"
        share = "" if row.share_of_peak is None else f"{row.share_of_peak:.0%}"
        more = "" if row.milliseconds is None else f"  {row.milliseconds:+.2f} ms a step"
        places = 2 if row.ratio >= 0.1 else 4
        ratios = f"{row.ratio:8.{places}f}{row.low:7.{places}f}{row.high:7.{places}f}"
        figures = f"{ratios}{speed:>11}{share:>10}{more}"
        lines.append(f"{row.what:{width}}{figures}".rstrip())
    return "\n".join(lines)


def count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def write_json(machine: dict[str, Any], rows: Sequence[Row], file: Path) -> None:
    plain = [asdict(row) for row in rows]
    for row in plain:
        if row["milliseconds"] is None:
            del row["milliseconds"]
    write_atomically(
        file, (json.dumps({"machine": machine, "rows": plain}, indent=1) + "\n").encode()
    )
