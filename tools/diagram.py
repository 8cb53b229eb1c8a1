"""Draws docs/images/architecture.svg: who talks to whom. `make diagram` writes it anew.

tests/unit/test_docs.py compares the file with what this draws, and the names of the boxes with the
packages.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

# Pixels
WIDTH, HEIGHT = 1000, 660
LINE = 17  # from one line of text to the next

PACKAGE, PROCESS, PORT, DISK = "#e3eefa", "#ffffff", "#fdf1d8", "#eef0f2"
EDGE, TEXT, DIM = "#2b6cb0", "#1a202c", "#4a5568"


class Box(NamedTuple):
    """A rectangle with a title and lines of text; one of a package is named after it."""

    x: int
    y: int
    width: int
    height: int
    title: str
    lines: tuple[str, ...] = ()
    fill: str = PACKAGE


class Wire(NamedTuple):
    """A connection: a horizontal line with its label above."""

    y: int
    start: int
    end: int
    label: str
    dashed: bool = False


PROCESSES = (
    Box(16, 40, 580, 500, "pytest", fill=PROCESS),
    Box(716, 40, 268, 146, "gdb", fill=PROCESS),
    Box(716, 202, 268, 338, "QEMU", fill=PROCESS),
    Box(716, 566, 268, 78, "the reaper (a shell script)", fill=PROCESS),
)
DIRECTORY = Box(
    16, 566, 580, 78, "~/.cache/pytest-kgdb",
    ("kernels, initrds, disks, modules, snapshots, each under a key of all that it",
     "is made from; sources and objects of builds; logs"),
    fill=DISK,
)  # fmt: skip
PACKAGES = (
    Box(32, 72, 108, 56, "plugin", ("hooks, fixtures",)),
    Box(148, 72, 64, 56, "gate", ("verdicts",)),
    Box(220, 72, 80, 56, "cli", ("commands",)),
    Box(32, 140, 268, 56, "session", ("boots, saves, restores; lends the handle",)),
    Box(32, 208, 268, 56, "handle", ("Kgdb, the object that a test holds",)),
    Box(32, 276, 84, 56, "recipes", ("fail_each",)),
    Box(124, 276, 84, 56, "splats", ("the verdict",)),
    Box(216, 276, 84, 56, "modules", ("symbols",)),
    Box(32, 344, 130, 56, "trace", ("spies, overrides",)),
    Box(170, 344, 130, 56, "guest", ("shell, files, ssh",)),
    Box(32, 412, 84, 56, "kernel", ("builds",)),
    Box(124, 412, 84, 56, "initrd", ("busybox",)),
    Box(216, 412, 84, 56, "disk", ("Debian",)),
    Box(32, 480, 268, 48, "cache", ("content-keyed store",)),
    Box(328, 72, 252, 68, "debugger",
        ("RunControl: stopped or running", "BreakpointTable: the breakpoints")),
    Box(328, 152, 252, 148, "rsp",
        ("the relay: a thread between gdb", "and the target; it answers gdb from",
         "guest memory, inserts breakpoints,", "and serves hooks.",
         "A backend for each stub: kgdb,", "kgdb on a board, QEMU's")),
    Box(328, 308, 252, 62, "memory", ("page tables, the drgn program,", "the log buffer")),
    Box(328, 378, 252, 44, "console", ("reads at all times; run, type",)),
    Box(328, 430, 120, 98, "machine", ("QEMU's com-", "mand line, its", "start and end")),
    Box(460, 430, 120, 98, "monitor", ("QMP: stop,", "cont, savevm,", "loadvm")),
)  # fmt: skip
INSIDE = (
    Box(732, 72, 236, 100, "data/gdb_agent.py",
        ("MI command -kgdb, which answers", "in JSON; expressions, conditions,",
         "an unwinder by ORC")),
    Box(732, 234, 96, 30, "ttyS1", fill=PORT),
    Box(732, 270, 96, 30, "gdb stub", fill=PORT),
    Box(732, 324, 96, 30, "RAM", fill=PORT),
    Box(732, 385, 96, 30, "ttyS0", fill=PORT),
    Box(732, 464, 96, 30, "QMP", fill=PORT),
    Box(842, 234, 126, 290, "the kernel",
        ("under test", "", "kgdb on ttyS1:", "stopped, it polls", "that port", "",
         "console on ttyS0:", "its log, a shell"), fill=DISK),
)  # fmt: skip
WIRES = (
    Wire(106, 580, 716, "MI, by pipes"),
    Wire(172, 580, 716, "remote protocol"),
    Wire(249, 580, 732, "remote protocol"),
    Wire(285, 580, 732, "the same", dashed=True),
    Wire(339, 580, 732, "memfd, mapped"),
    Wire(400, 580, 732, "text"),
    Wire(479, 580, 732, "JSON"),
)
REAPER = ("when pytest ends, in whatever way, kills", "QEMU, gdb and compilers that are left")


def text(x: int, y: int, words: str, *, bold: bool = False, color: str = TEXT) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}"{weight} fill="{color}">{escape(words)}</text>'


def box(one: Box) -> list[str]:
    stroke = DIM if one.fill in (PROCESS, DISK) else EDGE
    parts = [
        f'<rect x="{one.x}" y="{one.y}" width="{one.width}" height="{one.height}" rx="5" '
        f'fill="{one.fill}" stroke="{stroke}"/>',
        text(one.x + 10, one.y + 21, one.title, bold=True),
    ]
    parts += [
        text(one.x + 10, one.y + 21 + LINE * number, line, color=DIM)
        for number, line in enumerate(one.lines, 1)
        if line
    ]
    return parts


def wire(one: Wire) -> list[str]:
    dash = ' stroke-dasharray="5 4"' if one.dashed else ""
    return [
        f'<line x1="{one.start}" y1="{one.y}" x2="{one.end}" y2="{one.y}" stroke="{EDGE}" '
        f'stroke-width="2"{dash} marker-start="url(#end)" marker-end="url(#end)"/>',
        text(604, one.y - 5, one.label, color=DIM),
    ]


def draw() -> str:
    """Return the SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12.5">',
        "<title>Architecture of pytest-kgdb: the processes, the packages, and what connects them"
        "</title>",
        '<marker id="end" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="4" markerHeight="4">'
        f'<circle cx="4" cy="4" r="4" fill="{EDGE}"/></marker>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(16, 24, "Processes (white), packages of pytest_kgdb (blue), ports of the machine"
             " (yellow)", color=DIM),
    ]  # fmt: skip
    reaper = PROCESSES[-1]._replace(lines=REAPER)
    for one in (*PROCESSES[:-1], reaper, DIRECTORY, *PACKAGES, *INSIDE):
        parts += box(one)
    for one_wire in WIRES:
        parts += wire(one_wire)
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(), encoding="utf-8")
