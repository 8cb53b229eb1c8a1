"""The record of a kernel that is ready to boot."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..arch import Arch
from ._config import Config
from ._sources import NoSources, SourceFiles
from ._stop_layout import StopLayout

FACTS: Final = "kernel.json"
"""The file of a cache entry with facts about the kernel, so that no start opens the vmlinux."""

HEADERS: Final = "kit.tar.gz"
"""The file of a cache entry with the headers package: what a distribution calls linux-headers."""

_VERSION: Final = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Kernel:
    """A kernel: what boots, what gdb reads, and what it was built from."""

    spec: str
    """The SPEC that names it."""
    arch: Arch
    release: str
    """What `uname -r` prints."""
    version: tuple[int, int, int]
    """The release as three numbers, for comparisons."""
    vmlinux: Path
    """The ELF file with symbols and debug information."""
    image: Path
    """The image that QEMU boots."""
    config: Config
    """The `.config`: a path, and a mapping of its symbols."""
    build_id: str
    """The build id of vmlinux in hexadecimal digits; "" if it has none."""
    source: Path | None = field(repr=False, compare=False)
    """A directory with its source; None if it is not to be had.

    One in the cache is brought back to this kernel's source when this is first read, and stays so
    while this object lives. The user's own may be edited: what was compiled is in `sources`.
    """
    debug_source: Path | None
    """The source's path in the debug information, which may differ from `source`."""
    build_dir: Path | None
    """The user's build directory, to build modules against; None for a kernel that we built."""
    modules_dir: Path | None
    """`…/lib/modules/RELEASE`, None if it has no modules."""
    headers: Path | None
    """The packed headers to build external modules against; None if there is a `build_dir`."""
    compiler: str
    """The compiler's version."""
    key: str
    """Hash of all that it is built from."""
    name: str = ""
    """Its name for people: the SPEC, the revision that it stands for, the patches."""
    stop_layout: StopLayout | None = None
    """Where it has what is read of it at a stop; None if that is not known."""
    sources: SourceFiles = field(default_factory=NoSources, repr=False, compare=False)
    """The files that it was compiled from, as they were then."""
    inexact: tuple[str, ...] = ()
    """How its patches fit elsewhere, or not exactly; nothing of a kernel that was built before
    that was kept."""
    is_shipped: bool = False
    """Whether it is used as a distribution has built it."""
    guest_modules_dir: Path | None = None
    """The modules for the guest, where these are not those of `modules_dir`: signed, stripped."""
    source_prefixes: tuple[str, ...] = ()
    """Further directories that the debug information has for the source."""
    make_headers: Callable[[], Path] | None = field(default=None, repr=False, compare=False)
    """Returns the directory to build external modules against, where it is made when needed."""
    source_lock: object = field(default=None, repr=False, compare=False)
    """`source` does not change for as long as something refers to this."""
    find_source: Callable[[], tuple[Path | None, object]] | None = field(
        default=None, repr=False, compare=False
    )
    """Returns `source` and its lock, where that takes time."""

    def __post_init__(self) -> None:
        if self.source is None and self.find_source is not None:
            object.__delattr__(self, "source")  # so that it is asked for below

    if not TYPE_CHECKING:  # which would take any name for an attribute

        def __getattr__(self, name: str) -> object:
            if name != "source" or self.find_source is None:
                raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
            source, lock = self.find_source()
            object.__setattr__(self, "source", source)
            object.__setattr__(self, "source_lock", lock)
            return source

    @property
    def guest_modules(self) -> Path | None:
        """The modules that a guest gets, None if there are none."""
        return self.guest_modules_dir or self.modules_dir


def headers_name(key: str) -> str:
    """Return the name of the work directory in which a kernel's headers package is unpacked."""
    return f"kit-{key[:40]}"  # names in the cache stay as earlier versions wrote them


def numbers(release: str) -> tuple[int, int, int]:
    """Return the three numbers of a release; those that are missing are 0."""
    match = _VERSION.match(release)
    if match is None:
        return (0, 0, 0)
    return (int(match[1]), int(match[2]), int(match[3] or 0))
