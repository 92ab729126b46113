"""How a sweep's jobs stand: a live table in a terminal, a line for each change elsewhere."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from rich.live import Live
from rich.table import Table

from lstm_lm.errors import DamagedFile
from lstm_lm.report.tables import Console
from lstm_lm.saved.results import read_run
from lstm_lm.saved.sweep_folder import Job, SweepFolder
from lstm_lm.sweep.job_process import JobProcess

# The most telling first, should they not all fit on the screen.
STATUSES = "running", "failed", "diverged", "interrupted", "completed", "waiting"
COLORS = {"running": "cyan", "completed": "green", "waiting": "dim"}
COLUMNS = "status", "epoch", "perplexity", "tokens/s", "time", "left"
SPARE_LINES = 6  # of the screen

log = logging.getLogger(__name__)


@dataclass
class Row:
    """How a job stands; what is not known is None."""

    name: str
    status: str
    epoch: float | None = None
    perplexity: float | None = None  # of the validation text, before its first of the training one
    tokens_per_second: float | None = None
    seconds: float | None = None
    seconds_left: float | None = None

    def cells(self) -> list[str]:
        return [
            self.name,
            self.status,
            "" if self.epoch is None else f"{self.epoch:.1f}".removesuffix(".0"),
            "" if self.perplexity is None else f"{self.perplexity:.4g}",
            "" if self.tokens_per_second is None else f"{self.tokens_per_second:,.0f}",
            duration(self.seconds),
            duration(self.seconds_left),
        ]


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds, as a clock shows them."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class AboveTable(logging.Handler):
    """Prints what is logged above a live table, which it would tear otherwise."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # of a terminal that is gone
            self.console.print(record.getMessage(), markup=False, highlight=False)


class LiveTable:
    def __init__(self) -> None:
        self.console = Console()
        self.live: Live | None = None
        self.handlers: list[logging.Handler] = []

    def __enter__(self) -> "LiveTable":
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            with contextlib.suppress(OSError):
                self.live.start()
            self.handlers = logging.root.handlers
            logging.root.handlers = [AboveTable(self.console)]
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            logging.root.handlers = self.handlers
            with contextlib.suppress(OSError):
                self.live.stop()

    def say(self, line: str) -> None:
        if self.live is None:
            log.info("%s", line)

    def show(self, rows: Sequence[Row]) -> None:
        if self.live is not None:
            with contextlib.suppress(OSError):
                self.live.update(self.table(rows), refresh=True)

    def table(self, rows: Sequence[Row]) -> Table:
        counts = {status: sum(row.status == status for row in rows) for status in STATUSES}
        caption = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
        hidden = len(rows) - (self.console.height - SPARE_LINES)
        if hidden > 0:
            caption += f"; {hidden} not shown"
        table = Table(caption=caption, caption_justify="left")
        table.add_column("job")
        for column in COLUMNS:
            table.add_column(column, justify="left" if column == "status" else "right")
        most_telling = sorted(rows, key=lambda row: STATUSES.index(row.status))
        fitting = {row.name for row in most_telling[: max(1, self.console.height - SPARE_LINES)]}
        for row in rows:
            if row.name in fitting:
                table.add_row(*row.cells(), style=COLORS.get(row.status, "red"))
        return table


def as_lines(rows: Sequence[Row]) -> list[str]:
    """The same as plain text, below one another."""
    cells = [["job", *COLUMNS[:-1]], *(row.cells()[:-1] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def row_of_process(process: JobProcess) -> Row:
    progress = process.progress()
    row = Row(process.job.name, "running", seconds=process.seconds)
    if progress:
        row.epoch = progress["epoch"]
        row.perplexity = progress["validation/perplexity"] or progress["train/perplexity"]
        row.tokens_per_second = progress["tokens_per_second"]
        done = progress["share"] - (process.share_at_start or 0.0)
        if done > 0:
            row.seconds_left = process.seconds * (1 - progress["share"]) / done
    return row


def row_of_folder(folder: SweepFolder, job: Job) -> Row:
    row = Row(job.name, job.status)
    with contextlib.suppress(DamagedFile):
        if folder.run_folder(job).holds_a_run():
            summary = folder.run_folder(job).read_summary()
            row.epoch = summary["epochs"]
            row.perplexity = summary.get("best/validation/perplexity")
            if row.perplexity is None:  # so its curves must be read
                row.perplexity = read_run(folder.run_folder(job)).so_far
            row.tokens_per_second = summary.get("tokens_per_second")
            row.seconds = summary["seconds"]
    return row
