"""Nothing that a library keeps to itself is used: what it does not promise can change any day."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for part in ("src", "scripts", "benchmarks")
    for path in sorted((ROOT / part).rglob("*.py"))
]
# Operators without which a product takes twice as long on some processors, and a product of lists
# that PyTorch's own optimizers use; each in one file.
EXCEPTIONS = {
    "src/lstm_lm/model/products.py": {"_linear_pointwise", "_reorder_linear_weight"},
    "src/lstm_lm/training/optimization.py": {"_foreach_mul_"},
}


# Documented in spite of their names, by Python.
PUBLIC = {"_asdict", "_exit", "_fields", "_replace"}


def is_private(name: str) -> bool:
    return any(
        part.startswith("_") and not (part.startswith("__") and part.endswith("__"))
        for part in name.split(".")
    )


@functools.cache
def defined_here() -> set[str]:
    """Private names of functions, classes, methods and attributes that this package defines."""
    names = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef() | ast.ClassDef():
                    names.add(node.name)
                case ast.Attribute(value=ast.Name("self"), attr=attr, ctx=ast.Store()):
                    names.add(attr)
                case ast.Name(id=name, ctx=ast.Store()):
                    names.add(name)
    return {name for name in names if is_private(name)}


def used(path: Path) -> set[str]:
    """Private names that a file imports, asks for as attributes, or gives as text to getattr."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=module, names=aliases):
                names |= {module or "", *(alias.name for alias in aliases)}
            case ast.Attribute(attr=attr):
                names.add(attr)
            case ast.Call(
                func=ast.Name("getattr" | "setattr" | "hasattr" | "delattr"),
                args=[_, ast.Constant(str(name)), *_],
            ):
                names.add(name)
            case ast.Call(
                func=ast.Attribute(attr="setattr"), args=[_, ast.Constant(str(name)), *_]
            ):
                names.add(name)
    return {name for name in names if is_private(name)} - PUBLIC


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_of_a_library_is_used(path):
    allowed = EXCEPTIONS.get(str(path.relative_to(ROOT)), set())
    assert used(path) - defined_here() <= allowed


def test_every_exception_is_needed():
    for name, allowed in EXCEPTIONS.items():
        assert used(ROOT / name) - defined_here() == allowed
