"""The source of a stopped kernel's code, its modules' included."""

from __future__ import annotations

import contextlib
import os.path
from pathlib import Path

from ..dwarf import LineTables
from ..elf import ElfFile
from ..errors import ConfigError
from ..kernel import SourceArchive, SourceDirectory, SourceFiles
from ._registry import LoadedModule, ModuleRegistry

__all__ = ["KernelSourceText"]


class KernelSourceText:
    """Finds the text that an address was compiled from: the kernel's, or a loaded module's.

    :param kernel: the files that the kernel was compiled from, with the modules of its own tree.
    :param directory: for the files of modules, when gdb needs them.
    :param vmlinux: the kernel as it was linked.
    """

    def __init__(
        self, kernel: SourceFiles, registry: ModuleRegistry, directory: Path, vmlinux: Path
    ) -> None:
        self._kernel, self._registry, self._directory = kernel, registry, directory
        self._vmlinux = vmlinux
        self._modules: dict[Path, SourceFiles] = {}
        self._tables: dict[Path, LineTables] = {}

    def name(self, file: str) -> str:
        """Return a file's name, relative to the kernel's tree if it is in there."""
        return self._kernel.name(file)

    def read(self, file: str, address: int) -> bytes:
        """Return the content of the file that an address was compiled from.

        :raises KgdbError: it is not available.
        """
        place = self._registry.at(address)
        if place is None or not Path(self.name(file)).is_absolute():
            return self._kernel.read(file)
        return self.of_module(place[0]).read(file)

    def line(self, file: str, address: int) -> int | None:
        """Return the line of an instruction; None where it cannot be found, or is another file's.

        :param file: as the debug info has it, of the compilation unit that the instruction is in;
            not a header, which hundreds of units have.
        """
        if file.endswith(".h"):
            return None
        place = self._registry.at(address)
        path, offset, sections = self._vmlinux, address, [""]
        if place is not None:
            path = place[0].file
            by_name = place[0].sections
            start = max((at for at in by_name.values() if at <= address), default=address)
            offset, sections = address - start, [n for n, at in by_name.items() if at == start]
        tables = self._tables.setdefault(path, LineTables(ElfFile(path)))
        with contextlib.suppress(ConfigError):  # of a file without line tables
            for section in sections:
                row = tables.line_at(Path(file).name, section, offset)
                if row is not None and _is_same(row[0], file):
                    return row[1]
        return None

    def of_module(self, module: LoadedModule) -> SourceFiles:
        """Return the files that a module was compiled from."""
        path = module.file
        if path not in self._modules:
            if SourceArchive.is_in(path.parent):
                directory = self._directory / f"module-{len(self._modules)}"
                files: SourceFiles = SourceArchive(path.parent, module.name, directory)
            else:  # built by the user
                files = SourceDirectory(Path("/"), compiled=path.stat().st_mtime)
            self._modules[path] = files
        return self._modules[path]

    def substitutions(self, module: LoadedModule) -> list[tuple[Path, Path]]:
        """Return the directories of a module's source, and where gdb is to read it instead."""
        files = self.of_module(module)
        if not isinstance(files, SourceArchive):
            return []
        files.unpack()
        directories = sorted({Path(name).parent for name in files.files if name.startswith("/")})
        return [(path, files.directory / path.relative_to("/")) for path in directories]

    @property
    def is_local(self) -> bool:
        """Whether the kernel's files are on this host, so that nothing is downloaded for them."""
        return self._kernel.is_local

    def unpack(self) -> None:
        """Make the kernel's files available to gdb."""
        self._kernel.unpack()


def _is_same(path: str, file: str) -> bool:
    """Return whether a normal path is that of a file whose name may be a relative one."""
    name = os.path.normpath(file)
    return path == name or (not name.startswith("/") and path.endswith(f"/{name.lstrip('./')}"))
