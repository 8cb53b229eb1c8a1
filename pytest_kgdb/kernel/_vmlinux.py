"""A kernel's vmlinux."""

from __future__ import annotations

import re
from functools import cached_property

from ..elf import ElfFile
from ..errors import ConfigError


class Vmlinux(ElfFile):
    """The symbol table and the initial contents of a kernel image with debug information.

    :raises ConfigError: when something is read, and the file is not a 64-bit little-endian ELF file
        with a symbol table.
    """

    def _unusable(self, why: str) -> ConfigError:
        return ConfigError(
            f"cannot read the kernel's symbols from {self.path}: {why}",
            hint="this must be the uncompressed vmlinux of the build, with its symbol table",
        )

    @cached_property
    def banner(self) -> bytes:
        """`linux_banner` (init/version.c) with its terminator, which differs between builds."""
        text = self.contents(self.need("linux_banner"), 4096)
        return text[: text.index(b"\0") + 1]

    @cached_property
    def release(self) -> str:
        """What `uname -r` prints on this kernel."""
        match = re.match(rb"Linux version (\S+)", self.banner)
        if match is None:
            raise self._unusable(f"its linux_banner is {self.banner[:40]!r}")
        return match[1].decode()
