"""Kill runs with SIGKILL repeatedly, resume them, and compare them with uninterrupted runs.

python -m benchmarks.kill_and_resume               # every case, 120 kills in all
python -m benchmarks.kill_and_resume --kills 20 --cases "gru, random" model.dropout=0.5

Kills come at random times: while a process starts, trains or validates, or writes a file; with
several processes, any of them is killed. Weights, optimizer, curves, samples and final figures
must be equal to the last bit. During the runs, summary.json must always be valid JSON. A run that
ends before its kill does not count.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lstm_lm.process import run_program

TRAIN = Path(__file__).parents[1] / "scripts/train.py"
SETTINGS = [
    "data.max_tokens=60000",
    "model.hidden_size=64",
    "model.num_layers=2",
    "model.dropout=0.2",
    "optimizer.name=adamw",
    "optimizer.learning_rate=0.003",
    "training.epochs=8",
    "training.log_every=7",
    "checkpoint.every_steps=10",
    "samples.tokens=100",
    "device=cpu",
]
CASES = {
    "lstm": [],
    "gru, random": ["model.cell=gru", "data.order=random"],
    "scratch lstm, validated within epochs": [
        "model.core=scratch",
        "trainer.val_check_interval=0.4",
        "training.epochs=4",
    ],
    "moving average": ["callbacks=ema", "callbacks.ema.decay=0.9"],
    "accumulation": ["trainer.accumulate_grad_batches=3", "logger=[tensorboard,csv]"],
    "accumulation by a schedule": ["callbacks=gradient_accumulation_schedule"],
    "two processes": ["device=ddp", "device.accelerator=cpu", "data.batch_size=16"],
    "two processes, random, moving average": [
        "device=ddp",
        "device.accelerator=cpu",
        "data.order=random",
        "callbacks=ema",
        "callbacks.ema.decay=0.9",
    ],
}
LIVES = {"starting": 0.2, "training": 0.3, "writing": 0.5}  # share of kills aimed at each phase
LONGEST = 60  # seconds to wait for the right moment


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="more settings for train.py")
    parser.add_argument("--kills", type=int, default=120, help="in all cases (default: 120)")
    parser.add_argument(
        "--cases", nargs="+", choices=list(CASES), default=list(CASES), help="default: all"
    )
    parser.add_argument("--seed", type=int, default=0, help="for the times of the kills")
    parser.add_argument("--keep", type=Path, help="keep the runs, in this new folder")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    draw = random.Random(arguments.seed)
    root = arguments.keep or Path(tempfile.mkdtemp(prefix="kill_and_resume_"))
    root.mkdir(parents=True, exist_ok=True)
    failed = False
    for number, case in enumerate(arguments.cases):
        settings = [*SETTINGS, *CASES[case], *arguments.settings]
        whole = root / f"case_{number}"
        finish(settings, whole)
        share = -(-arguments.kills // len(arguments.cases))
        kills, runs, differences = kill_and_resume(settings, whole, share, draw)
        loss = json.loads((whole / "summary.json").read_text())["validation/loss"]
        moments = ", ".join(f"{number} {moment}" for moment, number in sorted(kills.items()))
        verdict = f"DIFFERENT: {', '.join(differences)}" if differences else "the same bits"
        print(
            f"{case}: {kills.total()} kills ({moments}) in {runs} runs, "
            f"validation loss {loss!r}, {verdict}",
            flush=True,
        )
        failed |= bool(differences)
    if failed or arguments.keep:
        print(f"the runs are in {root}")
    else:
        shutil.rmtree(root)
    return int(failed)


def command(settings: list[str], folder: Path) -> list[str]:
    where = ["resume=auto", f"hydra.run.dir={folder}"]
    return [sys.executable, str(TRAIN), *settings, *where]


def finish(settings: list[str], folder: Path) -> None:
    done = subprocess.run(command(settings, folder), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{folder} failed with exit code {done.returncode}:\n{done.stderr}")


def kill_and_resume(
    settings: list[str], whole: Path, wanted: int, draw: random.Random
) -> tuple[Counter[str], int, list[str]]:
    """Kill and resume runs until there were ``wanted`` kills; finish each run.

    Returns the number of kills in each phase, the number of runs, and the names of what differs
    from the uninterrupted run.
    """
    kills: Counter[str] = Counter()
    runs, differences = 0, []
    while kills.total() < wanted:
        runs += 1
        cut = whole.with_name(f"{whole.name}_cut_{runs}")
        is_complete = False
        while not is_complete and kills.total() < wanted:
            meant_for = draw.choices(list(LIVES), list(LIVES.values()))[0]
            summary, left_over = cut / "summary.json", unfinished(cut)
            before = modified(summary)
            process = subprocess.Popen(
                command(settings, cut), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            wait_for_moment(process, cut, meant_for, draw)
            was_killed = process.poll() is None
            kill_one(process, draw)
            errors = process.communicate()[1]
            check_summary(cut)
            is_complete = process.returncode == 0  # it ended before the kill
            if was_killed and process.returncode in (-9, 1):  # 1: another rank was killed
                if unfinished(cut) - left_over:
                    kills["while writing"] += 1
                else:
                    has_begun = modified(summary) != before
                    kills["while training" if has_begun else "while starting"] += 1
            elif not is_complete:
                sys.exit(f"{cut} failed with exit code {process.returncode}:\n{errors}")
        finish(settings, cut)
        differences += compare(whole, cut)
    return kills, runs, differences


def wait_for_moment(
    process: subprocess.Popen[str], folder: Path, meant_for: str, draw: random.Random
) -> None:
    if meant_for == "starting":
        time.sleep(draw.uniform(0, 4))
        return
    before = modified(folder / "summary.json")
    end = time.monotonic() + LONGEST
    patience = draw.uniform(0, 1.5)  # seconds of training
    while process.poll() is None and time.monotonic() < end:
        if modified(folder / "summary.json") != before:
            break  # training has begun
        time.sleep(0.001)
    end = min(end, time.monotonic() + patience)
    while process.poll() is None and time.monotonic() < end:
        check_summary(folder)
        if meant_for == "writing" and draw.random() < 0.1 and unfinished(folder):
            return
        time.sleep(0.0005)


def kill_one(process: subprocess.Popen[str], draw: random.Random) -> None:
    """Kill the process, or one of the ranks that it started."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    with contextlib.suppress(ProcessLookupError):
        os.kill(draw.choice([process.pid, *map(int, found.stdout.split())]), signal.SIGKILL)


