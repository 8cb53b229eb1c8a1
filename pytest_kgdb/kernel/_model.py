"""A kernel that is ready to be booted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..arch import Arch
from ._config import Config
from ._kgdb_layout import KgdbLayout

_VERSION: Final = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Kernel:
    """A kernel: what is booted, what gdb reads, and what it was made from."""

    spec: str
    """What the user called it."""
    arch: Arch
    release: str
    """What `uname -r` says."""
    version: tuple[int, int, int]
    """Its numbers, to compare with."""
    vmlinux: Path
    """The ELF file with symbols and debug information."""
    image: Path
    """What QEMU boots."""
    config: Config
    """The `.config`: a path, and a mapping of its symbols."""
    build_id: str
    """Of vmlinux, in hexadecimal digits; "" if it has none."""
    source: Path | None
    """The source that it was built from, as far as it still is there."""
    debug_source: Path | None
    """The directory by which its debug information calls the source, which may be another one."""
    build_dir: Path | None
    """A built directory of the user's, to build modules against; None where we built."""
    modules_dir: Path | None
    """`…/lib/modules/RELEASE`, None if it has no modules."""
    kit: Path | None
    """What external modules are built against, packed; None where there is a `build_dir`."""
    compiler: str
    """What compiled it."""
    key: str
    """Hash of all that it is made of."""
    kgdb_layout: KgdbLayout | None = None
    """Where the variables of its debugger are; None if it was built without kgdb."""
    held: object = field(default=None, repr=False, compare=False)
    """Keeps `source` from being changed, for as long as somebody refers to the kernel."""


def numbers(release: str) -> tuple[int, int, int]:
    """Return a release's three numbers, 0 for those that it does not have."""
    match = _VERSION.match(release)
    if match is None:
        return (0, 0, 0)
    return (int(match[1]), int(match[2]), int(match[3] or 0))
