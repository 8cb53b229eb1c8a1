"""What a person is shown of a machine: the commands that run it, and where its kernel is."""

from __future__ import annotations

import contextlib
import shlex
from typing import TYPE_CHECKING

from ..errors import KgdbError
from ..machine import by_hand, storage_by_hand

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ._vm import Vm

__all__ = ["commands", "sections"]


def commands(vm: Vm, kernel: Kernel) -> list[str]:
    """Return what a person would type to go on without us."""
    return [
        "the same by hand:",
        *(shlex.join(command) for command in storage_by_hand(vm.spec)),
        shlex.join(by_hand(vm.spec)),
        "socat - unix-connect:console    # in another terminal",
        f"gdb -ex 'target remote {vm.spec.stub}' {kernel.vmlinux}",
    ]


def sections(vm: Vm, mark: int) -> list[tuple[str, str]]:
    """Return what a failed test's report shows of the kernel, gdb and the console.

    :param mark: where on the console the test began.
    """
    text = vm.machine.console.since(mark).decode("utf-8", "replace")
    shown = [("kgdb: console since the test began", text)]
    conversation = vm.gdb.tail(40)  # before gdb is asked for the report itself
    with contextlib.suppress(KgdbError):
        splats = vm.attachment.splats.pending()
        shown.append(("kgdb: splats", "\n\n".join(splat.symbolised for splat in splats)))
    with contextlib.suppress(KgdbError):
        shown.append(("kgdb: where the kernel is", _where(vm)))
    shown.append(("kgdb: gdb's conversation, its end", conversation))
    return shown


def _where(vm: Vm) -> str:
    if not vm.machine.alive:
        return "gone: QEMU has ended"
    attachment = vm.attachment
    if not vm.gdb.alive:
        stacks = attachment.cpu_stacks.read()
        return f"gdb has ended and cannot be asked; what the kernel's CPUs do:\n{stacks}"
    if not attachment.run_control.stopped:
        return f"running; what its CPUs do:\n{attachment.cpu_stacks.read()}"
    stop = attachment.run_control.stop
    assert stop is not None
    lines = [repr(stop)]
    for frame in stop.backtrace(limit=20):
        lines.append(str(frame))
        with contextlib.suppress(KgdbError):
            if frame.level < 3:
                lines.append(frame.source(context=2))
    return "\n".join(lines)
