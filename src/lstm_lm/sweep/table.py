"""The state of a sweep's jobs: a live table in a terminal, a line for each change elsewhere."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from rich.live import Live
from rich.table import Table

from lstm_lm.errors import DamagedFile
from lstm_lm.report.tables import COLORS, Column, Console, plain_lines, rich_table, text_of
from lstm_lm.saved.results import read_run
from lstm_lm.saved.run_folder import Status
from lstm_lm.saved.sweep_folder import Job, SweepFolder
from lstm_lm.sweep.job_process import JobProcess

# Running jobs first, should they not all fit on the screen; then the gravest.
STATUSES = sorted(Status, key=lambda status: status != Status.running)
SPARE_LINES = 6  # of the screen

log = logging.getLogger(__name__)


@dataclass
class Row:
    """The state of a job; what is not known is None."""

    name: str
    status: Status
    epoch: float | None = None
    perplexity: float | None = None  # of training text before the first validation
    tokens_per_second: float | None = None
    seconds: float | None = None
    seconds_left: float | None = None


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds, as on a clock."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


COLUMNS = [
    Column("job", lambda row: row.name, is_number=False),
    Column("status", lambda row: row.status, is_number=False),
    Column("epoch", lambda row: text_of(row.epoch, lambda epoch: f"{round(epoch, 1):g}")),
    Column("perplexity", lambda row: text_of(row.perplexity, "{:.4g}".format)),
    Column("tokens/s", lambda row: text_of(row.tokens_per_second, "{:,.0f}".format)),
    Column("time", lambda row: duration(row.seconds)),
    Column("left", lambda row: duration(row.seconds_left)),
]


def as_lines(rows: Sequence[Row]) -> list[str]:
    """The table as plain text, without the time that is left."""
    return plain_lines(COLUMNS[:-1], rows)


def as_line(row: Row) -> str:
    epoch, perplexity, speed = (column.text(row) for column in COLUMNS[2:5])
    return (
        f"{row.name}  {row.status}  epoch {epoch or 0}  perplexity {perplexity or '-'}  "
        f"{speed or 0} tokens per second"
    )


class AboveTable(logging.Handler):
    """Prints log records above a live table, which they would tear otherwise."""

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
        lines = self.console.height - SPARE_LINES
        if len(rows) > lines:
            caption += f"; {len(rows) - lines} not shown"
        by_status = sorted(rows, key=lambda row: STATUSES.index(row.status))
        fitting = {row.name for row in by_status[: max(1, lines)]}
        return rich_table(
            COLUMNS,
            [row for row in rows if row.name in fitting],
            lambda row: "cyan" if row.status == Status.running else COLORS.get(row.status, "red"),
            caption=caption,
            caption_justify="left",
        )


def row_of_process(process: JobProcess) -> Row:
    progress = process.progress()
    row = Row(process.job.name, Status.running, seconds=process.seconds)
    if progress:
        row.epoch = progress["epoch"]
        row.perplexity = progress["validation/perplexity"] or progress["train/perplexity"]
        row.tokens_per_second = progress["tokens_per_second"]
        done = progress["share"] - (process.share_at_start or 0.0)
        if done > 0:
            row.seconds_left = process.seconds * (1 - progress["share"]) / done
    return row


def row_of_folder(folder: SweepFolder, job: Job) -> Row:
    row, run = Row(job.name, job.status), folder.run_folder(job)
    with contextlib.suppress(DamagedFile):
        if run.has_run():
            summary = run.read_summary()
            row.epoch = summary["epochs"]
            row.perplexity = summary.get("best/validation/perplexity")
            if row.perplexity is None:  # the curves have the lowest so far
                row.perplexity = read_run(run).so_far
            row.tokens_per_second = summary.get("tokens_per_second")
            row.seconds = summary["seconds"]
    return row
