"""docs/maintainers.md, followed to the letter: its files, its commands, and what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_kgdb.kernel import Kernel
from pytest_kgdb.settings import from_pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/maintainers.md"
SECONDS = 1800.0  # two kernels are built, of which one file each is compiled
KERNEL = "distro:6.1"
MARK = "= end of a command ="

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


class Command(NamedTuple):
    """A command of the page, and the lines that it is to print."""

    text: str
    lines: list[str]


def files() -> dict[str, str]:
    """The files that the page has its reader write."""
    bodies: dict[str, list[str]] = {}
    for kind, text in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        bodies.setdefault(kind, []).append(text)
    bug, fix = bodies["diff"]
    (test,), (ini,) = bodies["python"], bodies["ini"]
    return {"bug.patch": bug, "fix.patch": fix, "tests/test_uptime.py": test, "pytest.ini": ini}


def commands() -> Iterator[list[Command]]:
    """The blocks of commands."""
    for kind, text in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "console":
            yield [Command(one[0], one[1].splitlines()) for one in _COMMAND.findall(text)]


def pattern(line: str) -> str:
    """A line of the page as a pattern: `…` is what differs from run to run."""
    parts = [r"\s+".join(map(re.escape, part.split(" "))) for part in line.strip().split("…")]
    return ".*".join(re.sub(r"(\\s\+)+", r"\\s+", part) for part in parts)


def test_every_command_of_the_page(
    tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel
) -> None:
    if kgdb_kernel.spec != KERNEL:
        pytest.skip(f"the page is about {KERNEL}")
    (tmp_path / "tests").mkdir()
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    home = tmp_path / "home"
    cache = home / ".cache/pytest-kgdb"
    cache.mkdir(parents=True)
    for name in ("v1", "gdb-index"):
        (cache / name).symlink_to(from_pytest(pytestconfig).cache_dir / name)
    environment = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
    }
    number = 0
    for block in commands():
        # One shell for each block: `echo $?` is about the command before.
        lines = (f"{one.text}\nstatus=$?; echo '{MARK}'; (exit $status)\n" for one in block)
        script = "".join(lines)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        outputs = done.stdout.split(f"{MARK}\n")
        assert len(outputs) == len(block) + 1, done.stdout
        for command, output in zip(block, outputs, strict=False):
            rest = output
            for line in command.lines:
                match = re.search(rf"^.*{pattern(line)}", rest, re.MULTILINE)
                assert match, f"$ {command.text}\n{output}\nhas not, in this order: {line}"
                rest = rest[match.end() :]
            number += 1
    assert number == 7
