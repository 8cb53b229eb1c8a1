"""The handle on the kernel that a test gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..actions import recorded
from ._attachment import Attachment
from ._breaking import Breaking
from ._failing import FailEachMethod
from ._inspecting import Inspecting
from ._running import Running
from ._talking import Talking

if TYPE_CHECKING:
    from ..recipes import KunitSuite

__all__ = ["Kgdb", "attachment_of"]


@recorded(
    "snapshot",
    "restore",
    "kunit",
)
class Kgdb(Running, Breaking, Inspecting, Talking):
    """A handle on a live kernel under kgdb: run control, breakpoints, data, the guest's shell."""

    # A base class is a chapter: methods that give a request to the part that does it.

    # Snapshots

    def snapshot(self, name: str) -> None:
        """Save the whole machine, memory and disk, under a name, until the test ends.

        A running kernel is stopped for it, and goes on, unless it comes to a breakpoint first: that
        is where it is saved, and stays. One of the same name is replaced.

        :raises KgdbError: QEMU could not save it.
        """
        __tracebackhide__ = True
        self._slot.require().snapshots.take(name)

    def restore(self, name: str) -> None:
        """Restore the machine to what it was at :meth:`snapshot`, stopped at the same stop.

        It does not matter what the kernel does now. Breakpoints are as they are now, not as they
        were then.

        :raises KgdbError: there is no such snapshot, or QEMU could not load it.
        """
        __tracebackhide__ = True
        self._slot.require().snapshots.restore(name)

    # Scenarios

    @property
    def fail_each(self) -> FailEachMethod[Kgdb]:
        """Run a scenario once for each call of a function that it makes, with that call failing.

        It is called: `fail_each("kmalloc", scenario)`; `fail_each.of_patch(scenario)` does the same
        for all calls in a patch's own lines.
        """
        return FailEachMethod(self._slot, self)

    def kunit(
        self, suite: str, *, module: str | None = None, timeout: float | None = None
    ) -> KunitSuite:
        """Run a KUnit suite in the guest, or read its results of the boot if it is built in.

        :param module: the module that has it, by its name or as a path in the guest; found by
            the suite's name among the kernel's own modules otherwise.
        :param timeout: seconds; the marker's or `--kgdb-timeout` otherwise.
        :raises KgdbError: there is no such suite.
        """
        __tracebackhide__ = True
        return self._slot.require().kunit.run(suite, module, timeout)

    def __repr__(self) -> str:
        attachment = self._slot.attachment
        if attachment is None:
            return f"<Kgdb {self.kernel.release}: no machine>"
        control = attachment.run_control
        state = repr(control.stop) if control.is_known_stopped else "running"
        return f"<Kgdb {self.kernel.release}: {state}>"


def attachment_of(kgdb: Kgdb) -> Attachment:
    """Return what a handle is attached to: machine, gdb, relay, memory.

    For tools and tests that work beneath the handle; a test of a kernel has no use for it.

    :raises MachineDied: there is no machine.
    """
    return kgdb._slot.require()
