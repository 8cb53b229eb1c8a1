"""Kernels that something else than QEMU's loader has started: found, and recognised."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ..deadline import WaitLimit
from ..debugger import evaluate
from ..errors import BootError, DebuggerDied, KgdbError, MachineDied
from ..kernel import Vmlinux
from ..machine import boot_death, check_boot, kernel_command_line, last_lines
from ..rsp import QemuStub

if TYPE_CHECKING:
    from ..debugger import Debugger
    from ..handle import Attachment
    from ..kernel import Kernel
    from ..machine import BootLog, Machine

__all__ = ["check_image_kernel", "missing_parameters", "run_to_start_kernel"]

# Without these the debugger does not work (machine.kernel_command_line).
_NEEDED = ("nokaslr", "rodata=off")


def run_to_start_kernel(machine: Machine, kernel: Kernel, waits: WaitLimit, log: BootLog) -> None:
    """Run a machine until the kernel's first function in C, by QEMU's stub.

    :param log: the kernel's log, for what it does not print on the console.
    :raises BootError: it never came there.
    """
    timeout = waits.seconds

    def patience(seconds: float) -> bool:
        check_boot(machine, log, "before start_kernel had begun")
        if seconds < timeout:
            return True
        raise BootError(
            f"the kernel did not reach start_kernel in {timeout:g} s\n{last_lines(machine, log)}",
            log=machine.console.log,
            hint="is it one for this machine? A slow host wants a larger --kgdb-timeout",
            late=True,
        )

    # A debug register's, for there is no kernel in memory yet.
    stub = QemuStub(machine.connect_stub, waits=waits)
    try:
        stub.run_to(Vmlinux(kernel.vmlinux).need("start_kernel"), patience)
    except (MachineDied, ConnectionError) as error:
        what = "QEMU ended before the kernel reached start_kernel"
        raise boot_death(machine, what, log) from error


@contextlib.contextmanager
def check_image_kernel(
    attachment: Callable[[], Attachment], kernel: Kernel, machine: Machine
) -> Iterator[None]:
    """Around connecting to a kernel that an image has booted: check that gdb knows it.

    :param attachment: returns the attachment, once there is one.
    :raises BootError: it is not, or cannot be debugged as it was booted.
    """
    hint = (
        f"install in the image what was built ({kernel.image}, {kernel.modules_dir}), and have "
        f"its boot loader give it {kernel_command_line(replace(machine.spec, disk=None))!r}"
    )
    try:
        yield
    except (MachineDied, DebuggerDied):
        raise
    except KgdbError as error:  # nothing of it is where it should be
        raise _another(kernel, machine, hint) from error
    if not _has_build_id(attachment(), kernel):
        raise _another(kernel, machine, hint)
    if machine.spec.stub == "qemu":
        return  # which needs no more than symbols that are where they say
    if missing := missing_parameters(attachment().debugger):
        line = evaluate(attachment().debugger, "saved_command_line").string()
        raise BootError(
            f"the image's boot loader gives its kernel no {' and no '.join(missing)}: {line}",
            log=machine.console.log,
            hint=hint,
        )


def missing_parameters(debugger: Debugger) -> list[str]:
    """Return the parameters that kgdb needs, and that the kernel was not given."""
    words = evaluate(debugger, "saved_command_line").string().split()
    return [word for word in _NEEDED if word not in words]


def _another(kernel: Kernel, machine: Machine, hint: str) -> BootError:
    return BootError(
        f"the kernel in the image is not {kernel.spec}: its build id is not {kernel.build_id}; or "
        f"it was loaded elsewhere than linked, without nokaslr\n"
        f"the console's last lines are:\n{machine.console.tail(15)}",
        log=machine.console.log,
        hint=hint,
    )


def _has_build_id(attachment: Attachment, kernel: Kernel) -> bool:
    if not kernel.build_id:
        return True  # nothing to go by
    try:
        # include/asm-generic/vmlinux.lds.h, NOTES
        start, stop = attachment.debugger.numbers(
            "(unsigned long)&__start_notes", "(unsigned long)&__stop_notes"
        )
        return bytes.fromhex(kernel.build_id) in attachment.memory.read(start, stop - start)
    except KgdbError:
        return False
