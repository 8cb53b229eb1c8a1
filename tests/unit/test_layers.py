"""Data flows one way: a module imports only from those before it in the table."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pytest_kgdb

ROOT = Path(pytest_kgdb.__file__).parent

# The layers, lowest first; names in one tuple do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("deadline",),
    ("arch",),
    ("report",),
    ("process",),
    ("progress",),
    ("settings",),
    ("cache",),
    ("kernel",),
    ("disk",),
    ("initrd",),
    ("klog",),
    ("monitor",),
    ("console",),
    ("machine",),
    ("rsp",),
    ("mi",),
    ("memory",),
    ("target",),
    ("session",),
    ("plugin",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules() -> list[Path]:
    outside = (ROOT / "__init__.py", ROOT / "data" / "gdb_agent.py")  # gdb runs the latter
    return [path for path in sorted(ROOT.rglob("*.py")) if path not in outside]


def owner(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The table's modules that a file imports, wherever in the file it does so."""
    package = ["pytest_kgdb", *path.relative_to(ROOT).with_suffix("").parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names] + [stem]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "pytest_kgdb" and len(parts) > 1 and parts[1] in LEVEL:
                found.add(parts[1])
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    me = owner(path)
    assert me in LEVEL, f"{me} is not in the module table"
    upward = {name for name in imported(path) if LEVEL[name] > LEVEL[me]}
    sideways = {name for name in imported(path) if LEVEL[name] == LEVEL[me] and name != me}
    assert not upward | sideways
