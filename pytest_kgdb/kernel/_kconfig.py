"""Why a symbol was dropped, by the Kconfig files of the source tree."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ._config import Lost

_ENTRY: Final = re.compile(r"\s*(?:menu)?config\s+(\w+)\s*(?:#.*)?")
_BLOCK: Final = re.compile(
    r"\s*(config|menuconfig|choice|endchoice|menu|endmenu|comment|source|mainmenu|if|endif)\b\s*(.*)"
)
_PROMPT: Final = re.compile(
    r"\s*(?:(?:bool|tristate|string|int|hex|prompt|def_bool|def_tristate)\b.*?)(\".*?\"|'.*?')"
)
_DEPENDS: Final = re.compile(r"\s*depends\s+on\s+(.*)")
_SYMBOLS: Final = re.compile(r"(?<![!\w])[A-Z0-9_]*[A-Z_][A-Z0-9_]*\b")  # not under a "!"
_SKIPPED: Final = frozenset({"Documentation", ".git", "LICENSES"})


@dataclass(frozen=True)
class Definition:
    """One `config` entry."""

    name: str
    where: str
    """Its file and line."""
    depends: tuple[str, ...] = ()
    """Its `depends on` expressions, and those of the enclosing blocks."""
    prompt: bool = False
    """Whether a user can set it."""


def explain(lost: Iterable[Lost], tree: Path, arch: str, config: Mapping[str, str]) -> list[Lost]:
    """Return the lost requests with the reasons that the tree's Kconfig files give.

    :param arch: the directory below `arch/`.
    :param config: the finished configuration.
    """
    lost = list(lost)
    names = {item.request.name for item in lost}
    entries: dict[str, list[Definition]] = {name: [] for name in names}
    for path in _files(tree, arch):
        text = path.read_text(errors="replace")
        if any(name in text for name in names):
            for definition in definitions(text, str(path.relative_to(tree))):
                if definition.name in names:
                    entries[definition.name].append(definition)
    return [
        replace(item, reason=_reason(item, entries[item.request.name], config)) for item in lost
    ]


def definitions(text: str, name: str) -> Iterator[Definition]:
    """Yield all `config` entries of a Kconfig file.

    Blocks in another file that enclose the `source` line of this one are not seen: there may be
    further dependencies.

    :param name: the file's name, for `where`.
    """
    blocks: list[tuple[str, list[str]]] = []
    entry: Definition | None = None
    in_help = -1
    for number, line in enumerate(_joined(text), 1):
        stripped = line.expandtabs()
        indent = len(stripped) - len(stripped.lstrip())
        if in_help >= 0:
            if not stripped.strip() or indent >= max(in_help, 1):
                continue
            in_help = -1
        if re.fullmatch(r"\s*(---)?help(---)?\s*", line):
            in_help = indent + 1 if indent else 1
            continue
        if match := _BLOCK.match(line):
            if entry is not None:
                yield entry
                entry = None
            _enter(blocks, match[1], match[2])
            if name_match := _ENTRY.fullmatch(line):
                around = tuple(text for _, texts in blocks for text in texts)
                entry = Definition(name_match[1], f"{name}:{number}", depends=around)
        elif match := _DEPENDS.match(line):
            expression = " ".join(match[1].split("#")[0].split())
            if entry is not None:
                entry = replace(entry, depends=(*entry.depends, expression))
            elif blocks:
                blocks[-1][1].append(expression)
        elif entry is not None and _PROMPT.match(line):
            entry = replace(entry, prompt=True)
    if entry is not None:
        yield entry


def _enter(blocks: list[tuple[str, list[str]]], word: str, rest: str) -> None:
    if word in ("if", "menu", "choice"):
        blocks.append((word, [rest.split("#")[0].strip()] if word == "if" else []))
    elif word.startswith("end") and blocks:
        blocks.pop()


def _joined(text: str) -> Iterator[str]:
    """Yield the lines; continued ones are joined, and followed by empty ones to keep the count."""
    pending, count = "", 0
    for line in text.splitlines():
        if line.endswith("\\"):
            pending += line[:-1] + " "
            count += 1
            continue
        yield pending + line
        yield from [""] * count
        pending, count = "", 0
    if pending:
        yield pending


def _reason(item: Lost, entries: list[Definition], config: Mapping[str, str]) -> str:
    if not entries:
        return "this kernel knows no such symbol"
    if item.request.value == "n":
        return "another symbol selects it"
    if not any(definition.prompt for definition in entries):
        return f"it cannot be set, only selected by others ({entries[0].where})"
    definition = next((definition for definition in entries if definition.prompt), entries[0])
    if not definition.depends:
        if item.request.value == "m":
            return f"it cannot be a module ({definition.where})"
        return f"see {definition.where}"
    expression = " && ".join(
        f"({text})" if "||" in text and len(definition.depends) > 1 else text
        for text in definition.depends
    )
    words = dict.fromkeys(_SYMBOLS.findall(expression))
    off = [f"{word}={config.get(word, 'n')}" for word in words if config.get(word, "n") != "y"]
    state = f"; here {', '.join(off)}" if off else ""
    return f"depends on {expression} ({definition.where}){state}"


def _files(tree: Path, arch: str) -> Iterator[Path]:
    for directory, names, files in os.walk(tree):
        here = Path(directory)
        if here == tree:
            names[:] = [name for name in names if name not in _SKIPPED]
        elif here == tree / "arch":
            names[:] = [name for name in names if name == arch]
        yield from (here / name for name in sorted(files) if name.startswith("Kconfig"))
