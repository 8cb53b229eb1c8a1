"""A kernel as somebody else built and shipped it: the parts of it, checked against each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..arch import from_elf_machine
from ..cache import Cache
from ..elf import ElfFile
from ..errors import ConfigError
from ._config import Config, missing, stub_for
from ._image import image_build_id, image_release
from ._model import Kernel, numbers
from ._sources import SourceFiles
from ._stop_layout import stop_layout
from ._vmlinux import Vmlinux

__all__ = ["Facts", "Parts", "as_kernel", "compiler_of", "load_facts", "read_facts"]

# debian/rules.d, uploader's part of UTS_VERSION: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (DATE)".
_IN_BANNER: Final = re.compile(rb" Debian (\d+\.\d+\.\d+)[^ ]* \(")

# A file that every kernel of x86 has, and that is named by its whole path.
_ASSEMBLED: Final = re.compile(rb"\0(/[^\0]+)/arch/x86/kernel/head_64\.S(?=\0)")
_BUILD_DIRECTORY: Final = re.compile(rb"\0((?:/[^\0]+/)?debian/build/build[^\0/]*)(?=\0)")


class Parts(NamedTuple):
    """Where the parts of a shipped kernel are."""

    image: Path
    vmlinux: Path
    config: Path
    modules: Path | None
    """The modules as shipped: without debug information, signed."""
    debug_modules: Path | None
    """The same modules with debug information; None where there is none apart."""


class Facts(NamedTuple):
    """What takes time to find out about a shipped kernel."""

    machine: str
    release: str
    version: tuple[int, int, int]
    """Of the kernel's source: Debian's release is 6.1.0-56 for that of 6.1.192."""
    build_id: str
    source_prefixes: tuple[str, ...]
    """Where its source was when it was built, as far as the debug information says."""


def read_facts(image: Path, vmlinux: Path, what: str) -> Facts:
    """Read the facts, and check that the image and the debug symbols are of one build.

    :param what: the kernel's name, for errors.
    :raises ConfigError: they are not, or one of them cannot be read.
    """
    with ElfFile(vmlinux) as elf:
        machine, build_id = elf.machine, elf.build_id
        from_elf_machine(machine)  # others are not read further
    release = image_release(image)
    if not release:
        raise ConfigError(f"{what}: {image} is not an image that QEMU can boot (a bzImage)")
    of_image = image_build_id(image)
    if not build_id or not of_image:
        # Wrong symbols would give wrong values, and nothing else could tell.
        lacks = vmlinux if not build_id else image
        raise ConfigError(
            f"{what}: whether {vmlinux.name} and {image.name} are of one build cannot be told: "
            f"{lacks} has no build id that can be read",
            hint="is the program installed that its compression needs (zstd, lz4, lzop)?"
            if build_id
            else None,
        )
    if build_id != of_image:
        raise ConfigError(
            f"{what}: the debug symbols are of another build: the build id of {vmlinux} is "
            f"{build_id}, that of {image} {of_image}",
            hint="take the debug symbols of the same version as the image",
        )
    return Facts(machine, release, _version(vmlinux), build_id, _source_prefixes(vmlinux))


def as_kernel(
    spec: str,
    name: str,
    key: str,
    parts: Parts,
    facts: Facts,
    cache: Cache,
    *,
    stub: str,
    sources: SourceFiles,
    source: Path | None = None,
    build_dir: Path | None = None,
    make_headers: Callable[[], Path] | None = None,
) -> Kernel:
    """Return the record of a shipped kernel.

    :param stub: whose stub gdb is to be attached to; `kgdb` must be in the kernel.
    :param sources: the files that it was compiled from.
    :param source: the directory with them, if it is there.
    :param build_dir: the directory to build external modules against.
    :param make_headers: returns it, where it is made when needed.
    :raises ConfigError: it was built without something that it must have.
    """
    config = Config(parts.config)
    if lacking := missing(config.symbols, kgdb=stub_for(stub, config.symbols) == "kgdb"):
        names = "\n".join(f"  CONFIG_{symbol}=y ({use})" for symbol, use in lacking.items())
        without_kgdb = not missing(config.symbols, kgdb=False)
        raise ConfigError(
            f"{name} was built without\n{names}",
            hint="leave --kgdb-stub out: QEMU's stub needs no kgdb in the kernel"
            if without_kgdb
            else "build a kernel: --kgdb-kernel=distro, or a source tree",
        )
    return Kernel(
        spec=spec,
        name=name,
        arch=from_elf_machine(facts.machine),
        release=facts.release,
        version=facts.version,
        vmlinux=parts.vmlinux,
        image=parts.image,
        config=config,
        build_id=facts.build_id,
        source=source,
        debug_source=Path(facts.source_prefixes[0]) if facts.source_prefixes else None,
        source_prefixes=facts.source_prefixes[1:],
        build_dir=build_dir,
        modules_dir=parts.debug_modules or parts.modules,
        guest_modules_dir=parts.modules,
        headers=None,
        compiler=config.get("CONFIG_CC_VERSION_TEXT", ""),
        key=key,
        stop_layout=stop_layout(parts.vmlinux, key, cache),
        sources=sources,
        is_shipped=True,
        make_headers=make_headers,
    )


def compiler_of(kernel: Kernel) -> str:
    """Return the program that a kernel was compiled with, as `gcc-12`; "" if it does not say."""
    words = kernel.compiler.split()
    return words[0] if words and re.fullmatch(r"[\w.+-]*(?:gcc|clang)[\w.+-]*", words[0]) else ""


def load_facts(values: Mapping[str, Any]) -> Facts:
    """Return facts from what JSON has made of them."""
    lists = ("version", "source_prefixes")
    return Facts(**{**values, **{name: tuple(values[name]) for name in lists}})


def _version(vmlinux: Path) -> tuple[int, int, int]:
    """Return the source's version: linux_banner of Debian ends with that of the package."""
    kernel = Vmlinux(vmlinux)
    try:
        match = _IN_BANNER.search(kernel.banner)
        return numbers(match[1].decode() if match else kernel.release)
    finally:
        kernel.close()


def _source_prefixes(vmlinux: Path) -> tuple[str, ...]:
    """Return the directories of the source in the debug information, the source's own first.

    Debian maps its C files' names to relative ones (dpkg-buildflags, reproducible=+fixfilepath),
    with the build directory in place of the source; its assembler files have absolute names.
    """
    with ElfFile(vmlinux) as elf:
        names = b"\0" + elf.section_bytes(".debug_str") + elf.section_bytes(".debug_line_str")
    roots = {match[1].decode(errors="replace"): None for match in _ASSEMBLED.finditer(names)}
    builds = dict.fromkeys(
        match[1].decode(errors="replace") for match in _BUILD_DIRECTORY.finditer(names)
    )
    for root in roots:
        # The linker keeps a string that is another one's end within that one.
        builds |= {name.removeprefix(f"{root}/"): None for name in builds}
    return (*roots, *(name for name in builds if name not in roots))