def modified(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def unfinished(folder: Path) -> set[Path]:
    return {*folder.glob(".*.unfinished"), *folder.glob("checkpoints/.*.unfinished")}


def check_summary(folder: Path) -> None:
    file = folder / "summary.json"
    if file.exists():
        json.loads(file.read_text())


def compare(whole: Path, cut: Path) -> list[str]:
    """The names of all results that differ."""
    one, other = result(whole), result(cut)
    return [name for name in one.keys() | other.keys() if not same(one.get(name), other.get(name))]


def result(folder: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

    from lstm_lm.saved.checkpoint_file import load_checkpoint

    summary = json.loads((folder / "summary.json").read_text())
    last, best = (load_checkpoint(folder / f"checkpoints/{name}.ckpt") for name in ("last", "best"))
    events = event_accumulator.EventAccumulator(str(folder), {"scalars": 0, "tensors": 0}).Reload()
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag != "tokens_per_second"
    }
    samples = {
        tag: [(event.step, list(event.tensor_proto.string_val)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
    return {
        **{name: summary[name] for name in summary if name not in ("seconds", "tokens_per_second")},
        "weights": last["state_dict"],
        "best weights": best["state_dict"],
        "optimizer": last["optimizer_states"],
        "curves": scalars,
        "samples": samples,
        "carried and random states": [last["lstm_lm"][name] for name in ("carried", "random")],
        "weights beside their average": last.get("current_model_state"),
        "rows": rows(folder / "metrics.csv"),
    }


def rows(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with open(file, newline="") as lines:
        return [
            {name: value for name, value in row.items() if name != "tokens_per_second"}
            for row in csv.DictReader(lines)
        ]


def same(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


if __name__ == "__main__":
    run_program(main)
