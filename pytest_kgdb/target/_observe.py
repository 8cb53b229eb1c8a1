"""The handle's chapter of instruments, and of what the kernel reports of itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._run_control import RunControl
from ._splats import ExpectedSplat, SplatWatch

if TYPE_CHECKING:
    from ..klog import Splat
    from ._override import Override, When
    from ._spy import Spy

__all__ = ["Observe"]


class Observe(RunControl):
    """Observes the running kernel, and provokes it."""

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
        bound = self._require()
        made = bound.instruments.spy(function, collect, returns=returns, keep=keep)
        bound.modules.guard()
        return made

    def override(
        self,
        function: str,
        returns: object,
        *,
        times: int | None = None,
        when: str | When | None = None,
        skip: int = 0,
    ) -> Override:
        """Have a function return at once with a value; the kernel is not seen to stop.

        :param returns: a number; a C expression; `"-ENOMEM"`, for functions that return pointers,
            too; None for a void function.
        :param times: calls that are forced at the most; all otherwise.
        :param when: a C condition on the arguments, or a function that is asked with the
            :class:`Call`: other calls are let through.
        :param skip: of the calls for which `when` holds, so many are let through first.
        :raises KgdbError: there is no such function, gcc inlined it everywhere, it must not be
            probed, or its type cannot hold the value.
        """
        __tracebackhide__ = True
        bound = self._require()
        made = bound.instruments.override(function, returns, times=times, when=when, skip=skip)
        bound.modules.guard()
        return made

    # What the kernel says of itself

    @property
    def watch(self) -> SplatWatch:
        """What judges the test's splats (for the session)."""
        return self._watch

    @property
    def splats(self) -> list[Splat]:
        """What the kernel reported about itself since the test began: a WARN, an oops, …"""
        return self._watch.splats

    def expect_splat(
        self,
        pattern: str | re.Pattern[str],
        kind: str | None = None,
        *,
        timeout: float | None = None,
    ) -> ExpectedSplat:
        """Have a splat not fail the test, and its absence do so.

        :param pattern: a regular expression, searched for in the splat's text.
        :param kind: one of the kinds of splat: `"WARN"`, `"KASAN"`, ….
        :param timeout: how long the end of the `with` waits for it while the kernel runs.
        """
        __tracebackhide__ = True
        made = self._watch.expect(pattern, kind)
        return made.waiting(self._limit(timeout), lambda: not self.stopped and self._machine.alive)
