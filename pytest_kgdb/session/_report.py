"""What a person is shown of a machine: the commands that run it, and where its kernel is."""

from __future__ import annotations

import contextlib
import re
import shlex
from typing import TYPE_CHECKING, Final

from ..errors import KgdbError
from ..machine import by_hand, storage_by_hand

if TYPE_CHECKING:
    from ..debugger import Frame, Stop
    from ..kernel import Kernel
    from ._vm import Vm

# arch/x86/include/asm/idtentry.h: how an interrupt or an exception enters the kernel.
_ENTRY: Final = re.compile(
    r"(?:asm_)?(?:common_interrupt|sysvec_|exc_|irqentry_)\w*$|ret_from_intr$"
)

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


def _interrupted(stop: Stop) -> list[Frame]:
    """Return the frames of a stop; of an interrupt, those of what it interrupted."""
    frames = stop.backtrace(limit=40)
    if stop.reason == "interrupt":
        entries = [
            number for number, frame in enumerate(frames, 1) if _ENTRY.match(frame.function or "")
        ]
        frames = frames[entries[-1] if entries else len(frames) :]
    return frames[:20]


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
    if stop.reason == "interrupt":
        # Who waits is to be known; the interrupt's own way into the debugger is not.
        with contextlib.suppress(KgdbError):
            lines.append(f"on CPU {stop.cpu}: task {stop.task.pid} ({stop.task.comm})")
            lines += attachment.memory.blocked_tasks(vm.kernel.debug_source)
    for frame in _interrupted(stop):
        lines.append(str(frame))
        with contextlib.suppress(KgdbError):
            if frame.level < 3:
                lines.append(frame.source(context=2))
    return "\n".join(lines)
