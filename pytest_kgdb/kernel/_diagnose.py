"""The first error in the log of a failed build, and how to fix it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ..host import install

_COMPILER: Final = re.compile(r"^(?P<file>[^\s:][^:]*):\d+:(?:\d+:)? (?:(?:fatal )?error|Error): ")
_LEAD: Final = re.compile(r"^(In file included from |\s+from )|^[^\s:][^:]*: (In|At) .*:$")
_KBUILD: Final = re.compile(r"^(  [A-Z]{2,}[\w ]*(\[M\])?\s|make(\[\d+\])?: |scripts/)")
_MAKE: Final = re.compile(r"^make(?:\[\d+\])?: \*\*\* ")
_OTHERS: Final = (
    # scripts/kconfig: a file that is missing or has a syntax error (zconf_error, menu_warn).
    re.compile(r"^[^\s:]*Kconfig[^\s:]*:\d+:(?! *warning)"),
    re.compile(r"^ERROR: modpost: "),
    re.compile(r"^(?:\S*/)?ld(?:\.\w+)?: (?!warning)|: undefined reference to "),
    re.compile(r"^(?:\S*:)?\d*:?\s*error: |^[^\s:]+: error: |^error: "),
    re.compile(
        r"No space left on device|: (?:not found|command not found)$|internal compiler error"
    ),
    re.compile(r"^\*\*\* (?!$)"),
    _MAKE,
)
_WARNING: Final = re.compile(r"^[^\s:][^:]*:\d+:(?:\d+:)? warning: |^WARNING: modpost: ")
_MAX_WARNINGS: Final = 20
_MAX_LINES: Final = 12
_MAX_SAID: Final = 4  # lines of a program that none of the patterns knows
_MAX_WIDTH: Final = 300


class _Package(NamedTuple):
    name: str = ""  # by default what the pattern's group has


# The messages of a build that lacks a package, disk space or memory, and the fix.
_FIXES: Final = (
    (re.compile(r"(?:gelf|libelf|elf)\.h: No such file"), _Package("libelf-dev")),
    (re.compile(r"openssl/\w+\.h: No such file"), _Package("libssl-dev")),
    (
        re.compile(r"\b(flex|bison|bc|perl|cpio|rsync|lz4|zstd|gzip): (?:command )?not found"),
        _Package(),
    ),
    (re.compile(r"pahole.*(?:not found|not available)"), _Package("pahole")),
    (re.compile(r"No space left on device"), "make room: pytest-kgdb cache prune"),
    (
        re.compile(r"No rule to make target 'debian/certs/"),
        "--kgdb-set=CONFIG_SYSTEM_TRUSTED_KEYS=",
    ),
    (re.compile(r"Killed signal terminated program|Killed$"), "out of memory: fewer --kgdb-jobs"),
)


def first_error(log: str) -> str:
    """Return the first error in a build's log, with the lines that belong to it."""
    lines = log.splitlines()
    for number, line in enumerate(lines):
        if _COMPILER.match(line):
            return _shown(lines, _begin(lines, number), _end(lines, number))
    for pattern in _OTHERS:
        for number, line in enumerate(lines):
            if pattern.search(line):
                last = number + 1
                while last < len(lines) and pattern.search(lines[last]):
                    last += 1
                begin = _said_before(lines, number) if pattern is _MAKE else number
                return _shown(lines, begin, last)
    return _shown(lines, max(0, len(lines) - 6), len(lines))


def warnings(log: str) -> str:
    """Return the warnings in the log of a build that succeeded, one a line."""
    shown = [line[:_MAX_WIDTH] for line in log.splitlines() if _WARNING.match(line)]
    if len(shown) > _MAX_WARNINGS:
        shown[_MAX_WARNINGS:] = [f"and {len(shown) - _MAX_WARNINGS} more"]
    return "\n".join(shown)


def fix(log: str) -> str | None:
    """Return how to fix the error in a build's log; None if it is not known."""
    for pattern, text in _FIXES:
        if match := pattern.search(log):
            if isinstance(text, _Package):
                return install(text.name or match[1])
            return text
    return None


def _begin(lines: list[str], number: int) -> int:
    """Return the first line of an error, which may be "In file included from" or "In function"."""
    while number > 0 and _LEAD.match(lines[number - 1]):
        number -= 1
    return number


def _end(lines: list[str], number: int) -> int:
    """Return the line after an error and its notes: that of the next job, or the next error."""
    last = number + 1
    while last < len(lines) and not _KBUILD.match(lines[last]) and not _COMPILER.match(lines[last]):
        if _LEAD.match(lines[last]):
            break
        last += 1
    return last


def _said_before(lines: list[str], number: int) -> int:
    """Return the first line of what a program has said before make gave up: why."""
    begin = number
    while begin > max(0, number - _MAX_SAID) and not _KBUILD.match(lines[begin - 1]):
        begin -= 1
    return begin


def _shown(lines: list[str], begin: int, end: int) -> str:
    kept = lines[begin : min(end, begin + _MAX_LINES)]
    return "\n".join(line[:_MAX_WIDTH] for line in kept)
