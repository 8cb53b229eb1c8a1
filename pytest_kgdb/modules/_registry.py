"""The registry of modules: their files on the host, their places in the guest, their addresses."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from os.path import expanduser  # of no user: as it is, and there is no such file
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError
from ..kernel import ModuleFile, has_location, lines_with_code, read_module
from ..memory import ModuleFiles, module_name
from ..process import run, which
from ..trace import FreedMemory

if TYPE_CHECKING:
    from ..kernel import Built, Kernel

__all__ = ["LoadedModule", "ModuleRegistry", "ModuleSource"]

_GUEST_DIRECTORY: Final = "/run"
"""Where modules from the host go: a tmpfs on every guest of ours."""
_STRIP_SECONDS: Final = 60.0

# A file and line, as gdb takes them.
_LINE: Final = re.compile(r"([^:]+):(\d+)")
# A function, a file and something in it, an address by a name: of what is of one module only.
_OF_ONE: Final = re.compile(r"\*?\s*\(*\s*&?[A-Za-z_./]")


@dataclass(frozen=True)
class ModuleSource:
    """A module that is to be loaded: its name, its file, its place in the guest."""

    name: str
    info: ModuleFile | None
    in_guest: str | None
    """Its path there; None while it is on the host only."""
    needs: tuple[str, ...] = ()
    """What must be loaded before."""


@dataclass
class LoadedModule:
    """A module that the kernel has loaded, and whose symbols gdb has."""

    name: str
    address: int
    """Of its `struct module`."""
    file: Path
    sections: dict[str, int]
    ranges: list[tuple[int, int, bool]]
    """Start, end, and whether the memory is freed when its init has run."""
    init_freed: bool = False
    per_cpu: tuple[tuple[int, int], ...] = ()
    """Start and end of its per-CPU variables, as addresses to which a CPU's offset is added."""
    disabled: set[str] = field(default_factory=set)
    """Locations of breakpoints in init memory that is freed, as gdb numbers them."""

    def holds(self, address: int, *, init: bool = False) -> bool:
        """Whether an address is in its memory, or in what it has for its init only."""
        return any(
            start <= address < end and (is_init or not init) for start, end, is_init in self.ranges
        )

    def is_at(self, other: LoadedModule | None) -> bool:
        """Whether another load of it has the same file at the same addresses."""
        return other is not None and (self.file, self.ranges) == (other.file, other.ranges)

    @property
    def freed(self) -> FreedMemory:
        """Its memory, once it is gone."""
        ranges = (
            (start, end) for start, end, init in self.ranges if not (init and self.init_freed)
        )
        return FreedMemory.of_module(self.name, tuple(ranges), self.per_cpu)

    @property
    def freed_init(self) -> FreedMemory:
        """The memory of its init, once that has run."""
        ranges = ((start, end) for start, end, init in self.ranges if init)
        return FreedMemory.of_module_init(self.name, tuple(ranges))


