"""Pages that a reader follows from top to bottom: their files, their commands, what is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_kgdb.settings import from_pytest

ROOT = Path(__file__).parents[2]
SECONDS = 1800.0  # kernels may be built, of which one file each is compiled
MARK = "= end of a command ="

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


class Block(NamedTuple):
    """A block of a page, in its language, with the paragraph before it."""

    kind: str
    text: str
    before: str


class Command(NamedTuple):
    """A command of a page, and the lines that it is to print."""

    text: str
    lines: list[str]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        yield Block(match[1], match[2], text[: match.start()].rstrip().rpartition("\n\n")[2])


def commands(block: Block) -> list[Command]:
    """The commands of a block of kind `console`."""
    return [Command(one[0], one[1].splitlines()) for one in _COMMAND.findall(block.text)]


def pattern(line: str) -> str:
    """A line of the page as a pattern: `…` is what differs from run to run."""
    parts = [r"\s+".join(map(re.escape, part.split(" "))) for part in line.strip().split("…")]
    return ".*".join(re.sub(r"(\\s\+)+", r"\\s+", part) for part in parts)


def environment(state_dir: Path, config: pytest.Config) -> dict[str, str]:
    """The environment of a reader who has nothing but this session's kernels."""
    cache = state_dir / ".cache/pytest-kgdb"
    cache.mkdir(parents=True)
    for name in ("v1", "gdb-index"):
        (cache / name).symlink_to(from_pytest(config).cache_dir / name)
    return {
        "HOME": str(state_dir),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
    }


def follow(block: Block, directory: Path, variables: Mapping[str, str]) -> int:
    """Run the commands of a block, compare what they print, and return how many they are."""
    several = commands(block)
    # One shell for each block: `echo $?` is about the command before.
    lines = (f"{one.text}\nstatus=$?; echo '{MARK}'; (exit $status)\n" for one in several)
    done = subprocess.run(
        ["bash", "-c", "".join(lines)],
        cwd=directory,
        env=dict(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    outputs = done.stdout.split(f"{MARK}\n")
    assert len(outputs) == len(several) + 1, done.stdout
    for command, output in zip(several, outputs, strict=False):
        rest = output
        for line in command.lines:
            match = re.search(rf"^.*{pattern(line)}", rest, re.MULTILINE)
            assert match, f"$ {command.text}\n{output}\nhas not, in this order: {line}"
            rest = rest[match.end() :]
    return len(several)
