"""The layers of the packages, by the contracts in ``pyproject.toml``; and short functions."""

import ast
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


def test_no_function_is_longer_than_a_page():
    files = [f for part in ("src", "scripts", "benchmarks") for f in (ROOT / part).rglob("*.py")]
    functions = [
        (node.end_lineno - node.lineno + 1, f"{file.name}: {node.name}")
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert [name for lines, name in functions if lines > 45] == []