class ModuleRegistry:
    """Which modules there are: the owner of "where is module X".

    On the host: the files of the modules that were named, and those of the kernel's own tree. In
    the kernel: the addresses of those whose symbols gdb has.

    :param provided: files of the modules that are in the guest from the beginning.
    :param build: builds what a path on the host stands for, with variables for make.
    :param instead: returns the path that is tested instead of one: that in a revision.
    """

    def __init__(
        self,
        kernel: Kernel,
        provided: Iterable[Path],
        build: Callable[[Path, Sequence[str]], Built],
        instead: Callable[[Path], Path] = lambda path: path,
    ) -> None:
        self._kernel = kernel
        self._instead = instead
        self._build = build
        self._provided = {read_module(path).name: path for path in provided}
        self._named: dict[str, Path] = {}
        # Files that had a name before: one may be loaded still.
        self._earlier: dict[str, list[Path]] = {}
        self._version = 0
        self._in_guest: dict[str, str] = {}
        places = [kernel.modules_dir] if kernel.modules_dir is not None else []
        self._in_tree = ModuleFiles(places)
        self.watched: set[str] = set()
        """Names of the modules whose symbols gdb gets as soon as they are loaded."""
        self.loaded: dict[str, LoadedModule] = {}
        """The modules whose symbols gdb has, by name."""
        self.unloaded: list[LoadedModule] = []
        """Modules that were unloaded, or whose init failed, the latest last."""
        self.unlike: set[str] = set()
        """Names of loaded modules of which every file that is known is another build."""
        self.reset()

    def reset(self) -> None:
        """Register only what is in the guest: what one test names is not for the next one."""
        if self._named != self._provided:
            self._version += 1
        self._named = dict(self._provided)
        self._earlier.clear()
        self.watched = set(self._provided)
        # As kernel.collect_modules puts them there.
        directory = f"/lib/modules/{self._kernel.release}/extra"
        self._in_guest = {name: f"{directory}/{path.name}" for name, path in self._provided.items()}

    def detach(self) -> None:
        """Forget what the kernel has loaded: its machine is gone."""
        self.loaded.clear()
        self.unloaded.clear()
        self.unlike.clear()
        self.reset()

    # In the kernel

    def at(self, address: int) -> tuple[LoadedModule, bool] | None:
        """Return the module that an address is in, and whether that memory is freed by now.

        The relay's thread asks, too.
        """
        for module in list(self.loaded.values()):
            if module.holds(address):
                freed = module.init_freed and module.holds(address, init=True)
                return module, freed
        return None

    def refusal(self, address: int) -> str | None:
        """Return why no breakpoint can be at an address in a module; None where one can."""
        place = self.at(address)
        if place is None or not place[1]:
            return None
        return (
            f"it is in .init.text of module {place[0].name}, whose memory the kernel has freed by "
            "now; load_stopped() stops before a module's init, and once it is unloaded a "
            "breakpoint waits for it to be loaded again"
        )

    # On the host

    def is_known(self, name: str) -> bool:
        """Whether a module was named, so that it need not be in the guest."""
        return name.replace("-", "_") in self._named

    def _add(self, path: Path) -> ModuleFile:
        info = read_module(path)
        named = self._named.get(info.name)
        if named != path:
            if named is not None:
                self._earlier.setdefault(info.name, []).insert(0, named)
            self._named[info.name] = path
            self._version += 1
            self._in_guest.pop(info.name, None)
        self.watched.add(info.name)
        return info

    def add(self, path: Path, variables: Sequence[str] = ()) -> list[Path]:
        """Build what a path stands for, register its modules, and return their files.

        :param variables: for make's command line.
        """
        built = self._build(self._instead(Path(expanduser(path))), variables)  # noqa: PTH111
        for file in built.modules:
            self._add(file)
        self._add_needed(built)
        return built.modules

    def _add_needed(self, built: Built) -> None:
        """Register the modules whose symbols others use; those that were named stay as they are."""
        for file in built.needed:
            if read_module(file).name not in self._named:
                self._add(file)

    @property
    def version(self) -> int:
        """A number that changes whenever :meth:`candidates` may return other files."""
        return self._version

    def candidates(self, name: str) -> list[Path]:
        """Return the files that may be a module's, the likeliest first; the build id decides."""
        file = self._named.get(name)
        return [
            *([file] if file is not None else []),
            *self._earlier.get(name, ()),
            *self._in_tree.candidates(name),
        ]

    def find(self, name: str) -> Path | None:
        """Return a module's file; None where none is known."""
        return next(iter(self.candidates(name)), None)

    def expects(self, location: str) -> bool:
        """Whether a registered module that is not loaded has a location."""
        return self._waiting(location) is not None

    def _waiting(self, location: str) -> str | None:
        """Return the module of :meth:`expects`."""
        if _OF_ONE.match(location) is None:
            return None
        for name, path in self._named.items():
            loaded = self.loaded.get(name)
            # gdb has the symbols of one that is loaded, and has said what they have.
            if (loaded is None or loaded.file != path) and has_location(path, location):
                return name
        return None

    def explain(self, location: str) -> tuple[str, str] | None:
        """Return why there is nothing at a location, and what to do, as far as modules explain it.

        :return: None where they do not.
        """
        if (name := self._waiting(location)) is not None:
            if name in self.loaded or name in self.unlike:
                return (
                    f"module {name} has it, and the {name} that the kernel has loaded is another "
                    "build",
                    "unload it, and load this one",
                )
            return (
                f"module {name} has it, and is not loaded",
                "load_stopped() first: it loads the module, and stops before its init runs",
            )
        if match := _LINE.fullmatch(location):
            source, line = match[1], int(match[2])
            for name, path in self._named.items():
                if lines := lines_with_code(path, source):
                    before = max((number for number in lines if number < line), default=None)
                    behind = min((number for number in lines if number > line), default=None)
                    near = " and ".join(str(n) for n in (before, behind) if n is not None)
                    return (
                        f"{source} has no code at line {line}, nor behind it"
                        if behind is None
                        else f"{source} has no code at line {line}",
                        f"the {'last line' if behind is None else 'lines next to it'} with code "
                        f"in module {name}: {near}",
                    )
        return None

    def functions(self) -> Iterator[str]:
        """Yield the functions of the modules that were named, by their names in the source."""
        for path in self._named.values():
            # gcc's copies of a function have its name with a suffix.
            yield from {name.partition(".")[0] for name in read_module(path).functions}

    def resolve(self, path: str | os.PathLike[str], variables: Sequence[str] = ()) -> ModuleSource:
        """Return the module that a path or a name stands for.

        :param variables: for make's command line, where it is built.
        :raises ConfigError: there is none, or there are several.
        """
        text = os.fspath(path)
        if "/" not in text:
            name = module_name(Path(text))
            if name in self._in_guest:
                info = read_module(self._named[name])
                return ModuleSource(name, info, self._in_guest[name], info.depends)
            if name in self._named:
                info = read_module(self._named[name])
                return ModuleSource(name, info, None, info.depends)
            in_tree = next(iter(self._in_tree.candidates(name)), None)
            tree = self._kernel.modules_dir
            if in_tree is not None and tree is not None:
                guest = f"/lib/modules/{self._kernel.release}/{in_tree.relative_to(tree)}"
                info = read_module(in_tree)
                return ModuleSource(name, info, guest, info.depends)
        host = self._instead(Path(expanduser(text)))  # noqa: PTH111
        if host.is_dir() or host.is_file():
            return self._of_host(host, None, variables)
        if host.suffix == ".ko" and any((host.parent / name).is_file() for name in _MAKEFILES):
            return self._of_host(host.parent, module_name(host), variables)
        if text.startswith("/"):
            name = module_name(Path(text))
            file = self.find(name)
            return ModuleSource(name, read_module(file) if file is not None else None, text)
        names = sorted(self._named)
        raise ConfigError(
            f"there is no module {text}: neither on this host nor, by that name, in the guest",
            hint=f"known are {', '.join(names)}" if names else "name its directory, or its .ko",
        )

    def _of_host(self, path: Path, name: str | None, variables: Sequence[str]) -> ModuleSource:
        built = self._build(path, variables)
        infos = [read_module(file) for file in built.modules]
        if name is None and len(infos) == 1:
            name = infos[0].name
        matching = [info for info in infos if info.name == name]
        if not matching:
            names = ", ".join(info.path.name for info in infos)
            raise ConfigError(
                f"{path} builds {names}" + (f", and no {name}" if name is not None else ""),
                hint=f"name one of them: {path / infos[0].path.name}",
            )
        for info in infos:
            self._add(info.path)
        self._add_needed(built)
        (info,) = matching
        return ModuleSource(info.name, info, self._in_guest.get(info.name), info.depends)

    def transferred(self, source: ModuleSource, put: Callable[[Path, str], None]) -> ModuleSource:
        """Put a module's file into the guest, without debug information: gdb reads the host's."""
        assert source.info is not None
        guest = f"{_GUEST_DIRECTORY}/{source.name}.ko"
        strip = which("strip", package="binutils")
        with tempfile.TemporaryDirectory(prefix="pytest-kgdb-module-") as scratch:
            stripped = Path(scratch) / source.info.path.name
            argv = [strip, "--strip-debug", "-o", str(stripped), str(source.info.path)]
            run(argv, name="strip", timeout=_STRIP_SECONDS)
            put(stripped, guest)
        return replace(source, in_guest=guest)


_MAKEFILES: Final = ("Makefile", "Kbuild", "makefile")
