"""What was measured, on what, and how it is shown."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any


@dataclass
class Bench:
    """What every measurement is given."""

    kernel: str
    """The SPEC."""

    directory: Path
    """To be written to."""

    rounds: int

    def alternate(
        self, ours: Callable[[], float], theirs: Callable[[], float], rounds: int | None = None
    ) -> tuple[list[float], list[float]]:
        """Measure both in turn, the first one changing places."""
        one: list[float] = []
        other: list[float] = []
        for number in range(rounds or self.rounds):
            steps = [(ours, one), (theirs, other)]
            for measure, into in steps if number % 2 == 0 else reversed(steps):
                into.append(measure())
        return one, other


@dataclass
class Row:
    """A figure beside its counterpart."""

    what: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float]
    against: str
    """What `theirs` is of."""

    must: str
    """As the budget words it."""

    budget: Callable[[Row], bool]
    goal: str = ""
    higher: bool = False
    """Whether more is better."""

    note: str = ""
    name: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times better ours is; below 1 it is worse."""
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        if self.higher:
            return ours / theirs if theirs else float("inf")
        return theirs / ours if ours else float("inf")

    @property
    def median(self) -> float:
        return statistics.median(self.ours)

    @property
    def met(self) -> bool:
        return self.budget(self)

    def line(self) -> str:
        return (
            f"{self.what}: {spread(self.ours, self.unit)}; {self.against}: "
            f"{spread(self.theirs, self.unit)}; {self.ratio:.2f} ×"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "what": self.what,
            "unit": self.unit,
            "ours": list(self.ours),
            "against": self.against,
            "theirs": list(self.theirs),
            "ratio": self.ratio,
            "must": self.must,
            "goal": self.goal,
            "met": self.met,
            "note": self.note,
            **self.extra,
        }


def number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


def spread(values: Sequence[float], unit: str) -> str:
    """Median, and least to greatest."""
    shown = f"{number(statistics.median(values))} {unit}"
    if len(values) > 1:
        shown += f" ({number(min(values))}–{number(max(values))})"
    return shown


def show(rows: Sequence[Row], *, markdown: bool) -> None:
    if markdown:
        print("| what | measured | against | ratio | budget |\n|---|---|---|---|---|")
        for row in rows:
            print(
                f"| {row.what} | {spread(row.ours, row.unit)} | {row.against}: "
                f"{spread(row.theirs, row.unit)} | {row.ratio:.2f} × | {row.must} |"
            )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="medians (least–greatest)", title_justify="left")
    for title in ("what", "measured", "against", "ratio", "must", "goal", ""):
        table.add_column(title, justify="right" if title == "ratio" else "left")
    for row in rows:
        table.add_row(
            row.what,
            spread(row.ours, row.unit),
            f"{row.against}: {spread(row.theirs, row.unit)}",
            f"{row.ratio:.2f} ×",
            row.must,
            row.goal,
            "ok" if row.met else "OVER",
        )
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)


def machine(kernel: str) -> dict[str, str]:
    """What the figures were measured on."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    gigabytes = int(memory[1]) / 2**20 if memory else 0
    names = ("pytest-kgdb", "pytest", "drgn", "qemu.qmp")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, "
        f"{gigabytes:.0f} GiB, load {os.getloadavg()[0]:.2f}",
        "host": f"Linux {platform.release()}",
        "kernel": kernel,
        "qemu": first_line("qemu-system-x86_64", "--version"),
        "gdb": first_line("gdb", "--version"),
        "python": f"{platform.python_version()}, "
        + ", ".join(f"{name} {metadata.version(name)}" for name in names),
    }


def first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.partition("\n")[0]
