"""Booting a kernel until it waits for its debugger, and what the console shows if it will not."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import replace
from typing import Final, Protocol

from ..deadline import Deadline
from ..errors import BootError, KgdbError, MachineDied, TimeoutError
from ..escape import clean
from ..klog import PANIC_END, PANIC_END_WORDS, console_panic
from ._command import kernel_command_line
from ._machine import Machine

__all__ = ["BootLog", "boot_death", "boot_to_kgdbwait", "check_boot", "last_lines"]

# kernel/debug/debug_core.c, kgdb_initial_breakpoint and its callers: gdb may connect from then on.
# On a busy host the kernel loses characters: it waits 10 ms for a UART to take one
# (drivers/tty/serial/8250/8250_port.c, wait_for_lsr). Either half of the line is enough.
_WAITS_WORDS: Final = "KGDB: Waiting"
_KGDB_WAITS: Final = re.compile(rb"(?:KGDB: Waiting|from remote gdb)[^\n]*\n")

_LINES: Final = 15  # of the console, in an error
_LOG_LINES: Final = 25  # of a panic in the log, with its registers and its stack
_LOOK_SECONDS: Final = 0.05
_PANIC_SECONDS: Final = 2.0  # that a panicking kernel has to print its last line

# src/boot.c of SeaBIOS, do_boot
_NO_BOOT: Final = re.compile(rb"Boot failed: [^\r\n]+(?=[\r\n])|No bootable device")

# init/main.c, run_init_process. kgdboc waits while the drivers are initialised, which is before.
_INIT: Final = re.compile(rb"\] Run \S+ as init process")

# init/initramfs.c, do_populate_rootfs and xwrite: rootfs takes half of the memory at the most.
_NO_ROOM: Final = re.compile(rb"Initramfs unpacking failed: write error")


class BootLog(Protocol):
    """The kernel's log in the guest's memory, which is there before a console is."""

    def panic(self) -> str | None:
        """Return the reason of a panic that is in it; None if there is none."""

    def lines(self) -> list[str]:
        """Return its lines, oldest first; none where it cannot be read."""


def boot_to_kgdbwait(
    machine: Machine, timeout: float | None = None, log: BootLog | None = None
) -> None:
    """Let the machine run until the kernel waits for its debugger.

    :param timeout: seconds.
    :param log: the kernel's log, for what it does not print on the console.
    :raises BootError: it did not; the message has the console's last lines.
    """
    timeout = machine.waits.of(timeout)
    machine.cont()
    try:
        if machine.spec.begins_early and log is not None:
            _wait_in_log(machine, log, Deadline(timeout))
        else:
            machine.console.wait_for(
                _KGDB_WAITS, mark=0, timeout=timeout, meanwhile=lambda: check_boot(machine, log)
            )
    except TimeoutError as error:
        raise BootError(
            f"the kernel did not reach kgdb in {timeout:g} s\n{last_lines(machine, log)}",
            log=machine.console.log,
            hint=_loaders(machine)
            or "does it have CONFIG_KGDB_SERIAL_CONSOLE, and does it boot at all with "
            "these parameters? A slow host wants a larger --kgdb-timeout",
            late=True,
        ) from error
    except MachineDied as error:
        raise boot_death(machine, "QEMU ended before the kernel reached kgdb", log) from error


def _wait_in_log(machine: Machine, log: BootLog, deadline: Deadline) -> None:
    """Wait until the kernel's log says that it waits; the console's driver is not there yet."""
    while not any(_WAITS_WORDS in line for line in log.lines()):
        check_boot(machine, log)
        if not machine.alive:
            raise MachineDied("QEMU has ended")
        if deadline.expired:
            raise TimeoutError("the kernel does not wait for a debugger")
        time.sleep(_LOOK_SECONDS)


def boot_death(machine: Machine, what: str, log: BootLog | None) -> MachineDied:
    """Return the error for a QEMU that ended while the kernel booted.

    :param what: the beginning of the message: what happened.
    :param log: the kernel's log; the RAM outlives QEMU.
    """
    death = machine.death(what)
    hint = death.hint
    if machine.child.poll() == 0:
        hint = "the kernel has reset the machine, by itself or by a fault in a fault's handler"
    return MachineDied(f"{death.message}\n{last_lines(machine, log)}", log=death.log, hint=hint)


def _loaders(machine: Machine) -> str | None:
    """Return the hint for images with their own boot loader; None for other machines."""
    if machine.spec.image is not None or machine.spec.boot_area is not None:
        return None
    return (
        "with --kgdb-boot=disk, the image's own boot loader must start a kernel with "
        f"{kernel_command_line(replace(machine.spec, disk=None))!r} (docs/disk.md)"
    )


def last_lines(machine: Machine, log: BootLog | None) -> str:
    """Return the console's last lines; those of the kernel's log where the console lacks them.

    :param log: the kernel's log; None if it cannot be read.
    """
    printed = machine.console.since()
    if log is not None and (not printed.strip() or (log.panic() and not console_panic(printed))):
        lines = log.lines()
        if lines:
            shown = clean("\n".join(f"    {line}" for line in lines[-_LOG_LINES:]))
            return f"not on its console, but in its memory, the kernel's last lines are:\n{shown}"
    return f"the console's last lines are:\n{machine.console.tail(_LINES)}"


def _wait_for_end(log: BootLog) -> None:
    """Wait until the last line of a panic is in the log."""
    deadline = Deadline(_PANIC_SECONDS)
    while not deadline.expired and not any(PANIC_END_WORDS in line for line in log.lines()):
        time.sleep(_LOOK_SECONDS)


def check_boot(
    machine: Machine, log: BootLog | None = None, when: str = "before kgdb was up"
) -> None:
    """Check that nothing rules out that the kernel comes up.

    :param when: what it is on the way to, for the message of a panic.
    :param log: the kernel's log, for what it does not print on the console.
    :raises BootError: it does.
    """
    if machine.spec.image is None and (match := _NO_BOOT.search(machine.console.since())):
        raise BootError(
            f"the BIOS found nothing to start on the disk: {match[0].decode()}\n"
            f"the console's last lines are:\n{machine.console.tail(_LINES)}",
            log=machine.console.log,
            hint="is there a boot loader for a BIOS, not for UEFI alone, in its first sector? "
            "Without --kgdb-boot=disk QEMU loads the kernel",
        )
    if machine.spec.stub == "kgdb" and _INIT.search(machine.console.since()):
        raise BootError(
            "the kernel started init without having waited for a debugger\n"
            f"the console's last lines are:\n{machine.console.tail(_LINES)}",
            log=machine.console.log,
            hint=_loaders(machine)
            or "something in its parameters (--kgdb-append) or its configuration keeps "
            f"kgdboc={machine.spec.arch.kgdb} or kgdbwait from working",
        )
    if _NO_ROOM.search(machine.console.since()):
        raise BootError(
            f"the initrd, unpacked, does not fit into the guest's memory of "
            f"{machine.spec.memory} MiB\n{last_lines(machine, log)}",
            log=machine.console.log,
            hint=f"give it more: --kgdb-memory={2 * machine.spec.memory}",
        )
    reason = console_panic(machine.console.since(), whole=True) or (log and log.panic())
    if reason:
        if log is not None and not machine.console.since().strip():
            _wait_for_end(log)
        else:
            with contextlib.suppress(KgdbError):  # the rest of its lines
                machine.console.wait_for(PANIC_END, mark=0, timeout=_PANIC_SECONDS)
        raise BootError(
            f"the kernel panicked {when}: {clean(reason)}\n{last_lines(machine, log)}",
            log=machine.console.log,
            by_kernel=True,
        )
