"""The log of a kernel that boots, read from guest RAM before there is a console."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import KgdbError
from ..kernel import Vmlinux
from ..klog import PANIC_WORDS, LogLine, log_panic
from ._placement import START_KERNEL_MAP, Placement, ReadFunction, place
from ._printk import PrintkLayout, PrintkRing
from ._ram import Ram, ram_layout
from ._vmcoreinfo import make_vmcoreinfo

__all__ = ["EarlyLog"]

_BIGGEST: Final = 1 << 25  # kernel/printk/printk.c, LOG_BUF_LEN_MAX is 1 << 31, for a server's CPUs
_PANIC: Final = re.compile(rb"(?<!end )%b: ([^\0\n]+)" % PANIC_WORDS.encode())


class EarlyLog:
    """The log buffer of a kernel that may have no page tables and no console yet.

    Addresses in the kernel's image and in its direct map are translated without page tables. It
    may be read while the kernel runs: records that are being written are left out.

    :param vmlinux: the kernel with its symbols and debug information.
    :param ram: the file of the guest's RAM, which outlives QEMU.
    :param memory_bytes: the size of the RAM.
    :param machine: QEMU's machine type, which determines where in the guest the RAM is.
    """

    def __init__(self, vmlinux: Path, ram: BinaryIO, memory_bytes: int, machine: str) -> None:
        self._vmlinux = Vmlinux(vmlinux)
        self._ram = Ram(ram, ram_layout(memory_bytes, machine))
        self._layout: PrintkLayout | None = None

    def close(self) -> None:
        """Unmap the RAM. Idempotent."""
        self._vmlinux.close()
        self._ram.close()

    def panic(self) -> str | None:
        """Return the reason of a panic that is in the log; None if there is none.

        As long as there is none it takes a fraction of a millisecond, for it is asked again and
        again: the text is searched as it is, and a kernel at another address than it was linked
        for is not looked for.
        """
        with contextlib.suppress(KgdbError):
            if not self._is_linked_here():
                return None
            placement, _ = place(self._vmlinux, self._ram)
            read = _reader(self._ram, placement, 0)
            buffer, length = (self._vmlinux.need(name) for name in ("log_buf", "log_buf_len"))
            size = int.from_bytes(read(length, 4), "little")
            text = read(int.from_bytes(read(buffer, 8), "little"), min(size, _BIGGEST))
            if (match := _PANIC.search(text)) is None:
                return None
            # Behind the end of a text is what is left of a longer one.
            reasons = [log_panic(line.text) for line in self._log()]
            return next(filter(None, reasons), match[1].decode(errors="replace"))
        return None

    def _is_linked_here(self) -> bool:
        """Whether the kernel is unpacked, at the physical address that it was linked for."""
        banner = self._vmlinux.banner
        address = self._vmlinux.need("linux_banner") - START_KERNEL_MAP
        return self._ram.holds(address, len(banner)) and (
            self._ram.read(address, len(banner)) == banner
        )

    def lines(self) -> list[str]:
        """Return the lines of the log as dmesg(1) prints them; none where it cannot be read."""
        return [f"[{line.time:12.6f}] {line.text}" for line in self._log()]

    def _log(self) -> list[LogLine]:
        try:
            placement, shift = place(self._vmlinux, self._ram)
            read = _reader(self._ram, placement, shift)
            pointer = self._vmlinux.need("prb") + placement.offset
            if self._layout is None:
                self._layout = _layout(self._vmlinux, placement)
            ring = PrintkRing(read, int.from_bytes(read(pointer, 8), "little"), self._layout)
            return [line for record in ring.records() for line in record.lines()]
        except (KgdbError, LookupError, ValueError):
            return []  # there is no kernel in the RAM, or it is older than 5.10


def _layout(vmlinux: Vmlinux, placement: Placement) -> PrintkLayout:
    """Return the layout by the debug information: the kernel's own VMCOREINFO is made later."""
    import drgn

    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    program.set_linux_kernel_custom(make_vmcoreinfo(vmlinux, placement), is_live=False)
    main = program.main_module("kernel", create=True)
    if vmlinux.build_id:
        main.build_id = bytes.fromhex(vmlinux.build_id)
    main.try_file(vmlinux.path)
    return PrintkLayout.from_program(program)


def _reader(ram: Ram, placement: Placement, shift: int) -> ReadFunction:
    """Return what reads the image and the direct map.

    :param shift: how far the image is from the physical address that it was linked for.
    """

    def read(address: int, size: int) -> bytes:
        if address >= START_KERNEL_MAP:
            return ram.read(address - START_KERNEL_MAP + shift - placement.offset, size)
        return ram.read(address - placement.page_offset, size)

    return read
