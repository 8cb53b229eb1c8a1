"""KUnit suites: run in the guest, their results told from KTAP in the kernel's log."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ..errors import KgdbError

if TYPE_CHECKING:
    from ._handle import Kgdb

__all__ = ["KunitCase", "KunitSuite", "parse_ktap", "run_suite"]

Status = Literal["passed", "failed", "skipped", "incomplete"]

# Documentation/dev-tools/ktap.rst; 6.1 and older write a hyphen before the name.
_RESULT: Final = re.compile(
    r"^(?P<indent> *)(?P<bad>not )?ok (?P<number>\d+)(?: -)? ?(?P<name>[^#]*?)"
    r"(?:\s*# (?P<directive>SKIP|TODO|XFAIL|TIMEOUT|ERROR)\b:?\s*(?P<reason>.*))?$"
)
_PLAN: Final = re.compile(r"^(?P<indent> *)1\.\.(?P<count>\d+)$")
_SUBTEST: Final = re.compile(r"^(?P<indent> *)# Subtest: (?P<name>.+)$")
_NOISE: Final = re.compile(
    r"^ *(?:K?TAP version \d+|# module: .*|# [\w-]+: pass:\d+ fail:\d+ .*|# Totals: .*)$"
    r"|^sysrq: DEBUG$"  # of an interrupt()
)
_STEP: Final = 4  # blanks for each level
_DEBUGFS: Final = "/sys/kernel/debug/kunit"
# include/kunit/test.h: the section of a module with suites, whose records begin with their names.
_SECTION: Final = b".kunit_test_suites"
_NAME_BYTES: Final = 256


@dataclass(frozen=True)
class KunitCase:
    """One case of a suite, or one parameter of a case."""

    name: str
    status: Status
    reason: str = ""
    """Why it was skipped."""
    output: str = ""
    """What was printed while it ran."""
    cases: tuple[KunitCase, ...] = ()
    """Of a case with parameters, each of them."""

    def check(self) -> None:
        """Fail or skip a pytest test as the case did.

        :raises AssertionError: the case failed.
        """
        if self.status == "skipped":
            import pytest

            skipped = pytest.skip.Exception(self.reason or "skipped by KUnit")
            setattr(skipped, "kgdb_ran", True)  # noqa: B010  --kgdb-require lets it pass
            raise skipped
        if self.status != "passed":
            raise AssertionError(f"{self.name} {self.status}\n{self.output}".rstrip())


@dataclass(frozen=True)
class KunitSuite:
    """What a suite came to."""

    name: str
    status: Status
    cases: tuple[KunitCase, ...]
    text: str = field(repr=False, default="")
    """All that was printed while it ran."""

    @property
    def failed(self) -> list[KunitCase]:
        """The cases that neither passed nor were skipped."""
        return [case for case in self.cases if case.status not in ("passed", "skipped")]

    def report(self, subtests: Any) -> None:
        """Show each case as a subtest of the present test.

        :param subtests: pytest's fixture (pytest 9; before that, the plugin pytest-subtests).
        :raises AssertionError: the suite did not come to its end.
        """
        for case in self.cases:
            with subtests.test(msg=f"{self.name}.{case.name}"):
                case.check()
        if self.status == "incomplete":
            raise AssertionError(f"the suite {self.name} did not come to its end\n{self.text}")


@dataclass
class _Level:
    cases: list[KunitCase] = field(default_factory=list)
    planned: int | None = None


def parse_ktap(lines: Iterable[str]) -> list[KunitSuite]:
    """Return the suites whose results are in a log's lines; text between them is left out."""
    levels: dict[int, _Level] = {}
    suites: list[KunitSuite] = []
    name: str | None = None  # of the suite under way
    text: list[str] = []
    said: list[tuple[int, str]] = []
    for line in lines:
        if (found := _SUBTEST.match(line)) and len(found["indent"]) <= _STEP:
            if name is not None and levels.get(1):
                suites.append(_broken(name, levels, text))
            name, text, said, levels = found["name"], [line], [], {1: _Level()}
            continue
        if name is None:
            continue
        text.append(line)
        if found := _PLAN.match(line):
            levels.setdefault(len(found["indent"]) // _STEP, _Level()).planned = int(found["count"])
        elif found := _RESULT.match(line):
            depth = len(found["indent"]) // _STEP
            below = levels.pop(depth + 1, _Level())
            case = _case(found, below, [each for at, each in said if at >= depth])
            said = [(at, each) for at, each in said if at < depth]
            if depth == 0:
                suites.append(
                    KunitSuite(name, _status(case, below), tuple(below.cases), "\n".join(text))
                )
                name = None
            else:
                levels.setdefault(depth, _Level()).cases.append(case)
        elif not _NOISE.match(line) and not _SUBTEST.match(line):
            said.append(((len(line) - len(line.lstrip(" "))) // _STEP or 1, line))
    if name is not None:
        suites.append(_broken(name, levels, text))
    return suites


def _case(found: re.Match[str], below: _Level, said: list[str]) -> KunitCase:
    status: Status = "failed" if found["bad"] else "passed"
    if found["directive"] == "SKIP":
        status = "skipped"
    return KunitCase(
        found["name"].strip(),
        status,
        (found["reason"] or "").strip(),
        "\n".join(line.strip() for line in said),
        tuple(below.cases),
    )


def _status(result: KunitCase, below: _Level) -> Status:
    if below.planned is not None and len(below.cases) < below.planned:
        return "incomplete"
    return result.status


def _broken(name: str, levels: dict[int, _Level], text: list[str]) -> KunitSuite:
    return KunitSuite(name, "incomplete", tuple(levels.get(1, _Level()).cases), "\n".join(text))


def run_suite(kgdb: Kgdb, suite: str, module: str | None, timeout: float | None) -> KunitSuite:
    """See :meth:`Kgdb.kunit`."""
    place = f"{_DEBUGFS}/{suite}"
    lines: Sequence[str]
    # `run` came with 6.8.
    if module is None and kgdb.run(f"[ -w {shlex.quote(place)}/run ]").status == 0:
        done = kgdb.run(
            f"echo 1 > {shlex.quote(place)}/run && cat {shlex.quote(place)}/results",
            timeout=timeout,
        )
        lines = done.output.splitlines()
    else:
        module = module or _module_of(kgdb, suite)
        lines = _load(kgdb, module, timeout) if module else _of_the_boot(kgdb, place)
    found = [each for each in parse_ktap(lines) if each.name == suite]
    if found:
        return found[-1]
    others = ", ".join(each.name for each in parse_ktap(lines)) or "none"
    raise KgdbError(
        f"no KUnit suite {suite!r} reported in the kernel's log (suites that did: {others})"
        if module is None
        else f"the module {module} did not run a KUnit suite {suite!r} (it ran: {others})",
        log=kgdb.console.log,
        hint="a suite is in a module (name it with module=), or is built in and ran at boot; "
        "KUnit needs CONFIG_KUNIT, and kunit.enable=1 where CONFIG_KUNIT_DEFAULT_ENABLED=n",
    )


def _of_the_boot(kgdb: Kgdb, place: str) -> Sequence[str]:
    """Return what a suite that is built in came to at the boot: it runs there, and only there."""
    # Where debugfs has it, it is there even when the log has gone on.
    told = kgdb.run(f"cat {shlex.quote(place)}/results 2>/dev/null")
    if told.status == 0:
        return told.output.splitlines()
    times = re.compile(r"^\[ *\d+\.\d+\] ")
    return [times.sub("", line) for line in kgdb.dmesg().splitlines()]


def _load(kgdb: Kgdb, module: str, timeout: float | None) -> list[str]:
    name = module.rpartition("/")[2].partition(".ko")[0].replace("-", "_")
    kgdb.run(f"[ ! -e /sys/module/{name} ] || rmmod {name}", timeout=timeout)
    place = kgdb.watch.place()
    load = "insmod" if module.startswith("/") else "modprobe"
    prepare = "modprobe kunit 2>/dev/null; " if load == "insmod" else ""
    done = kgdb.run(f"{prepare}{load} {shlex.quote(module)}", timeout=timeout)
    if done.status != 0:
        raise KgdbError(
            f"the module {module} could not be loaded: {done.output.strip()}", log=kgdb.console.log
        )
    return [line.text for line in kgdb.watch.lines(place)]


def _module_of(kgdb: Kgdb, suite: str) -> str | None:
    """Return the module of the kernel that has a suite, if one has."""
    directory = kgdb.kernel.modules_dir
    wanted = suite.encode().ljust(_NAME_BYTES, b"\0")
    for path in _modules(directory):
        contents = path.read_bytes()
        if _SECTION in contents and wanted in contents:
            return path.name.partition(".ko")[0]
    return None


def _modules(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        yield from sorted(directory.rglob("*.ko"))
