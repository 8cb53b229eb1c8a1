"""Which lines of the kernel ran, and under which tests."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..elf import ElfFile
from ..kernel import CodeAddress, FixedCode, Kernel, SourceFile, select_lines
from ._statements import left_out, spans, statements

if TYPE_CHECKING:
    from ..cache import Cache
    from ..settings import CoverageTarget

__all__ = [
    "NOT_COMPILED", "NOT_REACHED", "OPTIMISED_AWAY", "RAN", "UNOBSERVED",
    "Coverage", "FileCoverage", "KernelCoverage", "LineCoverage",
]  # fmt: skip

RAN: Final = "ran"
"""A CPU came to the line."""
NOT_REACHED: Final = "not reached"
"""None did."""
UNOBSERVED: Final = "cannot be observed"
"""Its instructions are such that no int3 may be there."""
OPTIMISED_AWAY: Final = "optimised away"
"""It holds a statement, and no instruction is the line's."""
NOT_COMPILED: Final = "not compiled"
"""The kernel's configuration leaves it out."""

_STATES: Final = (RAN, NOT_REACHED, UNOBSERVED, OPTIMISED_AWAY, NOT_COMPILED)


@dataclass
class LineCoverage:
    """One line."""

    state: str
    tests: list[str] = field(default_factory=list)
    """Under which it ran, in the order in which they did."""
    why: str = ""
    """Why it is not compiled."""

    def merge(self, other: LineCoverage) -> None:
        """Take up what another process recorded."""
        if _STATES.index(other.state) < _STATES.index(self.state):
            self.state, self.why = other.state, other.why
        self.tests += [test for test in other.tests if test not in self.tests]


@dataclass
class FileCoverage:
    """The lines of one file that were named."""

    name: str
    """In the source tree."""
    path: str
    """Where it can be read; "" if it cannot."""
    lines: dict[int, LineCoverage]
    why_not: str = ""
    """Why the file has no code in this kernel."""
    whole: bool = False
    """Whether all its lines were named."""
    diff: list[tuple[str, int, str]] = field(default_factory=list)
    """What patches changed in it: ` `, `+`, `-` or `@`, the line, its text."""

    def count(self, *states: str) -> int:
        """Return how many lines are in one of these states."""
        return sum(line.state in states for line in self.lines.values())

    def in_state(self, state: str) -> list[int]:
        """Return the lines in a state."""
        return sorted(number for number, line in self.lines.items() if line.state == state)


@dataclass
class KernelCoverage:
    """The lines of one kernel that were named."""

    kernel: str
    files: dict[str, FileCoverage]

    @property
    def ran(self) -> int:
        """How many lines ran."""
        return sum(file.count(RAN) for file in self.files.values())

    @property
    def observed(self) -> int:
        """How many lines could have been seen to run."""
        return sum(file.count(RAN, NOT_REACHED) for file in self.files.values())

    @property
    def percent(self) -> float | None:
        """How many of those ran; None if there are none."""
        return 100.0 * self.ran / self.observed if self.observed else None

    def merge(self, other: KernelCoverage) -> None:
        """Take up what another process recorded of the same kernel."""
        for name, file in other.files.items():
            own = self.files.setdefault(name, file)
            if own is file:
                continue
            for number, line in file.lines.items():
                if number in own.lines:
                    own.lines[number].merge(line)
                else:
                    own.lines[number] = line

    def dump(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "kernel": self.kernel,
            "ran": self.ran,
            "lines": self.observed,
            "percent": None if self.percent is None else round(self.percent, 2),
            "files": {
                name: {
                    "path": file.path,
                    "why_not": file.why_not,
                    "whole": file.whole,
                    "lines": {
                        str(number): {
                            key: value
                            for key, value in (
                                ("state", line.state),
                                ("tests", line.tests),
                                ("why", line.why),
                            )
                            if value
                        }
                        for number, line in sorted(file.lines.items())
                    },
                    "diff": file.diff,
                }
                for name, file in sorted(self.files.items())
            },
        }

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> KernelCoverage:
        """Return what :meth:`dump` was called on."""
        return cls(
            values["kernel"],
            {
                name: FileCoverage(
                    name,
                    file["path"],
                    {
                        int(number): LineCoverage(
                            line["state"], list(line.get("tests", ())), line.get("why", "")
                        )
                        for number, line in file["lines"].items()
                    },
                    file["why_not"],
                    file["whole"],
                    [(str(sign), int(at), str(text)) for sign, at, text in file["diff"]],
                )
                for name, file in values["files"].items()
            },
        )


