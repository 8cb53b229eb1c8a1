"""The handle's chapter of breakpoints, spies, overrides, and of what the kernel reports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..actions import recorded
from ..errors import KgdbError, making_instrument
from ._base import Base

if TYPE_CHECKING:
    from ..debugger import Access, Breakpoint, Watchpoint
    from ..klog import Splat
    from ..splats import ExpectedSplat
    from ..trace import Override, Spy, When

__all__ = ["Breaking"]


@recorded(
    "breakpoint",
    "watchpoint",
    "delete_breakpoints",
    "spy",
    "override",
    "expect_splat",
)
class Breaking(Base):
    """Stops the kernel where the test wants it, watches its calls, and provokes it."""

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
        """Insert a breakpoint.

        :param location: as gdb takes it: a function, `file:line`, `*address`. `printk` means
            the function behind that name on every kernel.
        :param condition: a C expression; the kernel goes on where it is false.
        :param temporary: delete it at its first hit.
        :param hardware: use a debug register; x86 has four.
        :param ignore_count: hits to ignore first.
        :param pending: where there is no such location, wait for a module that has it. For a
            module that is known (`--kgdb-module`, `modules.known()`) this is the default.
        :raises KgdbError: the location does not exist or must not be probed.
        """
        __tracebackhide__ = True
        attachment = self._slot.require()
        attachment.note_expression(condition or "")
        with making_instrument(), attachment.explaining_refusal(f"no breakpoint at {location}"):
            if hardware:
                self._require_hardware(f"no hardware breakpoint at {location}")
            return attachment.breakpoints.insert(
                location,
                condition=condition,
                temporary=temporary,
                hardware=hardware,
                ignore_count=ignore_count,
                pending=pending,
            )

    def watchpoint(self, expression: str, *, access: Access = "write") -> Watchpoint:
        """Stop the kernel when the memory behind an expression is written, or read.

        That of a local variable ends with its function: the kernel stops there once more, with
        :attr:`Stop.message` for the reason, and the watchpoint is deleted.

        :param expression: an lvalue of at most 8 bytes.
        :param access: `write`, `read`, or `access` for either.
        :raises KgdbError: the expression has no address, or a size that cannot be watched; it is
            on a stack, and no local variable of the task that stopped.
        """
        __tracebackhide__ = True
        attachment, what = self._slot.require(), f"no watchpoint on {expression}"
        with making_instrument(), attachment.explaining_refusal(what):
            self._require_hardware(what)
            return attachment.breakpoints.watch(expression, access)

    def _require_hardware(self, what: str) -> None:
        __tracebackhide__ = True
        refusal = self._slot.require().relay.hardware_refusal
        if refusal is not None:
            raise KgdbError(f"{what}: {refusal}")

    def delete_breakpoints(self) -> None:
        """Delete all breakpoints and watchpoints, and end all instruments."""
        attachment = self._slot.require()
        attachment.instruments.end()
        attachment.breakpoints.delete_all()

    # Instruments

    def spy(
        self,
        function: str,
        collect: Sequence[str] = (),
        *,
        returns: bool = False,
        keep: int = 10_000,
    ) -> Spy:
        """Count and record every call of a function; the kernel is not seen to stop.

        :param collect: C expressions, read at the function's entry at each call; the arguments
            are recorded anyway.
        :param returns: record what the calls return, at the price of a second trap for each.
        :param keep: calls of which more than their number is kept: the newest.
        :raises KgdbError: there is no such function, gcc inlined it everywhere, it must not be
            probed, or an expression cannot be read at its entry.
        """
        __tracebackhide__ = True
        with making_instrument():
            instruments = self._slot.require().instruments
            return instruments.spy(function, collect, returns=returns, keep=keep)

    def override(
        self,
        function: str,
        returns: object,
        *,
        times: int | None = None,
        when: str | When | None = None,
        skip: int = 0,
    ) -> Override:
        """Make a function return at once with a value; the kernel is not seen to stop.

        :param returns: a number; a C expression; `"-ENOMEM"`, for functions that return pointers,
            too; None for a void function.
        :param times: calls that are forced at the most; all otherwise.
        :param when: a C condition on the arguments, or a function that is called with the
            :class:`Call`: other calls are let through.
        :param skip: of the calls for which `when` holds, so many are let through first.
        :raises KgdbError: there is no such function, gcc inlined it everywhere, it must not be
            probed, or its type cannot hold the value.
        """
        __tracebackhide__ = True
        with making_instrument():
            return self._slot.require().instruments.override(
                function, returns, times=times, when=when, skip=skip
            )

    # What the kernel says of itself

    @property
    def splats(self) -> list[Splat]:
        """What the kernel reported about itself since the test began: a WARN, an oops, …"""
        return self._slot.require().splats.splats

    def expect_splat(
        self,
        pattern: str | re.Pattern[str],
        kind: str | None = None,
        *,
        timeout: float | None = None,
    ) -> ExpectedSplat:
        """Expect a splat: it does not fail the test, and its absence does.

        :param pattern: a regular expression, searched for in the splat's text.
        :param kind: one of the kinds of splat: `"WARN"`, `"KASAN"`, ….
        :param timeout: seconds that the end of the `with` waits for it while the kernel runs; the
            marker's or `--kgdb-timeout` otherwise.
        :raises KgdbError: there is no such kind.
        """
        __tracebackhide__ = True
        expected = self._slot.require().splats.expect(pattern, kind)
        return expected.waiting(self._slot.waits.of(timeout))
