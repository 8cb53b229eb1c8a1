"""The handle on the kernel that a test gets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ._bound import Bound
from ._breakpoints import Access, Breakpoint, Watchpoint
from ._fail_each import FailEach, Scenario
from ._guest import Guest
from ._inspect import Inspect
from ._instruments import DEFAULT
from ._kunit import KunitSuite, run_suite
from ._modules import Modules
from ._observe import Observe
from ._override import When
from ._points import Keeper, replaced, restore, snapshot
from ._stops import Reason
from ._transfer import get, put

if TYPE_CHECKING:
    from ..disk import Disk
    from ..kernel import Kernel
    from ..machine import Machine
    from ..mi import Gdb
    from ..rsp import Relay
    from ..state import State

__all__ = ["Kgdb"]


class Kgdb(Inspect, Observe, Guest):
    """A handle on a live kernel under kgdb: run control, breakpoints, data, the guest's shell."""

    # A base class is a chapter, of methods that say what there is and give it to whoever does it.
    # What takes the whole handle is here.

    def __init__(self, kernel: Kernel, *, timeout: float, disk: Disk | None = None) -> None:
        super().__init__(kernel, timeout=timeout, disk=disk)
        self.modules = Modules(self, kernel)
        """The guest's modules: loaded with their symbols, unloaded, looked up."""

    # Being bound to a machine

    def bind(
        self, *, gdb: Gdb, machine: Machine, state: State, relay: Relay, keeper: Keeper
    ) -> None:
        """Take up a machine that is stopped and connected (for the session)."""
        self._bound = bound = Bound(
            self,
            gdb=gdb,
            machine=machine,
            state=state,
            relay=relay,
            keeper=keeper,
            moment=self._moments + 1,
        )
        self.modules.bind(bound.link, state, bound.hidden, bound.instruments, machine.directory)
        gdb.listen(bound.planting.on_record)
        # A stop that no test is to see may come while it waits for the console.
        machine.console.attend = lambda: self._bound is not None and self.stopped
        gdb.next_stop(self.timeout)
        self.settle("int3")
        self._watch.bind(machine, state, bound.link, self.kernel.debug_source, relay)

    def unbind(self, machine: Machine) -> None:
        """Let go of a machine that is about to end (for the session)."""
        if self._bound is None or self._bound.machine is not machine:
            return
        self._bound.link.moved()
        self.modules.unbind()
        self._moments = self._bound.link.moment
        self._bound.forget_breakpoints()
        self._watch.unbind()
        self._bound = None

    def settle(
        self, reason: Reason, *, breakpoint: Breakpoint | None = None, message: str | None = None
    ) -> None:
        """Note that the kernel is stopped at a saved point (for the session)."""
        self._require().motion.settle(reason, breakpoint=breakpoint, message=message)

    @contextlib.contextmanager
    def replaced(self, reason: Reason, *, keep_breakpoints: bool = False) -> Iterator[None]:
        """Around what puts another state under a running or stopped kernel (for the session).

        gdb is made to believe that the kernel ran and stopped there; so it gives up of its own
        accord whatever it knew.

        :param keep_breakpoints: have them in the other state, too; otherwise they are deleted.
        """
        with replaced(
            self._require(), reason, keep_breakpoints=keep_breakpoints, timeout=self.timeout
        ):
            yield

    # Breakpoints

    def breakpoint(
        self,
        location: str,
        *,
        condition: str | None = None,
        temporary: bool = False,
        hardware: bool = False,
        ignore_count: int = 0,
        pending: bool = False,
    ) -> Breakpoint:
        """Plant a breakpoint.

        :param location: as gdb takes it: a function, `file:line`, `*address`. `printk` means
            the function behind that name on every kernel.
        :param condition: a C expression; the kernel goes on where it is false.
        :param temporary: delete it at its first hit.
        :param hardware: use a debug register; x86 has four.
        :param ignore_count: hits to pass over first.
        :param pending: where there is no such location, wait for a module that has it. For a
            module that is known (`--kgdb-module`, `modules.known()`) this is the default.
        :raises KgdbError: the location does not exist or must not be probed.
        """
        __tracebackhide__ = True
        return self._require().planting.insert(
            location,
            condition=condition,
            temporary=temporary,
            hardware=hardware,
            ignore_count=ignore_count,
            pending=pending,
        )

    def watchpoint(self, expression: str, *, access: Access = "write") -> Watchpoint:
        """Stop the kernel when the memory behind an expression is written, or read.

        :param expression: an lvalue of at most 8 bytes.
        :param access: `write`, `read`, or `access` for either.
        """
        __tracebackhide__ = True
        return self._require().planting.watch(expression, access)

    def breakpoint_command(self, command: str, breakpoint: Breakpoint, argument: str = "") -> None:
        """Tell gdb something about a breakpoint (for :class:`Breakpoint`)."""
        self._require().planting.tell(command, breakpoint, argument)

    def delete_breakpoint(self, breakpoint: Breakpoint) -> None:
        """Delete a breakpoint (for :meth:`Breakpoint.delete`)."""
        if self._bound is None:
            return
        planting = self._bound.planting
        planting.drop(breakpoint)
        if not self._gdb.alive or not self._machine.alive:
            return
        was_running = not self.stopped
        if was_running:
            self.interrupt()
        planting.delete(breakpoint)
        if was_running:
            self.resume()

    def delete_breakpoints(self) -> None:
        """Delete all breakpoints and watchpoints, and end all instruments."""
        bound = self._require()
        bound.forget_breakpoints()
        bound.link.command("-break-delete")

    def undisturbed(self) -> contextlib.AbstractContextManager[None]:
        """Have no breakpoint of the test's stop the kernel meanwhile (for the leaks)."""
        return self._require().planting.asleep()

    # Named points

    def snapshot(self, name: str) -> None:
        """Keep the whole machine, memory and disk, under a name, until the test ends.

        A running kernel is stopped for it, and goes on. One of the same name is replaced.

        :raises KgdbError: QEMU could not save it.
        """
        __tracebackhide__ = True
        snapshot(self, self._require().keeper, name)

    def restore(self, name: str) -> None:
        """Make the machine what it was at :meth:`snapshot`, stopped at the same stop.

        Whatever the kernel does now. Breakpoints are as they are now, not as they were then.

        :raises KgdbError: there is no such snapshot, or QEMU could not load it.
        """
        __tracebackhide__ = True
        with self._watch.put_back():
            restore(self._require().keeper, name)

    # What is made of several of these

    def fail_each(
        self,
        function: str,
        scenario: Scenario,
        returns: object = DEFAULT,
        *,
        when: str | When | None = None,
        limit: int = 100,
    ) -> FailEach:
        """Run a scenario once for each call of a function that it makes, with that call failing.

        Each run begins with the kernel as it is now, and it is so again at the end.

        :param scenario: a command for the guest's shell, or a function that is called with this
            handle. What it cannot do is an error handled; what it asserts must hold.
        :param returns: how the function fails, as for :meth:`override`; -ENOMEM, or NULL, by its
            type otherwise.
        :param when: which calls are meant, as for :meth:`override`.
        :param limit: calls that are tried at the most.
        :raises KgdbError: the scenario does not pass by itself, or never calls the function.
        """
        __tracebackhide__ = True
        return self._require().instruments.fail_each(
            self, self._require().keeper.kept, function, scenario, returns, when=when, limit=limit
        )

    def kunit(
        self, suite: str, *, module: str | None = None, timeout: float | None = None
    ) -> KunitSuite:
        """Run a KUnit suite in the guest, or take its results from the boot if it is built in.

        :param module: the module that has it, by its name or as a path in the guest; found by
            the suite's name among the kernel's own modules otherwise.
        :raises KgdbError: there is no such suite.
        """
        __tracebackhide__ = True
        return run_suite(self, suite, module, timeout)

    def put(self, local: Path | str, remote: str, *, timeout: float | None = None) -> None:
        """Copy a file or a directory from the host into the guest, as `cp -r` does.

        Modes are kept; what is copied is root's. A stopped kernel runs for it, as for `run()`.

        :param remote: a path in the guest; into it, where it is a directory.
        :param timeout: seconds for all of it.
        :raises ConfigError: the host has no such file.
        :raises GuestCommandError: the guest could not write it; the message is its own.
        """
        __tracebackhide__ = True
        put(self, Path(local), remote, self._limit(timeout))

    def get(self, remote: str, local: Path | str, *, timeout: float | None = None) -> Path:
        """Copy a file or a directory from the guest to the host; return where it is.

        :param local: a path on the host; into it, where it is a directory.
        :param timeout: seconds for all of it.
        :raises ConfigError: there is no place for it on the host.
        :raises GuestCommandError: the guest could not read it; the message is its own.
        """
        __tracebackhide__ = True
        return get(self, remote, Path(local), self._limit(timeout))

    def __repr__(self) -> str:
        if self._bound is None:
            return f"<Kgdb {self.kernel.release}: no machine>"
        where = repr(self._bound.motion.stop) if self._bound.link.stopped else "running"
        return f"<Kgdb {self.kernel.release}: {where}>"
