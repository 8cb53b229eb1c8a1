"""What a person is told of a machine: by which commands it runs, and where it is."""

from __future__ import annotations

import contextlib
import shlex
from typing import TYPE_CHECKING

from ..errors import KgdbError
from ..machine import by_hand, storage_by_hand

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..target import Kgdb
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


def sections(vm: Vm, kgdb: Kgdb, mark: int) -> list[tuple[str, str]]:
    """Return what a failed test's report shows of the kernel, gdb and the console.

    :param mark: where on the console the test began.
    """
    said = vm.machine.console.since(mark).decode("utf-8", "replace")
    told = [("kgdb: console since the test began", said)]
    conversation = vm.gdb.tail(40)  # before we ask gdb ourselves
    with contextlib.suppress(KgdbError):
        splats = kgdb.watch.unexpected()
        told.append(("kgdb: splats", "\n\n".join(each.symbolised for each in splats)))
    with contextlib.suppress(KgdbError):
        told.append(("kgdb: where the kernel is", _where(vm, kgdb)))
    told.append(("kgdb: gdb's conversation, its end", conversation))
    return told


def _where(vm: Vm, kgdb: Kgdb) -> str:
    if not vm.machine.alive:
        return "gone: QEMU has ended"
    if not vm.gdb.alive:
        return f"not to be asked: gdb has ended; what its CPUs do:\n{kgdb.on_cpus()}"
    if not kgdb.stopped:
        return f"running; what its CPUs do:\n{kgdb.on_cpus()}"
    stop = kgdb.stop
    assert stop is not None
    lines = [repr(stop)]
    for frame in stop.backtrace(limit=20):
        lines.append(str(frame))
        with contextlib.suppress(KgdbError):
            if frame.level < 3:
                lines.append(frame.source(context=2))
    return "\n".join(lines)
