"""What is said when a module is not loaded, or not unloaded."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, NoReturn

from ..errors import GuestCommandError, KernelPanic, KgdbError

if TYPE_CHECKING:
    from ._handle import Kgdb

__all__ = ["refused", "stopped_in_init"]


def refused(kgdb: Kgdb, what: str, command: str, output: str, before: str) -> NoReturn:
    """Say why, in the kernel's own words."""
    said = _news(before, kgdb.dmesg())
    message = f"{what} failed: {output.strip() or command}"
    if said:
        message += "\nthe kernel said:\n" + "\n".join(f"    {line}" for line in said)
    raise GuestCommandError(message, log=kgdb.console.log)


def stopped_in_init(kgdb: Kgdb, name: str, error: GuestCommandError) -> KgdbError:
    """Return the error for a load that came upon a stop."""
    stop = kgdb.stop
    if stop is None:
        return error
    with contextlib.suppress(KgdbError):
        where = next((f" at {each.file}:{each.line}" for each in stop.backtrace() if each.line), "")
        if stop.reason in ("oops", "panic"):
            did = "oopsed" if stop.reason == "oops" else "panicked"
            return KernelPanic(
                f"loading {name}: the kernel {did}{where}: {stop.message or repr(stop)}",
                log=kgdb.console.log,
                hint="kgdb.stop is where; a test that wants it: begin(), then cont()",
            )
    return GuestCommandError(
        f"loading {name} did not end: the kernel stopped meanwhile, {stop!r}",
        log=kgdb.console.log,
        hint="to stop in a module's init: begin(), then cont()",
    )


def _news(before: str, after: str) -> list[str]:
    """Return the lines of a log that were not there before."""
    old = before.splitlines()
    lines = after.splitlines()
    if old and old[-1] in lines:
        lines = lines[len(lines) - lines[::-1].index(old[-1]) :]
    said = (re.sub(r"^\[[^\]]*\] ", "", line) for line in lines)
    # An interrupt() is told of in the log. And busybox, being refused, tries again by another
    # system call: the kernel says everything twice.
    return list(dict.fromkeys(line for line in said if line != "sysrq: DEBUG"))[-20:]
