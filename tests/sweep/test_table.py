import io
import logging
import sys

import pytest

from lstm_lm.report.tables import Console
from lstm_lm.saved.run_folder import Status
from lstm_lm.sweep.table import LiveTable, Row, as_lines, duration

ROWS = [
    Row("000_h8", Status.completed, 10, 5.4321, 12345.6, 75.2),
    Row("001_h16", Status.running, 2.345, 7.5, 9999.0, 3700.0, 9.0),
    Row("002_h32", Status.waiting),
]


def test_rows_as_lines_of_text():
    assert as_lines(ROWS) == [
        "job      status     epoch  perplexity  tokens/s     time",
        "000_h8   completed     10       5.432    12,346     1:15",
        "001_h16  running      2.3         7.5     9,999  1:01:40",
        "002_h32  waiting",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, ""), (0, "0:00"), (59.6, "1:00"), (3661, "1:01:01")]
)
def test_durations_are_read_as_from_a_clock(seconds, shown):
    assert duration(seconds) == shown


def test_where_not_all_jobs_fit_those_that_run_or_failed_are_shown():
    rows = [Row(f"{number:03}", Status.completed) for number in range(50)]
    rows[7].status, rows[30].status = Status.running, Status.failed
    table = LiveTable()
    table.console = Console(height=10, width=80)
    with table.console.capture() as shown:
        table.console.print(table.table(rows))
    text = shown.get()
    assert "007" in text and "030" in text
    assert len(text.splitlines()) <= 10
    assert "1 running, 1 failed, 48 completed" in text


class Left(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError


def test_a_reader_that_leaves_a_live_table_ends_no_sweep(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", Left())
    with LiveTable() as table:
        table.show(ROWS)
        logging.warning("to nobody")


def test_what_is_logged_goes_above_the_live_table():
    table = LiveTable()
    table.console = Console(file=io.StringIO(), force_terminal=True, width=80, height=20)
    before = logging.root.handlers
    with table:
        table.show(ROWS)
        logging.getLogger("lstm_lm").warning("stopping [soon]")
        table.show(ROWS)
    assert logging.root.handlers is before
    shown = table.console.file.getvalue()
    assert "stopping [soon]\n" in shown
    assert shown.index("stopping") < shown.rindex("002_h32")
