"""The handle's chapter of run control, on which the others stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import MachineDied
from ..mi import c_string
from ._splats import SplatWatch

if TYPE_CHECKING:
    from ..disk import Disk
    from ..kernel import Kernel
    from ..machine import Machine
    from ..memory import KernelMemory
    from ..mi import Gdb
    from ._bound import Bound
    from ._link import Link
    from ._stops import Stop

__all__ = ["RunControl"]


class RunControl:
    """Lets the kernel go and stops it."""

    def __init__(self, kernel: Kernel, *, timeout: float, disk: Disk | None = None) -> None:
        self.kernel = kernel
        self.timeout = timeout
        self._disk = disk
        self._bound: Bound | None = None
        self._moments = 0  # of the machines before this one
        self._watch = SplatWatch()

    def _require(self) -> Bound:
        if self._bound is None:
            raise MachineDied(
                "there is no machine under this handle any more",
                hint="the next test gets a new one; a session's handle follows it",
            )
        return self._bound

    @property
    def _gdb(self) -> Gdb:
        return self._require().gdb

    @property
    def _machine(self) -> Machine:
        return self._require().machine

    @property
    def _state(self) -> KernelMemory:
        return self._require().state

    @property
    def _link(self) -> Link:
        return self._require().link

    def _limit(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    # The moment

    @property
    def stopped(self) -> bool:
        """Whether the kernel is stopped, as far as we have looked."""
        bound = self._bound
        return bound is not None and (bound.link.stopped or bound.motion.look())

    @property
    def stop(self) -> Stop | None:
        """The current stop; None while the kernel runs."""
        return self._require().motion.stop if self.stopped else None

    @property
    def moment(self) -> int:
        """Counts the kernel's moves; equal numbers mean that it has not moved."""
        return self._bound.link.moment if self._bound is not None else self._moments

    # Run control

    def resume(self) -> None:
        """Let the kernel run and return at once.

        :raises KgdbError: it runs already.
        """
        __tracebackhide__ = True
        self._require().motion.go("-exec-continue")

    def wait(self, timeout: float | None = None) -> Stop:
        """Wait until the kernel stops; return the stop at once if it has.

        :param timeout: seconds; `--kgdb-timeout` otherwise.
        :raises TimeoutError: it ran on; it still does.
        :raises KernelPanic: it panicked past the debugger.
        :raises MachineDied: QEMU is gone.
        """
        __tracebackhide__ = True
        return self._require().motion.wait(self._limit(timeout))

    def cont(self, timeout: float | None = None) -> Stop:
        """Let the kernel run until it stops; see :meth:`wait` for what it raises."""
        __tracebackhide__ = True
        self.resume()
        return self.wait(timeout)

    def interrupt(self, timeout: float | None = None) -> Stop:
        """Stop the running kernel where it is; a stopped one stays as it is."""
        __tracebackhide__ = True
        if self.stopped:
            return self.wait()
        return self._require().motion.interrupt(self._limit(timeout))

    def step(self, timeout: float | None = None) -> Stop:
        """Step to another source line, into functions (gdb's `step`)."""
        __tracebackhide__ = True
        return self._require().motion.step("-exec-step", self._limit(timeout))

    def next(self, timeout: float | None = None) -> Stop:
        """Step to another source line, over functions (gdb's `next`)."""
        __tracebackhide__ = True
        return self._require().motion.step("-exec-next", self._limit(timeout))

    def stepi(self, timeout: float | None = None) -> Stop:
        """Step one instruction (gdb's `stepi`)."""
        __tracebackhide__ = True
        return self._require().motion.step("-exec-step-instruction", self._limit(timeout))

    def finish(self, timeout: float | None = None) -> Stop:
        """Run until the selected function returns; the stop has its `return_value`."""
        __tracebackhide__ = True
        return self._require().motion.step("-exec-finish", self._limit(timeout))

    def until(self, location: str, timeout: float | None = None) -> Stop:
        """Run until a location, or until the current function returns.

        The location may be in this function or in one that it calls: gdb's `advance`, whose
        `until` knows only the present frame.
        """
        __tracebackhide__ = True
        bound = self._require()
        bound.link.require_stopped("until()")
        told = bound.locations.resolve(location)
        command = f"-interpreter-exec console {c_string(f'advance {told}')}"
        return bound.motion.step(command, self._limit(timeout))

    def on_cpus(self) -> str:
        """Return what each CPU does, as QEMU sees it: for a kernel that does not stop."""
        return self._require().causes.on_cpus()
