"""The layers of the packages: the contracts in ``pyproject.toml``, checked by import-linter."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_packages_import_only_what_lies_below_them():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_package_files_are_empty_but_for_the_map():
    files = [path for path in (ROOT / "src/lstm_lm").rglob("__init__.py") if path.read_text()]
    assert files == [ROOT / "src/lstm_lm/__init__.py"]
