"""docs/tutorial.md, followed from top to bottom: each file written, each command run, in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guide import ROOT, blocks, environment, follow

from pytest_kgdb.kernel import Kernel
from pytest_kgdb.settings import from_pytest

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs/tutorial.md"
KERNEL = "distro:6.1"
_NAME = re.compile(r"`([\w./]*(?:Makefile|\.\w+))`")
GIT = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "A Reader"), ("EMAIL", "reader@example.org"))
}


@pytest.mark.kgdb_kernel("<6.2")
def test_every_command_of_the_page(
    tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel
) -> None:
    if kgdb_kernel.spec != KERNEL:
        pytest.skip(f"the page is about {KERNEL}")
    directory = tmp_path / "tutorial"
    directory.mkdir()
    variables = environment(tmp_path / "home", pytestconfig) | GIT
    if (cache := from_pytest(pytestconfig).cache_dir).name == "pytest-kgdb":
        variables["XDG_CACHE_HOME"] = str(cache.parent)  # not behind the symbolic link
    files = []
    number = 0
    for block in blocks(PAGE):
        if block.kind == "console":
            number += follow(block, directory, variables)
        else:
            # The paragraph before it names the file.
            (name,) = dict.fromkeys(_NAME.findall(block.before))
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(block.text)
            files.append(name)
    assert number == 13
    assert sorted(files) == [
        "fix.patch", "pytest.ini", "tally/Makefile", "tally/tally.c", "tests/test_errors.py",
        "tests/test_report.py", "tests/test_tally.py",
    ]  # fmt: skip
