"""Booting a kernel until it waits for its debugger, and what the console shows if it will not."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from typing import Final

from ..errors import BootError, KgdbError, MachineDied, TimeoutError
from ..klog import PANIC_END, console_panic
from ._command import kernel_command_line
from ._machine import Machine

__all__ = ["boot_to_kgdbwait", "check_boot"]

# kernel/debug/debug_core.c, kgdb_initial_breakpoint and its callers: gdb may connect from then on.
_KGDB_WAITS: Final = re.compile(rb"KGDB: Waiting for connection from remote gdb")

_PANIC_SECONDS: Final = 2.0  # that a panicking kernel has to print its last line

# src/boot.c of SeaBIOS, do_boot
_NO_BOOT: Final = re.compile(rb"Boot failed: [^\r\n]+(?=[\r\n])|No bootable device")

# init/main.c, run_init_process. kgdboc waits while the drivers are initialised, which is before.
_INIT: Final = re.compile(rb"\] Run \S+ as init process")


def boot_to_kgdbwait(machine: Machine, timeout: float | None = None) -> None:
    """Let the machine run until the kernel waits for its debugger.

    :param timeout: seconds.
    :raises BootError: it did not; the message has the console's last lines.
    """
    timeout = machine.waits.of(timeout)
    machine.cont()
    try:
        machine.console.wait_for(
            _KGDB_WAITS, mark=0, timeout=timeout, meanwhile=lambda: check_boot(machine)
        )
    except TimeoutError as error:
        raise BootError(
            f"the kernel did not reach kgdb in {timeout:g} s\n"
            f"the console's last lines are:\n{machine.console.tail(15)}",
            log=machine.console.log,
            hint=_loaders(machine)
            or "does it have CONFIG_KGDB_SERIAL_CONSOLE, and does it boot at all with "
            "these parameters? A slow host wants a larger --kgdb-timeout",
        ) from error
    except MachineDied as error:
        raise machine.death("QEMU ended before the kernel reached kgdb") from error


def _loaders(machine: Machine) -> str | None:
    """Return the hint for images with their own boot loader; None for other machines."""
    if machine.spec.image is not None or machine.spec.boot_area is not None:
        return None
    return (
        "with --kgdb-boot=disk, the image's own boot loader must start a kernel with "
        f"{kernel_command_line(replace(machine.spec, disk=None))!r} (docs/disk.md)"
    )


def check_boot(machine: Machine) -> None:
    """Check that the console shows nothing that rules out that the kernel comes up.

    :raises BootError: it does.
    """
    if machine.spec.image is None and (match := _NO_BOOT.search(machine.console.since())):
        raise BootError(
            f"the BIOS found nothing to start on the disk: {match[0].decode()}\n"
            f"the console's last lines are:\n{machine.console.tail(15)}",
            log=machine.console.log,
            hint="is there a boot loader for a BIOS, not for UEFI alone, in its first sector? "
            "Without --kgdb-boot=disk QEMU loads the kernel",
        )
    if machine.spec.stub == "kgdb" and _INIT.search(machine.console.since()):
        raise BootError(
            "the kernel started init without having waited for a debugger\n"
            f"the console's last lines are:\n{machine.console.tail(15)}",
            log=machine.console.log,
            hint=_loaders(machine)
            or "something in its parameters (--kgdb-append) or its configuration keeps "
            f"kgdboc={machine.spec.arch.kgdb} or kgdbwait from working",
        )
    reason = console_panic(machine.console.since(), whole=True)
    if reason is not None:
        with contextlib.suppress(KgdbError):  # the rest of its lines
            machine.console.wait_for(PANIC_END, mark=0, timeout=_PANIC_SECONDS)
        raise BootError(
            f"the kernel panicked before kgdb was up: {reason}\n"
            f"the console's last lines are:\n{machine.console.tail(15)}",
            log=machine.console.log,
        )
