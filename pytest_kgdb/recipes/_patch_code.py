"""What a patch's own lines have in them: calls that could fail, and exits."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError
from ..kernel import CallSite, CodeAddress, Kernel, call_sites, select_lines
from ..settings import CoverageTarget
from ._coverage import Coverage
from ._statements import line_of_calls, spans

if TYPE_CHECKING:
    from ..cache import Cache
    from ..kernel import SourceFile

__all__ = ["ExitLine", "PatchCode", "exits_in"]

# At the beginning of a line: behind a condition it need not run where the line does.
_EXIT: Final = re.compile(r"(?:case\b[^:]*:|default\s*:|[A-Za-z_]\w*\s*:|\}|\s)*(?:goto|return)\b")
_STATEMENT: Final = re.compile(
    r"(?!(?:if|else|for|while|do|switch|case|default|goto|return|break|continue)\b)"
    r"[A-Za-z_*(+-][^{}:]*;"
)
_HEAD: Final = re.compile(r".*\)|.*\b(?:else|do)")  # of a statement that is not in braces
_COMMENT: Final = re.compile(r"/\*.*?\*/|//.*")


@dataclass(frozen=True)
class ExitLine:
    """A `return` or a `goto`."""

    file: str
    line: int
    text: str
    lines: tuple[int, ...]
    """Its line, and those before that run if and only if it does: gcc merges what exits do."""


@dataclass(frozen=True)
class PatchCode:
    """The calls and the exits in the lines that patches add to a kernel, or change."""

    sites: tuple[CallSite, ...]
    exits: Coverage
    """The lines that leave a function, or go to where it is left: `return`, `goto`."""
    exit_lines: tuple[ExitLine, ...]

    @classmethod
    def of(
        cls, kernel: Kernel, patches: Sequence[Path], modules: Sequence[Path], cache: Cache
    ) -> PatchCode:
        """Return those of patches that are in a kernel.

        :param modules: the external modules.
        :raises ConfigError: no patch is named, the kernel is without it, or none of its lines is
            compiled.
        """
        if not patches:
            raise ConfigError(
                "fail_each.of_patch() has no patch to look at",
                hint="name one: of_patch(…, patch='fix.patch'), or --kgdb-patch",
            )
        files = [
            with_whole_calls(file)
            for file in select_lines(kernel, [CoverageTarget("patch")], patches, modules, cache)
        ]
        names = ", ".join(path.name for path in patches)
        if not any(_has_code(file) for file in files):
            why = next((file.why_not for file in files if file.why_not), "it has no statements")
            raise ConfigError(
                f"no line that {names} changes has code in {kernel.name}: {why}",
                hint="see docs/coverage.md: --kgdb-cov=patch shows the state of each line",
            )
        exits = tuple(
            one for file in files for one in exits_in(file.name, file.text, file.requested)
        )
        images = [("", kernel.vmlinux), *_module_files(kernel, modules)]
        used = {address.module for file in files for address in _addresses(file)}
        sites = call_sites([image for image in images if image[0] in used], files)
        files = [
            replace(
                file,
                requested=frozenset(
                    number for one in exits if one.file == file.name for number in one.lines
                ),
            )
            for file in files
        ]
        coverage = Coverage.of_files(kernel, files, modules=modules, cache=cache)
        return cls(tuple(sites), coverage, exits)


def with_whole_calls(file: SourceFile) -> SourceFile:
    """Return a file in which the line of a call is named, too, if a later line of it is.

    Of an argument on a line of its own, the line table may have no row, and a call's instruction is
    of the line on which the call begins. So is what a `return` of several lines comes to.
    """
    if not file.requested:
        return file
    text = "\n".join(file.text)
    requested = set(file.requested)
    calls = line_of_calls(text)
    for line in file.requested:
        requested.update(calls.get(line, ()))
    for first, lines in spans(text).items():
        if _EXIT.match(file.text[first - 1].strip()) and not file.requested.isdisjoint(lines):
            requested.add(first)
    return replace(file, requested=frozenset(requested))


def _has_code(file: SourceFile) -> bool:
    if file.requested is None:
        return bool(file.code)
    if not file.requested.isdisjoint(file.code):
        return True
    return any(
        not file.requested.isdisjoint(lines) and any(line in file.code for line in lines)
        for lines in spans("\n".join(file.text)).values()
    )


def _addresses(file: SourceFile) -> Iterable[CodeAddress]:
    return (address for addresses in file.code.values() for address in addresses)


def exits_in(
    file: str, text: Sequence[str], requested: Collection[int] | None
) -> Iterator[ExitLine]:
    """Yield the exits in lines of a file.

    :param requested: the lines that are meant; all by default.
    """
    plain = [_COMMENT.sub("", line).strip() for line in text]
    for number, line in enumerate(plain, 1):
        if (requested is None or number in requested) and _EXIT.match(line):
            lines = [number]
            for before in range(number - 1, 0, -1):
                if requested is not None and before not in requested:
                    break
                if not plain[before - 1]:
                    continue
                statement = _STATEMENT.fullmatch(plain[before - 1])
                if not statement or _HEAD.fullmatch(_previous(plain, before)):
                    break
                lines.append(before)
            yield ExitLine(file, number, text[number - 1].strip(), tuple(reversed(lines)))


def _previous(lines: Sequence[str], number: int) -> str:
    return next((one for one in reversed(lines[: number - 1]) if one), "")


def _module_files(kernel: Kernel, modules: Sequence[Path]) -> list[tuple[str, Path]]:
    paths = [*modules, *(kernel.modules_dir.rglob("*.ko") if kernel.modules_dir else ())]
    return [(path.name.partition(".ko")[0].replace("-", "_"), path) for path in paths]
