"""Which line an instruction is of, in the kernel and in a module."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_kgdb.elf import ElfFile
from pytest_kgdb.kernel import NoSources
from pytest_kgdb.modules import KernelSourceText, LoadedModule

SOURCE = "int counter;\nint first(int n)\n{\n\treturn counter += n;\n}\n"
TEXT = 0xFFFFFFFFA0000000


class Registry:
    """One loaded module, or none."""

    module: LoadedModule | None = None

    def at(self, address: int) -> tuple[LoadedModule, bool] | None:
        if self.module is None or not TEXT <= address < TEXT + 0x1000:
            return None
        return self.module, False


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "first.c"
    path.write_text(SOURCE)
    return path


def text(registry: Registry, vmlinux: Path) -> KernelSourceText:
    return KernelSourceText(NoSources("gone"), registry, vmlinux.parent, vmlinux)  # type: ignore[arg-type]


def compiled(source: Path, *options: str) -> Path:
    target = source.with_suffix(".out")
    argv = ["gcc", "-g", "-O1", *options, "-o", str(target), str(source)]
    subprocess.run(argv, check=True, timeout=60)
    return target


def test_of_the_kernel(registry: Registry, source: Path) -> None:
    vmlinux = compiled(source, "-shared", "-fPIC")
    (address,) = (
        symbol[2] for symbol in ElfFile(vmlinux).function_symbols() if symbol[0] == "first"
    )
    kernel = text(registry, vmlinux)
    assert kernel.line(str(source), address) == 4
    assert kernel.line(f"./{source.name}", address) == 4, "as a tree built in place has it"
    assert kernel.line("/elsewhere/first.c", address) is None, "of another file of that name"
    assert kernel.line("/usr/include/first.h", address) is None
    assert kernel.line(str(source), 1 << 40) is None


def test_of_a_module(registry: Registry, source: Path) -> None:
    """Two sections begin at the address: the first one is empty."""
    module = compiled(source, "-c")
    sections = {".text.unlikely": TEXT, ".text": TEXT, ".data": TEXT + 0x800}
    registry.module = LoadedModule("first", 0, module, sections, [])
    kernel = text(registry, source.parent / "no-vmlinux")
    assert kernel.line(str(source), TEXT) == 4
    registry.module.sections = {".data": TEXT + 0x800}
    assert kernel.line(str(source), TEXT) is None


def test_of_a_file_without_lines(registry: Registry, source: Path) -> None:
    assert text(registry, compiled(source, "-shared", "-fPIC", "-g0")).line(str(source), 0) is None
