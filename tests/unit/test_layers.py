"""The table of packages, and imports that go one way: file by file, those for types included."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

import pytest_kgdb

ROOT = Path(pytest_kgdb.__file__).parent

# The packages, lowest first. Those in one row know nothing of each other, except as listed.
TABLE: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("deadline", "arch", "elf", "progress", "escape", "host"),
    ("report", "dwarf"),
    ("process",),
    ("settings",),
    ("cache",),
    ("kernel",),
    ("change",),
    ("disk",),
    ("initrd",),
    ("klog",),
    ("rsp",),
    ("console",),
    ("monitor",),
    ("machine",),
    ("board",),
    ("memory",),
    ("diagnosis",),
    ("debugger",),
    ("actions",),
    ("trace",),
    ("guest",),
    ("modules",),
    ("splats",),
    ("recipes",),
    ("handle",),
    ("session",),
    ("plugin",),
    ("gate",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(TABLE) for name in names}
OUTSIDE = tuple((ROOT / "data").glob("gdb_*.py"))  # gdb runs them, in an interpreter of its own


def files() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if path not in OUTSIDE]


def module_of(path: Path) -> str:
    parts = ["pytest_kgdb", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in files()}


@cache
def imports(path: Path) -> frozenset[str]:
    """The project's modules that a file imports, wherever in the file it does so."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from ._x import y`, or `from . import _x`.
                name = f"{stem}.{alias.name}"
                imported.add(name if name in MODULES else stem)
    return frozenset(name for name in imported if name in MODULES)


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The strongly connected parts of a graph that are more than one node (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    parts: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            part, stack[at:] = stack[at:], []
            if len(part) > 1 or node in graph[node]:
                parts.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return parts


def test_a_circle_is_seen() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}) == [["a", "b", "c"]]
    assert circles({"a": ["b"], "b": []}) == []


def test_no_file_imports_one_that_leads_back_to_it() -> None:
    assert circles({name: sorted(imports(path)) for name, path in MODULES.items()}) == []


@pytest.mark.parametrize(
    "path",
    [path for path in files() if path.parent != ROOT or path.name != "__init__.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_imports_point_upwards_in_the_table(path: Path) -> None:
    me = module_of(path).split(".")[1]
    assert me in LEVEL, f"{me} is not in the table of packages"
    others = {name.split(".")[1] for name in imports(path) if "." in name} - {me}
    assert not {name for name in others if LEVEL[name] >= LEVEL[me]}
