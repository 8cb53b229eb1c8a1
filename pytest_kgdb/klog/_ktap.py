"""KTAP: the format in which KUnit reports its results (Documentation/dev-tools/ktap.rst)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["KtapCase", "KtapStatus", "KtapSuite", "parse_ktap"]

KtapStatus = Literal["passed", "failed", "skipped", "incomplete"]

# Linux 6.1 and older write a hyphen before the name.
_RESULT: Final = re.compile(
    r"^(?P<indent> *)(?P<bad>not )?ok (?P<number>\d+)(?: -)? ?(?P<name>.*?)"
    r"(?:\s*# (?P<directive>SKIP|TODO|XFAIL|TIMEOUT|ERROR)\b:?\s*(?P<reason>.*))?$"
)
_PLAN: Final = re.compile(r"^(?P<indent> *)1\.\.(?P<count>\d+)$")
_SUBTEST: Final = re.compile(r"^(?P<indent> *)# Subtest: (?P<name>.+)$")
# lib/kunit/test.c, kunit_run_tests: of a suite whose suite_init failed there is this line, and its
# result.
_NOT_BEGUN: Final = re.compile(r"^ *# (?P<name>\S.*?): *# failed to initialize \(-?\d+\)$")
_NOISE: Final = re.compile(
    r"^ *(?:K?TAP version \d+|# module: .*|# [\w-]+: pass:\d+ fail:\d+ .*|# Totals: .*)$"
    r"|^sysrq: DEBUG$"  # drivers/tty/sysrq.c: the kernel was interrupted by a break
)
_INDENT: Final = 4  # blanks for each level


@dataclass(frozen=True)
class KtapCase:
    """A case of a suite, or one parameter of a case."""

    name: str
    status: KtapStatus
    reason: str = ""
    """Why it was skipped."""
    output: str = ""
    """The lines that were printed while it ran."""
    cases: tuple[KtapCase, ...] = ()
    """The parameters of a parametrised case."""


@dataclass(frozen=True)
class KtapSuite:
    """The result of a suite."""

    name: str
    status: KtapStatus
    cases: tuple[KtapCase, ...]
    text: str = field(repr=False, default="")
    """All lines that were printed while it ran."""

    @property
    def failed(self) -> list[KtapCase]:
        """The cases that neither passed nor were skipped."""
        return [case for case in self.cases if case.status not in ("passed", "skipped")]


@dataclass
class _Level:
    """The results of one depth that belong to a result that has not come yet."""

    cases: list[KtapCase] = field(default_factory=list)
    planned: int | None = None


def parse_ktap(lines: Iterable[str]) -> list[KtapSuite]:
    """Return the suites whose results are in a log, in their order.

    Lines outside of a suite are ignored. A suite whose result is missing is `incomplete`; one that
    could not be initialised is `failed`, and has no cases.
    """
    not_begun: dict[str, str] = {}
    levels: dict[int, _Level] = {}
    suites: list[KtapSuite] = []
    name: str | None = None  # of the current suite
    text: list[str] = []
    output: list[tuple[int, str]] = []  # lines that belong to no result yet, with their depth
    for line in lines:
        if (match := _SUBTEST.match(line)) and len(match["indent"]) <= _INDENT:
            if name is not None and levels.get(1):
                suites.append(_incomplete(name, levels, text))
            name, text, output, levels = match["name"], [line], [], {1: _Level()}
            continue
        result = _RESULT.match(line)
        if match := _NOT_BEGUN.match(line):
            not_begun[match["name"]] = line
        elif result is not None and _depth(line) == 0 and _of(result) in not_begun:
            words = f"{not_begun.pop(_of(result))}\n{line}"
            suites.append(KtapSuite(_of(result), "failed", (), words))
            continue
        if name is None:
            continue
        text.append(line)
        if match := _PLAN.match(line):
            levels.setdefault(_depth(line), _Level()).planned = int(match["count"])
        elif result is not None and (_depth(line) or _of(result) == name):
            depth = _depth(line)
            below = levels.pop(depth + 1, _Level())
            case = _case(result, below, [words for at, words in output if at >= depth])
            output = [(at, words) for at, words in output if at < depth]
            if depth == 0:
                suites.append(
                    KtapSuite(name, _status(case, below), tuple(below.cases), "\n".join(text))
                )
                name = None
            else:
                levels.setdefault(depth, _Level()).cases.append(case)
        elif not _NOISE.match(line) and not _SUBTEST.match(line):
            output.append((_depth(line) or 1, line))
    if name is not None:
        suites.append(_incomplete(name, levels, text))
    return suites


def _depth(line: str) -> int:
    return (len(line) - len(line.lstrip(" "))) // _INDENT


def _of(result: re.Match[str]) -> str:
    """Return the name of what a result is of."""
    return result["name"].strip()


def _case(match: re.Match[str], below: _Level, output: list[str]) -> KtapCase:
    status: KtapStatus = "failed" if match["bad"] else "passed"
    if match["directive"] == "SKIP":
        status = "skipped"
    return KtapCase(
        _of(match),
        status,
        (match["reason"] or "").strip(),
        "\n".join(line.strip() for line in output),
        tuple(below.cases),
    )


def _status(result: KtapCase, below: _Level) -> KtapStatus:
    if below.planned is not None and len(below.cases) < below.planned:
        return "incomplete"
    return result.status


def _incomplete(name: str, levels: dict[int, _Level], text: list[str]) -> KtapSuite:
    return KtapSuite(name, "incomplete", tuple(levels.get(1, _Level()).cases), "\n".join(text))
