"""Fail each call in a patch's own lines, and see which of its exits that takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, overload

from ..errors import KgdbError
from ..kernel import CallSite, CodeAddress
from ..trace import Arrivals, CallPlaces, Override
from ._coverage import (
    NOT_COMPILED,
    NOT_REACHED,
    OPTIMISED_AWAY,
    RAN,
    UNOBSERVED,
    FileCoverage,
)
from ._fail_each import NEVER, FailEachRunner, Snapshots
from ._outcomes import FailEach, Outcome
from ._patch_code import ExitLine, PatchCode

__all__ = ["PatchExit", "PatchFailures", "PatchInstruments", "PatchRunner"]

_DIRECT_CALL, _DIRECT_JUMP = 0xE8, 0xE9  # Intel SDM 2, "CALL" and "JMP": rel32
_DIRECT_BYTES: Final = 5
_MASK: Final = (1 << 64) - 1
_NO_FAILURE: Final = "no failure"


@dataclass(frozen=True)
class PatchExit:
    """A `return` or a `goto` in a patch's lines."""

    file: str
    line: int
    text: str
    """The line."""
    state: str
    """A line's state, as coverage has it: `ran` if any run came to it."""
    usual: bool
    """Whether it is taken when no call fails."""
    failures: tuple[str, ...]
    """The failures under which it ran: `kmalloc() call 1`."""

    def __str__(self) -> str:
        if self.usual:
            how = "taken when no call fails"
        else:
            how = f"after {', '.join(self.failures)}" if self.failures else self.state
        return f"{self.file}:{self.line}: {self.text}: {how}"


class PatchFailures(Sequence[FailEach]):
    """What came of failing the calls in a patch's lines: a report for each function called."""

    def __init__(
        self,
        reports: Sequence[FailEach],
        *,
        exits: Sequence[PatchExit],
        unaimed: Sequence[str],
        uncalled: Sequence[str],
    ) -> None:
        self._reports = tuple(reports)
        self.exits = tuple(exits)
        """The exits in the patch's lines, in their order."""
        self.unaimed = tuple(unaimed)
        """The calls that were not made to fail, and why."""
        self.uncalled = tuple(uncalled)
        """The functions that the scenario never called from the patch's lines, with the places."""

    @property
    def bad(self) -> tuple[Outcome, ...]:
        """The outcomes that were not handled, of all functions."""
        return tuple(outcome for report in self._reports for outcome in report.bad)

    @property
    def ok(self) -> bool:
        """Whether all failures were handled."""
        return not self.bad

    @property
    def complete(self) -> bool:
        """Whether every call that the scenario makes from the patch's lines was tried."""
        return not self.unaimed and all(report.complete for report in self._reports)

    @property
    def error_exits(self) -> tuple[PatchExit, ...]:
        """The exits that are not taken when no call fails."""
        return tuple(one for one in self.exits if not one.usual)

    @property
    def missed(self) -> tuple[PatchExit, ...]:
        """The exits that no run came to, though there is code of them."""
        return tuple(one for one in self.exits if one.state == NOT_REACHED)

    @overload
    def __getitem__(self, index: int) -> FailEach: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[FailEach]: ...

    def __getitem__(self, index: int | slice) -> FailEach | Sequence[FailEach]:
        return self._reports[index]

    def __len__(self) -> int:
        return len(self._reports)

    def __iter__(self) -> Iterator[FailEach]:
        return iter(self._reports)

    def __str__(self) -> str:
        lines = [str(report) for report in self._reports]
        ran = sum(one.state == RAN for one in self.error_exits)
        lines.append(f"error exits of the patch: {ran} of {len(self.error_exits)} ran")
        lines += [f"    {one}" for one in self.error_exits]
        if self.uncalled:
            lines.append("never called by the scenario:")
            lines += [f"    {one}" for one in self.uncalled]
        if self.unaimed:
            lines.append("not made to fail:")
            lines += [f"    {one}" for one in self.unaimed]
        return "\n".join(lines)

    def __repr__(self) -> str:
        names = ", ".join(report.function for report in self._reports)
        return f"<PatchFailures of {names or 'nothing'}: {len(self.bad)} not handled>"


