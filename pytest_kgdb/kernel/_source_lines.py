"""The lines of a kernel's sources that a user names, and where each has code."""

from __future__ import annotations

import bisect
import difflib
import itertools
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ..dwarf import CodeOfLine, LineTables
from ..elf import ElfFile
from ..errors import ConfigError
from ..process import run, which
from ..settings import CoverageTarget
from ._change import Change, changes, lines_of
from ._makefiles import not_compiled
from ._model import Kernel
from ._patch import read_patches

if TYPE_CHECKING:
    from ..cache import Cache

__all__ = ["CodeAddress", "SourceFile", "last_line", "select_lines"]

_FORMAT: Final = 3  # of what is remembered
_GDB_SECONDS: Final = 120.0
_GENERATED: Final = re.compile(r"(?:^|/)include/")
_OPENING: Final = re.compile(
    r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL
)


class CodeAddress(NamedTuple):
    """An instruction, as linked."""

    module: str
    """The module that it is in; "" for the kernel itself."""
    section: str
    """The section of the module."""
    offset: int
    """From the section's start; the address that the kernel is linked for."""


@dataclass(frozen=True)
class SourceFile:
    """A source file, of which some lines are named."""

    name: str
    """In the source tree; the path of a file outside of it."""
    code: dict[int, tuple[CodeAddress, ...]]
    """Where its lines have code."""
    requested: frozenset[int] | None
    """The lines that are named; None for all that have code."""
    path: Path | None = None
    """Where it can be read."""
    why_not: str = ""
    """Why it has no code in this kernel: the configuration symbols that would have it compiled."""
    change: Change | None = None
    """What patches changed in it, where that was asked for."""

    @cached_property
    def text(self) -> list[str]:
        """Its lines; none if it cannot be read."""
        if self.change is not None:
            return list(self.change.text)
        try:
            data = self.path.read_bytes() if self.path is not None else b""
        except OSError:
            return []
        return lines_of(data)


@dataclass
class _Image:
    """A file with code: vmlinux, or a module's."""

    module: str
    path: Path

    @cached_property
    def elf(self) -> ElfFile:
        return ElfFile(self.path)

    @cached_property
    def functions(self) -> dict[str, list[int]]:
        """Where the functions begin, by section."""
        starts: dict[str, list[int]] = {}
        for _, section, address, _ in self.elf.function_symbols():
            starts.setdefault(section if self.module else "", []).append(address)
        for addresses in starts.values():
            addresses.sort()
        return starts

    def code(self, matches: Callable[[str], bool], names: set[str] | None) -> _Code:
        """Return the code of the files whose paths match.

        :param names: the files' names without directories, if they are known.
        """
        tables = LineTables(self.elf)
        code: _Code = {}
        for unit in tables.units(names):
            numbers = {number for number, path in enumerate(unit.files) if matches(path)}
            if not numbers:
                continue
            for (number, line), places in tables.code(unit, numbers).items():
                of_file = code.setdefault(unit.files[number], {})
                of_file.setdefault(line, set()).update(self._addresses(places))
        return code

    def _addresses(self, places: CodeOfLine) -> Iterator[CodeAddress]:
        """Yield where breakpoints on a line are to be.

        A compiler marks where a statement begins, also if the instructions there are another
        line's, and its own were moved. What has no mark in a function is the rest of a statement.
        """
        marked = {self._function(*place) for place in places.statements}
        for section, address in places.statements:
            yield CodeAddress(self.module, section, address)
        for section, address in places.ranges:
            if self._function(section, address) not in marked:
                yield CodeAddress(self.module, section, address)

    def _function(self, section: str, address: int) -> tuple[str, int]:
        starts = self.functions.get(section, [])
        return section, bisect.bisect_right(starts, address)


_Code = dict[str, dict[int, set[CodeAddress]]]
"""Addresses by file and line."""


@dataclass
class _Selection:
    """What is named of one file."""

    lines: set[int] | None = field(default_factory=set)
    code: dict[int, set[CodeAddress]] = field(default_factory=dict)
    change: Change | None = None

    def add(self, lines: Iterable[int] | None) -> None:
        if lines is None or self.lines is None:
            self.lines = None
        else:
            self.lines.update(lines)


def select_lines(
    kernel: Kernel,
    targets: Sequence[CoverageTarget],
    patches: Sequence[Path],
    modules: Sequence[Path],
    cache: Cache,
) -> list[SourceFile]:
    """Return the lines that `--kgdb-cov` names, file by file.

    :param patches: those that the kernel was built with.
    :param modules: the external modules.
    :raises ConfigError: something that is named is not there.
    """
    return _Selector(kernel, patches, modules, cache).select(targets)


