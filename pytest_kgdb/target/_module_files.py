"""Modules as files: which are known, what they are called, where the guest has them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError, KgdbError
from ..kernel import ModuleFile, read_module
from ..memory import ModuleFiles, module_name
from ..process import run, which

if TYPE_CHECKING:
    from ..kernel import Kernel

__all__ = ["Found", "KnownFiles", "arguments"]

_GUEST_DIRECTORY: Final = "/run"
"""Where modules from the host go: a tmpfs on every guest of ours."""
_STRIP_SECONDS: Final = 60.0

# A file and line, as gdb takes them.
_LINE: Final = re.compile(r"(?:.*/)?([^/:]+\.[chS]):\d+")
_FUNCTION: Final = re.compile(r"\*?([A-Za-z_]\w*)(?:\s*\+.*)?")


@dataclass(frozen=True)
class Found:
    """A module that is to be loaded."""

    name: str
    info: ModuleFile | None
    in_guest: str | None
    """Its path there; None while it is on the host only."""
    needs: tuple[str, ...] = ()
    """What must be loaded before."""


class KnownFiles:
    """The module files that the host knows of.

    `watched` are the names of modules whose symbols gdb has as soon as they are loaded.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._in_guest: dict[str, str] = {}
        self._build: Callable[[Path], list[Path]] | None = None
        self._given: dict[str, Path] = {}
        self._provided: dict[str, Path] = {}  # in the guest from the beginning
        self.watched: set[str] = set()
        self.version = 0
        places = [kernel.modules_dir] if kernel.modules_dir is not None else []
        self._in_tree = ModuleFiles(places)

    def forget(self) -> None:
        """Know of what is in the guest only: what a test named is not for the next one."""
        self._given = dict(self._provided)
        self.watched = set(self._provided)
        # As kernel.collect_modules puts them there.
        directory = f"/lib/modules/{self._kernel.release}/extra"
        self._in_guest = {name: f"{directory}/{path.name}" for name, path in self._provided.items()}

    def provide(self, given: Iterable[Path], build: Callable[[Path], list[Path]]) -> None:
        """Take the modules that are in the guest, and the way to build others."""
        self._build = build
        self._provided = {read_module(path).name: path for path in given}
        self.forget()

    def is_known(self, name: str) -> bool:
        """Whether a module was named, so that it need not be in the guest."""
        return name.replace("-", "_") in self._given

    def _note(self, path: Path) -> ModuleFile:
        info = read_module(path)
        if self._given.get(info.name) != path:
            self._given[info.name] = path
            self.version += 1
            self._in_guest.pop(info.name, None)
        self.watched.add(info.name)
        return info

    def known(self, path: Path) -> list[Path]:
        """Build what a path stands for; its modules are watched for from now on."""
        built = self._built(path.expanduser())
        for each in built:
            self._note(each)
        return built

    def _built(self, path: Path) -> list[Path]:
        if self._build is None:
            raise KgdbError(f"{path} cannot be built: this handle has no session")
        return self._build(path)

    def candidates(self, name: str) -> list[Path]:
        """Return the files that may be a module's, the likeliest first."""
        given = self._given.get(name)
        return [*([given] if given is not None else []), *self._in_tree.candidates(name)]

    def find(self, name: str) -> Path | None:
        """Return a module's file; None where none is known."""
        given = self._given.get(name)
        if given is not None:
            return given
        return next(iter(self._in_tree.candidates(name)), None)

    def has(self, location: str) -> bool:
        """Whether one of the modules that were named has a function, or a file, of that name."""
        line, function = _LINE.fullmatch(location), _FUNCTION.fullmatch(location)
        for path in self._given.values():
            info = read_module(path)
            if line is not None and line[1] in info.sources:
                return True
            if function is not None and function[1] in info.functions:
                return True
        return False

    def functions(self) -> Iterator[str]:
        """Yield the functions of the modules that were named."""
        for path in self._given.values():
            yield from read_module(path).functions

    def resolve(self, path: str | os.PathLike[str]) -> Found:
        """Return the module that a path or a name stands for.

        :raises ConfigError: there is none, or there are several.
        """
        text = os.fspath(path)
        if "/" not in text:
            name = module_name(Path(text))
            if name in self._in_guest:
                info = read_module(self._given[name])
                return Found(name, info, self._in_guest[name], info.depends)
            if name in self._given:
                info = read_module(self._given[name])
                return Found(name, info, None, info.depends)
            in_tree = next(iter(self._in_tree.candidates(name)), None)
            tree = self._kernel.modules_dir
            if in_tree is not None and tree is not None:
                guest = f"/lib/modules/{self._kernel.release}/{in_tree.relative_to(tree)}"
                info = read_module(in_tree)
                return Found(name, info, guest, info.depends)
        host = Path(text).expanduser()
        if host.is_dir() or host.is_file():
            return self._of_host(host, None)
        if host.suffix == ".ko" and any((host.parent / each).is_file() for each in _MAKEFILES):
            return self._of_host(host.parent, module_name(host))
        if text.startswith("/"):
            name = module_name(Path(text))
            file = self.find(name)
            return Found(name, read_module(file) if file is not None else None, text)
        known = sorted(self._given)
        raise ConfigError(
            f"there is no module {text}: neither on this host nor, by that name, in the guest",
            hint=f"known are {', '.join(known)}" if known else "name its directory, or its .ko",
        )

    def _of_host(self, path: Path, name: str | None) -> Found:
        built = self._built(path)
        infos = [read_module(each) for each in built]
        if name is None and len(infos) == 1:
            name = infos[0].name
        matching = [each for each in infos if each.name == name]
        if not matching:
            shown = ", ".join(each.path.name for each in infos)
            raise ConfigError(
                f"{path} builds {shown}" + (f", and no {name}" if name is not None else ""),
                hint=f"name one of them: {path / infos[0].path.name}",
            )
        (info,) = matching
        for each in infos:
            self._note(each.path)
        return Found(info.name, info, self._in_guest.get(info.name), info.depends)

    def transferred(self, found: Found, put: Callable[[Path, str], None]) -> Found:
        """Put a module's file into the guest, without debug information: gdb reads the host's."""
        assert found.info is not None
        guest = f"{_GUEST_DIRECTORY}/{found.name}.ko"
        strip = which("strip", package="binutils")
        with tempfile.TemporaryDirectory(prefix="pytest-kgdb-module-") as scratch:
            stripped = Path(scratch) / found.info.path.name
            argv = [strip, "--strip-debug", "-o", str(stripped), str(found.info.path)]
            run(argv, name="strip", timeout=_STRIP_SECONDS)
            put(stripped, guest)
        return replace(found, in_guest=guest)


_MAKEFILES: Final = ("Makefile", "Kbuild", "makefile")


def arguments(info: ModuleFile | None, name: str, params: dict[str, object]) -> list[str]:
    """Return the words that set a module's parameters.

    The kernel ignores one that the module does not have, but for a line in its log.

    :raises ConfigError: there is no such parameter.
    """
    words = []
    for key, value in params.items():
        if info is not None and key not in (*info.parameters, "dyndbg"):
            raise ConfigError(
                f"module {name} has no parameter '{key}'",
                hint=f"it has {', '.join(sorted(info.parameters)) or 'none'}",
            )
        words.append(f"{key}={_value(value)}")
    return words


def _value(value: object) -> str:
    """Return a value as the kernel reads it (kernel/params.c)."""
    if isinstance(value, bool):
        return "1" if value else "0"  # what both a bool and an int take
    if isinstance(value, list | tuple):
        return ",".join(_value(each) for each in value)
    text = str(value)
    return f'"{text}"' if " " in text else text
