"""The house of the README, checked: which part may import which."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "lstm_lm"
LIGHTNING_ALLOWED = {"data.data_module", "experiment"}


def modules():
    for path in SOURCE.rglob("*.py"):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(SOURCE).with_suffix("").parts), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def own_imports(path):
    return [i.removeprefix("lstm_lm.") for i in imports(path) if i.startswith("lstm_lm.")]


def test_imports_go_in_no_circle():
    TopologicalSorter({name: own_imports(path) for name, path in modules()}).prepare()


def test_data_and_model_know_neither_each_other_nor_what_is_above_them():
    for name, path in modules():
        package = name.partition(".")[0]
        if package in ("data", "model"):
            others = {other.partition(".")[0] for other in own_imports(path) if "." in other}
            assert others <= {package}, name


def test_lightning_and_hydra_stay_where_they_belong():
    for name, path in modules():
        packages = {i.split(".")[0] for i in imports(path)}
        package = name.partition(".")[0]
        assert "hydra" not in packages or package == "command_line", name
        if "lightning" in packages:
            assert name in LIGHTNING_ALLOWED or package in ("training", "command_line"), name


def test_package_files_are_empty_but_for_the_map():
    for path in SOURCE.rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 0 or path.parent == SOURCE
