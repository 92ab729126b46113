"""The commands as a user types them, on next to no work. What they measure is not looked at."""

import json
from pathlib import Path

TINY = ["--quick", "--shapes", "tiny", "--threads", "1"]


def test_cores(type_command):
    command = ["cores", *TINY, "--cells", "lstm", "gru", "--json", "rows.json"]
    code, output, errors = type_command("benchmark.py", *command)
    assert (code, errors) == (0, "")
    assert "scratch lstm / naive lstm" in output
    assert "too little is measured" in output
    rows = json.loads(Path("rows.json").read_text())
    assert {"scratch gru bf16-mixed / builtin gru bf16-mixed", "builtin lstm"} <= {
        row["what"] for row in rows
    }
    assert all(row["ratio"] > 0 and row["share_of_peak"] > 0 for row in rows)


def test_sweep(type_command):
    command = "sweep --quick --jobs 1 --steps 2 --precisions 32-true --json rows.json".split()
    code, output, errors = type_command("benchmark.py", *command)
    assert (code, errors) == (0, "")
    assert "side by side 32-true / in turn 32-true, training" in output
    assert len(json.loads(Path("rows.json").read_text())) == 2


def test_without_a_gpu_it_says_so(type_command):
    code, _, errors = type_command("benchmark.py", "cores", *TINY, "--device", "cuda")
    assert code == 2
    assert errors.startswith("error: a GPU was asked for, but PyTorch finds none here")
