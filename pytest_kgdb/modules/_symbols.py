"""gdb's symbols of modules, kept equal to what the kernel has loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from ..debugger import BreakpointTable, Debugger, GdbError
from ..elf import ElfFile
from ..errors import KgdbError
from ..kernel import read_module, without_addresses
from ..trace import FreedMemory
from ._kernel_list import STATES, KernelModules, Loaded
from ._registry import LoadedModule, ModuleRegistry

__all__ = ["ModuleSymbols"]

# Documentation/x86/x86_64/mm.rst: the last 2 MiB of addresses are an unused hole. The symbols of
# an init whose memory is another's by now are moved there.
_UNUSED: Final = 0xFFFFFFFFFFE00000
_UNUSED_END: Final = 0xFFFFFFFFFFF80000
_GAP: Final = 4096  # between one section and the next
_PER_CPU: Final = ".data..percpu"

# Only while the file is being loaded is there memory behind these.
_NOT_KEPT: Final = (".symtab", ".strtab", ".modinfo", "__versions")


class ModuleSymbols:
    """Adds and removes the symbols of modules in gdb.

    :param directory: for copies of files that gdb cannot read as they are.
    :param substitutions: returns the directories of a module's source, and where to read the files
        that it was compiled from instead.
    """

    def __init__(
        self,
        debugger: Debugger,
        table: BreakpointTable,
        kernel: KernelModules,
        registry: ModuleRegistry,
        directory: Path,
        substitutions: Callable[[LoadedModule], Iterable[tuple[Path, Path]]] = lambda _: (),
    ) -> None:
        self._debugger = debugger
        self._table = table
        self._kernel = kernel
        self._registry = registry
        self._directory = directory
        self._substitutions = substitutions
        self._unused = _UNUSED
        self._copies: dict[Path, Path] = {}
        self._listeners: list[Callable[[FreedMemory], None]] = []

    def on_freed(self, listener: Callable[[FreedMemory], None]) -> None:
        """Call a function with memory that is found to be freed: none saw the kernel free it."""
        self._listeners.append(listener)

    def sync(self, names: Collection[str] | None) -> None:
        """Add the symbols of modules that were loaded, and remove those of what is gone.

        :param names: whose; None for every module that has a file.
        """
        in_kernel = {entry.name: entry for entry in self._kernel.listing()}
        loaded, removed, freed = self._registry.loaded, [], []
        for module in list(loaded.values()):
            present = in_kernel.get(module.name)
            if present is None or self._is_another(present, module):
                removed.append(module)
                self.remove(module.name)
            elif STATES[present.state] == "live" and not module.init_freed:
                module.init_freed = True
                freed.append(module.freed_init)
        for entry in in_kernel.values():
            if entry.name not in loaded and (names is None or entry.name in names):
                self.add(entry)
        # One that is at its place again is the same, as in a snapshot from before its init.
        freed += [module.freed for module in removed if not module.is_at(loaded.get(module.name))]
        for memory in freed:
            for listener in self._listeners:
                listener(memory)

    def _is_another(self, present: Loaded, module: LoadedModule) -> bool:
        """Whether a module was unloaded, and loaded again, since gdb got its symbols."""
        again = module.init_freed and STATES[present.state] == "coming"
        moved = present.address != module.address
        if again or moved or self._registry.find(module.name) == module.file:
            return again or moved
        # Another file has the name by now: which of them is it that the kernel has loaded?
        sections = self._kernel.sections(present.address)
        return self._file_of(present, sections) != module.file

    def _file_of(self, entry: Loaded, sections: Mapping[str, int]) -> Path | None:
        """Return the file that the kernel has loaded, by its build id; None where it is not known.

        Where the kernel's has none, or a file's, the likeliest by its name.
        """
        build_id = self._kernel.build_id(sections)
        for file in self._registry.candidates(entry.name):
            if not build_id or read_module(file).build_id in ("", build_id):
                return file
        return None

    def add(self, entry: Loaded) -> None:
        """Give gdb a module's symbols, all sections.

        One without a file has none, nor has one of which only other builds are known.
        """
        self._registry.unlike.discard(entry.name)
        if self._registry.find(entry.name) is None:
            return
        every = self._kernel.sections(entry.address)
        file = self._file_of(entry, every)
        if file is None:
            self._registry.unlike.add(entry.name)
            return
        sections = {
            name: address for name, address in every.items() if not name.startswith(_NOT_KEPT)
        }
        ranges = _ranges(file, sections)
        for other in list(self._registry.loaded.values()):
            # Memory that one module had for its init only may be another one's now.
            if other.init_freed and _overlap(other.ranges, ranges):
                self._relocate_init(other)
        module = LoadedModule(
            entry.name,
            entry.address,
            file,
            sections,
            ranges,
            init_freed=STATES[entry.state] == "live",
            per_cpu=_per_cpu(file, sections),
        )
        self._registry.loaded[entry.name] = module
        try:
            self._add_symbol_file(module)
        except GdbError as error:
            del self._registry.loaded[module.name]
            raise KgdbError(
                f"gdb does not take the symbols of {module.name} from {file}: {error.message}",
                hint="is that the file that the guest has loaded, whole and not stripped?",
            ) from error

    def _add_symbol_file(self, module: LoadedModule) -> None:
        words = [f'add-symbol-file "{self._readable(module.file)}"']
        words += [f"-s {name} {address:#x}" for name, address in module.sections.items()]
        for directory, substitute in self._substitutions(module):
            self._debugger.console(f'set substitute-path "{directory}" "{substitute}"')
        # An index holds the addresses at which the module was when it was made, and
        # gdb finds it by the build id, wherever the module is now.
        self._debugger.console("set index-cache enabled off")
        try:
            self._debugger.console(" ".join(words))
        finally:
            self._debugger.console("set index-cache enabled on")

    def _readable(self, file: Path) -> Path:
        """Return a module's file as gdb can read it."""
        if file not in self._copies:
            data = without_addresses(file)
            copy = self._directory / f"{len(self._copies)}-{file.name}"
            if data is not None:
                copy.write_bytes(data)
            self._copies[file] = file if data is None else copy
        return self._copies[file]

    def remove(self, name: str) -> None:
        """Remove a module's symbols from gdb; breakpoints in it wait for it to be loaded again.

        Those at addresses, and watchpoints, end: its memory is another's next.
        """
        module = self._registry.loaded.pop(name, None)
        if module is not None:
            self._registry.unloaded.append(module)
            self._table.in_freed_memory.end_watchpoints(module.holds, module.freed.why)
            with self._removed(module, module.holds, module.freed.why):
                pass

    @contextlib.contextmanager
    def _removed(
        self, module: LoadedModule, freed: Callable[[int], bool], why: str
    ) -> Iterator[None]:
        """Remove symbols from gdb, with the breakpoints at them disabled until the end.

        :param freed: whether an address is in memory of the module's that it has no more.
        :param why: what is gone.
        """
        waiting = [
            row.number
            for row in self._table.refresh()
            if any(module.holds(location.address) for location in row.locations)
        ]
        # gdb takes these for removed with the symbols, and does not tell kgdb.
        with self._table.disabled(waiting):
            for number in module.disabled:
                with contextlib.suppress(GdbError):
                    self._table.enable_location(number, True)
            module.disabled.clear()
            # gdb knows the file by its real path, with a cache behind a symbolic link, too.
            file = self._readable(module.file).resolve()
            self._debugger.console(f'remove-symbol-file "{file}"')
            self._table.in_freed_memory.end_breakpoints(freed, why)
            yield

    def _relocate_init(self, module: LoadedModule) -> None:
        """Move the symbols of a freed init to unused addresses: another module has its memory."""
        with self._removed(module, partial(module.holds, init=True), module.freed_init.why):
            for name in module.sections:
                if name.startswith(".init"):
                    module.sections[name] = self._unused
                    self._unused += _section_sizes(module.file)[name] + _GAP
            if self._unused > _UNUSED_END:
                self._unused = _UNUSED
            module.ranges = _ranges(module.file, module.sections)
            self._add_symbol_file(module)
            self.init_ended(module)

    def init_ended(self, module: LoadedModule) -> None:
        """Disable the breakpoints in a module's init: its memory is about to be freed.

        Watchpoints in it end.
        """
        module.init_freed = True
        init = partial(module.holds, init=True)
        self._table.in_freed_memory.end_watchpoints(init, module.freed_init.why)
        for row in self._table.refresh():
            for location in row.locations:
                number = location.number
                if (
                    location.enabled
                    and number not in module.disabled
                    and module.holds(location.address, init=True)
                ):
                    self._table.enable_location(number, False)
                    module.disabled.add(number)


def _ranges(file: Path, sections: dict[str, int]) -> list[tuple[int, int, bool]]:
    """Return the memory that a module's sections have."""
    sizes = _section_sizes(file)
    return [
        (start, start + sizes[name], name.startswith(".init"))
        for name, start in sections.items()
        if sizes.get(name) and name != _PER_CPU  # which is no address
    ]


def _per_cpu(file: Path, sections: dict[str, int]) -> tuple[tuple[int, int], ...]:
    """Return where a module's per-CPU variables are; nothing of one without."""
    start, size = sections.get(_PER_CPU), _section_sizes(file).get(_PER_CPU)
    return () if start is None or not size else ((start, start + size),)


def _section_sizes(file: Path) -> dict[str, int]:
    status = file.stat()
    return _read_section_sizes(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _read_section_sizes(file: Path, _modified: int, _size: int) -> dict[str, int]:
    elf = ElfFile(file)
    try:
        return elf.section_sizes()
    finally:
        elf.close()


def _overlap(ones: list[tuple[int, int, bool]], others: list[tuple[int, int, bool]]) -> bool:
    return any(
        is_init and start < other_end and other_start < end
        for start, end, is_init in ones
        for other_start, other_end, _ in others
    )
