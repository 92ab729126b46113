"""The house rules: layers, by the contracts in ``pyproject.toml``, functions and docstrings."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def test_packages_import_only_what_lies_below_them():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_package_files_are_empty_but_for_the_map():
    files = [path for path in (ROOT / "src/lstm_lm").rglob("__init__.py") if path.read_text()]
    assert files == [ROOT / "src/lstm_lm/__init__.py"]


def nodes(*kinds: type) -> Iterator[tuple[Path, Any]]:
    for part in ("src", "scripts", "benchmarks"):
        for file in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, kinds):
                    yield file, node


def test_no_function_is_longer_than_a_page():
    functions = nodes(ast.FunctionDef, ast.AsyncFunctionDef)
    long = [f"{f.name}: {n.name}" for f, n in functions if n.end_lineno - n.lineno + 1 > 45]
    assert long == []


def test_a_docstring_begins_with_a_summary():
    elliptic = re.compile("(What|Whether|Where|How|Those|The same|Of|By|Raises:|Args:)\\b")
    for file, node in nodes(ast.Module, ast.ClassDef, ast.FunctionDef):
        docstring = ast.get_docstring(node) or ""
        assert not elliptic.match(docstring), f"{file.name}: {docstring}"