class _Selector:
    def __init__(
        self, kernel: Kernel, patches: Sequence[Path], modules: Sequence[Path], cache: Cache
    ) -> None:
        self._kernel = kernel
        self._patches = patches
        self._patched = {
            name for path in patches for patch in read_patches(path) for name in patch.touched()
        }
        self._external = modules
        self._cache = cache
        self._selections: dict[str, _Selection] = {}

    def select(self, targets: Sequence[CoverageTarget]) -> list[SourceFile]:
        for target in targets:
            if target.kind == "patch":
                self._add_patch()
            elif target.kind == "function":
                self._add_function(target.name)
            elif target.kind == "module":
                self._add_module(target.name)
            else:
                lines = None if not target.last else range(target.first, target.last + 1)
                self._add_file(target.name, lines)
        return [self._file(name, selection) for name, selection in self._selections.items()]

    def _file(self, name: str, selection: _Selection) -> SourceFile:
        why = ""
        if not selection.code:
            missing = not_compiled(self._kernel, [name])
            why = missing[0].why if missing else "no code of it is in this kernel"
        elif selection.change is not None and selection.lines == set():
            why = "the patches together change nothing in it"  # one undoes what another one does
        return SourceFile(
            name,
            {line: tuple(sorted(places)) for line, places in sorted(selection.code.items())},
            None if selection.lines is None else frozenset(selection.lines),
            path=self._path(name),
            why_not=why,
            change=selection.change,
        )

    def _path(self, name: str) -> Path | None:
        """Return where a file can be read: in the user's tree, if it is the same there."""
        source = self._kernel.source
        built = Path(name) if source is None else source / name
        if not built.is_file():
            return None
        tree = Path(self._kernel.spec.partition("@")[0])
        users = tree / name
        if tree.is_absolute() and users.is_file() and users.read_bytes() == built.read_bytes():
            return users
        return built

    # What is named

    def _add_file(self, name: str, lines: Iterable[int] | None) -> _Selection:
        code = self._code_of(name)
        if not code and not self._exists(name):
            near = difflib.get_close_matches(name, self._names_like(name), n=3)
            raise ConfigError(
                f"--kgdb-cov={name}: there is no such file in the source of {self._kernel.name}",
                hint=f"did you mean {', '.join(near)}?"
                if near
                else "name it as in the source tree: fs/open.c",
            )
        if len(code) > 1:
            raise ConfigError(
                f"--kgdb-cov={name} is the name of several files: {', '.join(sorted(code))}",
                hint="name one of them as it is here",
            )
        name, places = next(iter(code.items())) if code else (name, {})
        selection = self._selections.setdefault(name, _Selection(code=places))
        selection.add(lines)
        return selection

    @property
    def _tree(self) -> Path | None:
        return self._kernel.source

    def _exists(self, name: str) -> bool:
        """Whether the source has a file; without a source, it has those that have code."""
        return name in self._patched or (self._tree is not None and (self._tree / name).is_file())

    def _names_like(self, name: str) -> list[str]:
        tree = self._tree
        directory = None if tree is None else tree / posixpath.dirname(name)
        if tree is None or directory is None or not directory.is_dir():
            return []
        return [str(path.relative_to(tree)) for path in directory.glob("*.[chS]")]

    def _add_patch(self) -> None:
        kernel = self._kernel
        source = kernel.source
        if source is None:
            raise ConfigError(
                f"--kgdb-cov=patch: the source of {kernel.name} is not there",
                hint="name the lines: --kgdb-cov=FILE:FIRST-LAST",
            )
        for change in changes(source, self._patches, kernel.name, applied=True):
            if not change.name.endswith((".c", ".h", ".S", ".rs")):
                continue
            selection = self._add_file(change.name, change.lines)
            selection.change = change

    def _add_function(self, name: str) -> None:
        places = self._definitions(name)
        for file, line in places:
            name_of = self._relative(file)
            path = self._path(name_of)
            if path is None:
                raise ConfigError(
                    f"--kgdb-cov=function:{name}: {name_of} cannot be read, so that its end is not "
                    "known",
                    hint=f"name the lines: --kgdb-cov={name_of}:{line}-LAST",
                )
            text = path.read_bytes().decode(errors="replace")
            self._add_file(name_of, range(line, last_line(text, line) + 1))

    def _definitions(self, name: str) -> list[tuple[str, int]]:
        kernel = self._kernel
        images = [_Image("", kernel.vmlinux), *self._modules()]

        def ask() -> str:
            for image in images:
                if any(symbol == name for symbol, *_ in image.elf.function_symbols()):
                    return json.dumps(_ask_gdb(image.path, name))
            return json.dumps(_ask_gdb(kernel.vmlinux, name))

        key = f"{_FORMAT} {kernel.key} function {name} {self._keys(images)}"
        places = [(str(file), int(line)) for file, line in json.loads(self._memo(key, ask))]
        if not places:
            near = difflib.get_close_matches(name, set(ElfFile(kernel.vmlinux).functions()), n=3)
            raise ConfigError(
                f"--kgdb-cov=function:{name}: {kernel.name} has no such function",
                hint=(f"did you mean {', '.join(near)}? " if near else "")
                + "one that gcc inlined everywhere is named by its lines: --kgdb-cov=FILE:LINES",
            )
        return places

    def _add_module(self, name: str) -> None:
        plain_name = name.replace("-", "_")
        image = next((image for image in self._modules() if image.module == plain_name), None)
        if image is None:
            raise ConfigError(
                f"--kgdb-cov=module:{name}: neither {self._kernel.name} nor --kgdb-module has such "
                "a module",
                hint="what is built in is named by its files: --kgdb-cov=drivers/block/brd.c",
            )
        code = self._remembered(image, "", None)
        if not code:
            raise ConfigError(f"{image.path} has no line of its own in its debug information")
        for file, places in code.items():
            self._selections.setdefault(file, _Selection(code=places)).add(None)

    # Where they have code

    def _modules(self) -> Iterator[_Image]:
        for path in self._external:
            yield _Image(_module_name(path), path)
        directory = self._kernel.modules_dir
        if directory is not None:
            for path in sorted(directory.rglob("*.ko")):
                yield _Image(_module_name(path), path)

    def _code_of(self, name: str) -> dict[str, dict[int, set[CodeAddress]]]:
        """Return the code of a file, by the names of the files that it may be."""
        code = self._remembered(_Image("", self._kernel.vmlinux), name, {posixpath.basename(name)})
        if not code:
            for image in self._modules():
                if code := self._remembered(image, name, {posixpath.basename(name)}):
                    break
        return {name: code[name]} if name in code else code

    def _remembered(self, image: _Image, name: str, names: set[str] | None) -> _Code:
        """Return the code of a file in an image; of all the module's own files without a name."""

        def read() -> str:
            if name:
                code = image.code(lambda path: path == name or path.endswith(f"/{name}"), names)
            else:
                code = image.code(lambda path: not _GENERATED.search(self._relative(path)), None)
            return json.dumps(
                {
                    file: {line: [place[1:] for place in places] for line, places in lines.items()}
                    for file, lines in code.items()
                }
            )

        key = f"{_FORMAT} {self._kernel.key} {self._keys([image])} {name}"
        remembered = json.loads(self._memo(key, read))
        code: _Code = {}
        for file, lines in remembered.items():
            of_file = code.setdefault(self._relative(file), {})
            for line, places in lines.items():
                of_file.setdefault(int(line), set()).update(
                    CodeAddress(image.module, section, offset) for section, offset in places
                )
        return code

    def _relative(self, file: str) -> str:
        """Return a path of the debug information as the source tree has it."""
        for root in (self._kernel.debug_source, self._kernel.source, *self._compiled_in):
            if root and file.startswith(f"{root}/"):
                return file[len(str(root)) + 1 :]
        return file

    @cached_property
    def _compiled_in(self) -> list[str]:
        """The directories in which the kernel was compiled; Debian's are relative ones."""

        def read() -> str:
            units = itertools.islice(LineTables(ElfFile(self._kernel.vmlinux)).units(), 9)
            return json.dumps(sorted({unit.directory for unit in units} - {""}))

        key = f"{_FORMAT} {self._kernel.key} directories"
        return [str(directory) for directory in json.loads(self._memo(key, read))]

    def _memo(self, key: str, compute: Callable[[], str]) -> str:
        return self._cache.memo("source-lines", key, compute)

    @staticmethod
    def _keys(images: Iterable[_Image]) -> str:
        states = ((image.path, image.path.stat()) for image in images if image.module)
        return " ".join(f"{path} {state.st_size} {state.st_mtime_ns}" for path, state in states)