class Coverage:
    """The lines of one kernel that are named, where their code is, and which of it ran.

    :param remember: keeps texts from session to session, for this kernel.
    """

    def __init__(
        self,
        kernel: Kernel,
        files: Sequence[SourceFile],
        modules: Iterable[Path],
        remember: Callable[[str, Callable[[], str]], str],
    ) -> None:
        self._kernel = kernel
        self._files = files
        self._modules = {_module_name(path): path for path in modules}
        self._remember = remember
        self._ran: dict[tuple[str, int], dict[str, None]] = {}

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        targets: Sequence[CoverageTarget],
        *,
        patches: Sequence[Path],
        modules: Sequence[Path],
        cache: Cache,
    ) -> Coverage:
        """Return the coverage of what a user has named.

        :raises ConfigError: something that is named is not there.
        """
        files = [
            _with_whole_statements(file)
            for file in select_lines(kernel, targets, patches, modules, cache)
        ]
        return cls.of_files(kernel, files, modules=modules, cache=cache)

    @classmethod
    def of_files(
        cls, kernel: Kernel, files: Sequence[SourceFile], *, modules: Sequence[Path], cache: Cache
    ) -> Coverage:
        """Return the coverage of files of which lines are named."""
        paths = list(modules)
        if kernel.modules_dir is not None:
            paths += kernel.modules_dir.rglob("*.ko")

        def remember(key: str, compute: Callable[[], str]) -> str:
            return cache.memo("fixed-code", f"1 {kernel.key}\n{key}", compute)

        return cls(kernel, files, paths, remember)

    # Where

    @cached_property
    def _places(self) -> dict[CodeAddress, CodeAddress | None]:
        """Where an int3 may be, by the address that it stands for; None if nowhere."""
        addresses = {
            address
            for file in self._files
            for number, places in file.code.items()
            if file.requested is None or number in file.requested
            for address in places
        }
        places: dict[CodeAddress, CodeAddress | None] = {}
        for module in sorted({address.module for address in addresses}):
            own = sorted(address for address in addresses if address.module == module)
            if module:
                with ElfFile(self._modules[module]) as elf:
                    fixed = FixedCode(elf, module=True)
                placed = [fixed.place(section, offset) for _, section, offset in own]
            else:
                key = f"{[address.offset for address in own]}"
                placed = json.loads(self._remember(key, functools.partial(self._place, own)))
                self._init = {address for address, _, init, _ in placed if init}
                self._early = {address for address, _, _, early in placed if early}
                placed = [place for _, place, _, _ in placed]
            for address, place in zip(own, placed, strict=True):
                places[address] = None if place is None else address._replace(offset=place)
        return places

    _init: set[int]
    _early: set[int]

    def _place(self, addresses: Iterable[CodeAddress]) -> str:
        with ElfFile(self._kernel.vmlinux) as elf:
            fixed = FixedCode(elf)
        return json.dumps(
            [
                (
                    offset,
                    fixed.place(section, offset),
                    fixed.is_init(offset),
                    fixed.rewritten_at_boot(offset),
                )
                for _, section, offset in addresses
            ]
        )

    @cached_property
    def _lines(self) -> dict[CodeAddress, list[tuple[str, int]]]:
        """The lines that ran if a CPU comes to a place."""
        lines: dict[CodeAddress, list[tuple[str, int]]] = {}
        for file in self._files:
            for number, addresses in file.code.items():
                if file.requested is not None and number not in file.requested:
                    continue
                for address in addresses:
                    if (place := self._places[address]) is not None:
                        lines.setdefault(place, []).append((file.name, number))
        return lines

    def kernel_code(self, *, booted: bool) -> list[int]:
        """Return where int3s are to be in the kernel's image, as linked.

        :param booted: whether its init code is freed, and what it rewrites as it boots is done.
        """
        return [
            place.offset
            for address, place in self._places.items()
            if not address.module
            and place is not None
            and address.offset not in (self._init if booted else self._early)
        ]

    @cached_property
    def modules(self) -> frozenset[str]:
        """The modules that have code of the lines."""
        return frozenset(place.module for place in self._lines if place.module)

    def module_code(self, module: str) -> list[CodeAddress]:
        """Return where int3s are to be in a module."""
        return [place for place in self._lines if place.module == module]

    # What ran

    def record(self, test: str, places: Iterable[CodeAddress]) -> None:
        """Take note that CPUs came to places while a test ran."""
        for place in places:
            for line in self._lines.get(place, ()):
                self._ran.setdefault(line, {})[test] = None

    def result(self) -> KernelCoverage:
        """Return what ran so far."""
        return KernelCoverage(
            self._kernel.name or self._kernel.spec,
            {file.name: self._result_of(file) for file in self._files},
        )

    def _result_of(self, file: SourceFile) -> FileCoverage:
        text = "\n".join(file.text)
        out = left_out(file.text, self._kernel.config)
        hold_statements = statements(text)
        numbers = hold_statements | set(file.code) if file.requested is None else file.requested
        lines: dict[int, LineCoverage] = {}
        for number in sorted(numbers):
            addresses = file.code.get(number, ())
            if addresses:
                tests = self._ran.get((file.name, number))
                if tests is not None:
                    lines[number] = LineCoverage(RAN, list(tests))
                elif all(self._places[address] is None for address in addresses):
                    lines[number] = LineCoverage(UNOBSERVED)
                else:
                    lines[number] = LineCoverage(NOT_REACHED)
            elif number in hold_statements:
                if not file.code or number in out:
                    why = out.get(number) or file.why_not
                    lines[number] = LineCoverage(NOT_COMPILED, why=why)
                else:
                    lines[number] = LineCoverage(OPTIMISED_AWAY)
        return FileCoverage(
            file.name,
            "" if file.path is None else str(file.path),
            lines,
            file.why_not,
            file.requested is None,
            [] if file.change is None else list(file.change.diff),
        )


def _with_whole_statements(file: SourceFile) -> SourceFile:
    """Return a file in which a named line that has no code stands for its statement.

    Of an argument on a line of its own, there may be no row in the line table. If other lines of
    the statement are named that have code, these say whether it ran.
    """
    if not file.requested or not file.code:
        return file
    code = dict(file.code)
    for lines in spans("\n".join(file.text)).values():
        named = [line for line in lines if line in file.requested]
        compiled = [line for line in lines if line in file.code]
        if named and compiled and not set(named) & set(compiled):
            code[named[0]] = file.code[compiled[0]]
    return replace(file, code=code)


def _module_name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")
