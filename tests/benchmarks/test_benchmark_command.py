"""The commands as a user types them, on next to no work. What they measure is not looked at."""

import json
import sys
from pathlib import Path

import pytest
from benchmarks import device, peak, sweep

from lstm_lm.machine import Bfloat16, processor_name

BENCHMARKS = "../benchmarks/__main__.py"  # as seen from scripts/
TINY = ["--quick", "--rounds", "1", "--shapes", "tiny", "--threads", "1"]


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch):
    """For the processor's peak: measuring it takes long."""
    monkeypatch.setitem(peak.SIZE, "cpu", 128)


def measured():
    content = json.loads(Path("rows.json").read_text())
    assert content["machine"]["processor"] and content["machine"]["cores"] >= 1
    return content["rows"]


def test_cores(type_command):
    command = ["cores", *TINY, "--precisions", "32-true", "--json", "rows.json"]
    code, output, errors = type_command(BENCHMARKS, *command)
    assert (code, errors) == (0, "")
    assert output.startswith(processor_name())
    assert "scratch lstm / naive lstm" in output
    assert "--quick measures too little" in output
    rows = measured()
    assert {"fused torch lstm / builtin lstm", "builtin lstm"} <= {row["what"] for row in rows}
    assert all(row["ratio"] > 0 and row["share_of_peak"] > 0 for row in rows)


@pytest.mark.bf16
def test_cores_in_both_precisions(type_command):
    code, output, errors = type_command(BENCHMARKS, "cores", *TINY, "--cells", "gru")
    assert (code, errors) == (0, "")
    assert "scratch gru bf16-mixed / builtin gru bf16-mixed" in output


def test_a_precision_that_the_machine_has_not_is_left_out(type_command, monkeypatch, caplog):
    monkeypatch.setattr(sweep, "run_sweep", lambda *_: sweep.Measured(whole=3.0, training=4.0))
    monkeypatch.setattr(device, "bfloat16_support", lambda _: Bfloat16(False, "it is an old one"))
    code, output, errors = type_command(BENCHMARKS, "sweep", "--quick")
    assert code == 0 and "in turn 32-true" in output and "bf16-mixed" not in output
    assert "bf16-mixed is left out, as it is an old one\n" in errors + caplog.text
    command = "sweep --quick --precisions bf16-mixed".split()
    code, output, errors = type_command(BENCHMARKS, *command)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert "bf16-mixed cannot be measured here, as it is an old one" in errors


def test_sweep(type_command, monkeypatch):
    monkeypatch.setattr(sweep, "run_sweep", lambda *_: sweep.Measured(whole=3.0, training=4.0))
    command = "sweep --quick --precisions 32-true --json rows.json".split()
    code, output, errors = type_command(BENCHMARKS, *command)
    assert (code, errors) == (0, "")
    assert "side by side 32-true / in turn 32-true, training" in output
    assert len(measured()) == 2


def test_what_was_measured_is_written_where_nothing_can_be_printed(type_command, monkeypatch):
    monkeypatch.setattr(sweep, "run_sweep", lambda *_: sweep.Measured(whole=3.0, training=4.0))
    command = "sweep --quick --precisions 32-true --json rows.json".split()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, errors = type_command(BENCHMARKS, *command)
    assert (code, errors) == (0, "warning: cannot print: No space left on device\n")
    assert len(measured()) == 2


def test_loop(type_command):
    code, output, errors = type_command(BENCHMARKS, "loop", *TINY, "--json", "rows.json")
    assert code == 0 and "rror" not in errors  # Lightning's summary of the model is there
    assert "run with Lightning, bar and TensorBoard / bare loop" in output
    (row,) = measured()
    assert row["ratio"] > 0 and row["tokens_per_second"] > 0 and "milliseconds" in row


def test_generate(type_command):
    command = ["generate", *TINY, "--json", "rows.json", "--chart", "chart.png"]
    code, output, errors = type_command(BENCHMARKS, *command)
    assert (code, errors) == (0, "")
    assert "scratch / builtin, greedy" in output
    assert all(row["tokens_per_second"] > 0 for row in measured())
    assert Path("chart.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_gpu_it_says_so(type_command):
    code, _, errors = type_command(BENCHMARKS, "cores", *TINY, "--device", "cuda")
    assert code == 2
    assert errors.startswith("error: a GPU was requested, but PyTorch finds none here")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--json", "no/folder.json"], "cannot write no/folder.json"),
        (["--chart", "."], "name a file in a writable folder"),
        (["--threads", "9999"], "9999 is more than the"),
        (["--threads", "0"], "must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_measured(type_command, arguments, says):
    code, output, errors = type_command(BENCHMARKS, "cores", *arguments)
    assert (code, output) == (2, "")
    assert says in errors.splitlines()[-1]