def _module_name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def last_line(text: str, line: int) -> int:
    """Return the last line of the function that is defined at a line: where its braces end."""
    behind = "\n".join(text.split("\n")[line - 1 :])
    # Of the same length and lines: what is in comments and strings does not count.
    plain = _OPENING.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), behind)
    depth = 0
    for at, character in enumerate(plain):
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return line + plain.count("\n", 0, at)
        elif character == ";" and depth == 0:
            break  # a declaration, or a macro that defines it
    return line


_QUESTION: Final = """python
import gdb, json
symbols = list(gdb.lookup_static_symbols({name!r}))
symbol = gdb.lookup_global_symbol({name!r})
if symbol is not None:
    symbols.append(symbol)
print(json.dumps([(s.symtab.fullname(), s.line) for s in symbols if s.type.code == gdb.TYPE_CODE_FUNC]))
"""  # noqa: E501 # gdb's Python


def _ask_gdb(path: Path, name: str) -> list[tuple[str, int]]:
    """Return where functions of a name are defined: files, and lines of the name."""
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        return []
    argv = [which("gdb", package="gdb"), "-nx", "-batch", "-ex", _QUESTION.format(name=name)]
    result = run([*argv, str(path)], name="gdb", timeout=_GDB_SECONDS)
    places = json.loads(result.output.strip().splitlines()[-1])
    return [(str(file), int(line)) for file, line in places]
