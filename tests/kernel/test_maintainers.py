"""docs/maintainers.md, followed to the letter: its files, its commands, and what they print."""

from __future__ import annotations

from pathlib import Path

import pytest
from guide import ROOT, blocks, environment, follow

from pytest_kgdb.kernel import Kernel

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs/maintainers.md"
KERNEL = "distro:6.1"


def files() -> dict[str, str]:
    """The files that the page has its reader write."""
    bodies: dict[str, list[str]] = {}
    for block in blocks(PAGE):
        bodies.setdefault(block.kind, []).append(block.text)
    bug, fix = bodies["diff"]
    (test,), (ini,) = bodies["python"], bodies["ini"]
    return {"bug.patch": bug, "fix.patch": fix, "tests/test_uptime.py": test, "pytest.ini": ini}


@pytest.mark.kgdb_kernel("<6.2")
def test_every_command_of_the_page(
    tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel
) -> None:
    if kgdb_kernel.spec != KERNEL:
        pytest.skip(f"the page is about {KERNEL}")
    (tmp_path / "tests").mkdir()
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    variables = environment(tmp_path / "home", pytestconfig)
    consoles = [block for block in blocks(PAGE) if block.kind == "console"]
    assert sum(follow(block, tmp_path, variables) for block in consoles) == 7
