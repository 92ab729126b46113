"""What commands leave unimported until they need it, so that they answer soon."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
SLOW = {"torch", "lightning", "matplotlib", "numpy", "optuna", "rich", "tensorboard"}


def imported_by(code: str) -> set[str]:
    """The packages that a new Python has imported when it has run this code."""
    report = "import atexit, sys; atexit.register(lambda: print(*sys.modules))"
    command = [sys.executable, "-c", f"{report}\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "generate.py", "compare.py"])
def test_help_imports_nothing_slow(script):
    path = str(SCRIPTS / script)
    packages = imported_by(
        f"sys.argv = [{path!r}, '--help']\n"
        f"import runpy; runpy.run_path({path!r}, run_name='__main__')"
    )
    assert "lstm_lm" in packages
    assert not packages & SLOW


def test_a_sweep_starts_its_jobs_without_lightning_or_matplotlib():
    packages = imported_by("import lstm_lm.sweep.run_sweep")
    assert "torch" in packages
    assert not packages & {"lightning", "matplotlib"}