class PatchInstruments(Protocol):
    """The part of the instruments that is used here."""

    def likely_failure(
        self, function: str, *, checked: bool, entries: Collection[int]
    ) -> int | None:
        """Return what a function returns that fails, None if nothing; raises KgdbError."""

    def arrivals(self, addresses: Collection[int]) -> Arrivals:
        """Note which of some instructions a CPU comes to."""


MakeOverride = Callable[[str, object, CallPlaces, int, int | None], Override]
"""Makes an override of a function: what it returns, the places, how many are let through and
fail."""


@dataclass(frozen=True)
class _Target:
    """A function that is called from a patch's lines, and how it fails."""

    function: str
    returns: object
    places: CallPlaces
    shown: str


class PatchRunner:
    """Aims :class:`FailEachRunner` at the calls in a patch's lines.

    :param address: where code is in the kernel; None if it is not there now.
    :param read: reads the kernel's memory.
    """

    def __init__(
        self,
        runner: FailEachRunner,
        snapshots: Snapshots,
        instruments: PatchInstruments,
        *,
        address: Callable[[CodeAddress], int | None],
        read: Callable[[int, int], bytes],
    ) -> None:
        self._runner = runner
        self._snapshots = snapshots
        self._instruments = instruments
        self._address = address
        self._read = read

    def run(
        self,
        code: PatchCode,
        scenario: Callable[[], object],
        override: MakeOverride,
        *,
        returns: Mapping[str, object],
        skip: Collection[str],
        limit: int,
        again: bool,
    ) -> PatchFailures:
        """Fail each call once; see `Kgdb.fail_each.of_patch`.

        :raises KgdbError: there is nothing that could fail, or the scenario does not pass.
        """
        names = {site.callee for site in code.sites}
        for name in (*returns, *skip):
            if name not in names:
                raise KgdbError(
                    f"the patch's lines do not call {name}",
                    hint=f"they call {', '.join(sorted(names - {''})) or 'nothing'}",
                )
        unaimed: list[str] = []
        targets = self._targets(code.sites, override, returns, skip, unaimed)
        if not targets:
            reasons = "\n".join(f"  {one}" for one in unaimed) or "  they make none"
            raise KgdbError(f"no call in the patch's lines can be made to fail:\n{reasons}")
        places = self._exit_addresses(code)
        reports: list[FailEach] = []
        uncalled: list[str] = []
        with self._instruments.arrivals([*places]) as arrivals:
            watch = _Exits(code, places, arrivals)
            called = self._called(targets, scenario, override, watch)
            for target in targets:
                if target.function not in called:
                    uncalled.append(target.shown)
                    continue
                if reports and reports[-1].ended:
                    unaimed.append(f"{target.shown}: the machine had ended")
                    continue

                def fail(skipped: int, times: int | None, target: _Target = target) -> Override:
                    one = override(target.function, target.returns, target.places, skipped, times)
                    watch.begin(f"{target.function}() call {skipped + 1}", one)
                    return one

                reports.append(
                    self._runner.run(target.function, scenario, fail, limit=limit, again=again)
                )
            watch.end()
        if not reports:
            raise KgdbError(
                "the scenario makes none of the calls in the patch's lines: " + "; ".join(uncalled)
            )
        return PatchFailures(reports, exits=watch.exits(), unaimed=unaimed, uncalled=uncalled)

    # What is aimed at

    def _targets(
        self,
        sites: Sequence[CallSite],
        override: MakeOverride,
        returns: Mapping[str, object],
        skip: Collection[str],
        unaimed: list[str],
    ) -> list[_Target]:
        by_function: dict[str, list[CallSite]] = {}
        for site in sites:
            if not site.callee:
                unaimed.append(f"{site.place}: what is called is said by a pointer")
            elif site.callee not in skip:
                by_function.setdefault(site.callee, []).append(site)
        targets = []
        for function, its in by_function.items():
            shown = f"{function}(), at {', '.join(dict.fromkeys(site.place for site in its))}"
            try:
                places = self._places(its)
                value = returns.get(function)
                if value is None:
                    checked = any(site.checks_error for site in its)
                    value = self._instruments.likely_failure(
                        function, checked=checked, entries=places.entries
                    )
                if value is None:
                    continue  # it returns nothing
                # Whether it can be made: otherwise that is known before anything has run.
                override(function, value, places, NEVER, None).delete()
            except KgdbError as error:
                unaimed.append(f"{shown}: {error.message}")
                continue
            targets.append(_Target(function, value, places, shown))
        return targets

    def _places(self, sites: Sequence[CallSite]) -> CallPlaces:
        calls: dict[int, int] = {}
        jumps: dict[int, int] = {}
        for site in sites:
            after = self._address(site.after)
            if after is None:
                what = site.after.module
                raise KgdbError(
                    f"its code in {site.caller} is not in the kernel now"
                    + (f": load the module {what} before of_patch()" if what else "")
                )
            opcode, *operand = self._read(after - _DIRECT_BYTES, _DIRECT_BYTES)
            target = (after + int.from_bytes(bytes(operand), "little", signed=True)) & _MASK
            if opcode == _DIRECT_JUMP and site.is_jump:
                jumps[after - _DIRECT_BYTES] = target
            elif opcode == _DIRECT_CALL and not site.is_jump:
                calls[after] = target
            else:
                raise KgdbError(f"{site.caller} has no direct call in front of {after:#x}")
        return CallPlaces(calls, jumps)

    def _exit_addresses(self, code: PatchCode) -> dict[int, CodeAddress]:
        places = [CodeAddress("", "", offset) for offset in code.exits.kernel_code(booted=True)]
        for module in code.exits.modules:
            places += code.exits.module_code(module)
        return {address: place for place in places if (address := self._address(place)) is not None}

    def _called(
        self,
        targets: Sequence[_Target],
        scenario: Callable[[], object],
        override: MakeOverride,
        watch: _Exits,
    ) -> set[str]:
        """Return which functions the scenario calls; it runs once, without a failure."""
        name = f"of_patch-{len(self._snapshots.names)}"
        self._snapshots.take(name)
        try:
            with contextlib.ExitStack() as stack:
                counted = [
                    stack.enter_context(
                        override(target.function, target.returns, target.places, NEVER, None)
                    )
                    for target in targets
                ]
                watch.begin(_NO_FAILURE, None)
                scenario()
                watch.end()
                return {one.function for one in counted if one.calls}
        finally:
            self._snapshots.restore(name)


