"""Names that several parts of the plugin share."""

from __future__ import annotations

from typing import Final

__all__ = ["FIXTURES", "MACHINES", "NO_KERNEL"]

FIXTURES: Final = frozenset({"kgdb", "kgdb_session", "kgdb_kernel", "kgdb_initrd", "kgdb_disk"})
"""A test with one of these in its closure is a kernel test."""

MACHINES: Final = frozenset({"kgdb", "kgdb_session"})
"""Those with which a test has a running kernel."""

NO_KERNEL: Final = (
    "no kernel to test: name one with --kgdb-kernel=SPEC (a source tree, a build directory, a "
    "tarball, or distro), or kgdb_kernel in pytest's configuration file"
)
"""Why kernel tests are skipped, and what to do about it."""
