"""The wheel alone, from another folder than the clone's: settings and pages are in it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = ["data.max_tokens=20000", "model.hidden_size=8", "training.steps=3", "samples.tokens=5"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT]
    subprocess.run(build, check=True)
    (file,) = folder.glob("*.whl")
    zipfile.ZipFile(file).extractall(folder / "installed")
    return folder / "installed"


def run(*arguments, wheel, folder):
    environment = os.environ | {"PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "lstm_lm", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
@pytest.mark.ci
def test_the_wheel_trains_evaluates_and_generates_from_another_folder(wheel, tmp_path):
    assert not (wheel / "benchmarks").exists()
    assert (wheel / "lstm_lm/py.typed").exists()
    (tmp_path / "own/experiment").mkdir(parents=True)
    own = "# @package _global_\nmodel:\n  cell: gru\n"
    (tmp_path / "own/experiment/mine.yaml").write_text(own)
    command = ["train", "--config-dir=own", "experiment=mine", "hydra.run.dir=run", *TINY]
    output = run(*command, wheel=wheel, folder=tmp_path)
    assert "model   builtin gru" in output and "run folder   run" in output
    assert "perplexity" in run("evaluate", "run", wheel=wheel, folder=tmp_path)
    generate = ["generate", "run", "--prompt", "The ", "--tokens", "9"]
    assert run(*generate, wheel=wheel, folder=tmp_path).startswith("The ")
    assert "page   run/inside.html" in run("inspect", "run", wheel=wheel, folder=tmp_path)


def test_an_unknown_command_ends_with_the_list_of_commands():
    command = [sys.executable, "-m", "lstm_lm", "tran"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert "  train     " in done.stderr
    assert done.stderr.endswith("error: there is no command 'tran'\n")