class _Exits:
    """Takes note of which exits each run comes to."""

    def __init__(
        self, code: PatchCode, places: Mapping[int, CodeAddress], arrivals: Arrivals
    ) -> None:
        self._code = code
        self._places = places
        self._arrivals = arrivals
        self._run = ""

    def begin(self, run: str, failing: Override | None) -> None:
        """Begin a run.

        :param failing: the override that has a call fail in it.
        """
        self.end()
        self._run = run
        self._arrivals.begin(failing)

    def end(self) -> None:
        """Record what the run before came to."""
        if self._run:
            places = [self._places[address] for address in self._arrivals.reached]
            self._code.exits.record(self._run, places)
        self._run = ""

    def exits(self) -> list[PatchExit]:
        """Return all exits, and what was recorded of them."""
        files = self._code.exits.result().files
        return [_exit(one, files[one.file]) for one in self._code.exit_lines]


def _exit(exit_line: ExitLine, file: FileCoverage) -> PatchExit:
    lines = [line for number in exit_line.lines if (line := file.lines.get(number)) is not None]
    states = {line.state for line in lines}
    state = next((one for one in (RAN, NOT_REACHED, UNOBSERVED) if one in states), OPTIMISED_AWAY)
    if NOT_COMPILED in states and state == OPTIMISED_AWAY:
        state = NOT_COMPILED
    tests = list(dict.fromkeys(test for line in lines for test in line.tests))
    return PatchExit(
        exit_line.file,
        exit_line.line,
        exit_line.text,
        state,
        _NO_FAILURE in tests,
        tuple(test for test in tests if test != _NO_FAILURE),
    )
