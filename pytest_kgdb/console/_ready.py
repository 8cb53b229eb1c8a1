"""Whether the guest's shell is there, to which commands are typed."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import TimeoutError
from ._console import Console

__all__ = ["ShellReadiness"]


class ShellReadiness:
    """Knows whether the guest has said that its shell is there.

    What is typed before is read by whoever has the console then: nobody, and it is dropped; a
    shell that echoes; a getty.

    :param pattern: what the guest's init says of it.
    """

    def __init__(self, console: Console, pattern: re.Pattern[bytes]) -> None:
        self._console = console
        self._pattern = pattern
        self._since: int | None = None  # the console's mark from which it may say so

    def set(self, is_there: bool) -> None:
        """Note whether the shell is there now; else the guest is still to say so."""
        self._since = None if is_there else self._console.mark()

    @property
    def is_there(self) -> bool:
        """Whether it is there."""
        if self._since is not None and self._pattern.search(self._console.since(self._since)):
            self._since = None
        return self._since is None

    def wait(self, timeout: float, meanwhile: Callable[[], None]) -> None:
        """Wait until it is there.

        :param timeout: seconds.
        :param meanwhile: called whenever something arrived, and ten times in a second; may raise.
        :raises TimeoutError: it did not come.
        :raises MachineDied: the console was closed.
        """
        if self._since is None:
            return
        try:
            self._console.wait_for(
                self._pattern, mark=self._since, timeout=timeout, meanwhile=meanwhile
            )
        except TimeoutError as error:
            raise TimeoutError(
                f"the guest's shell was not there in {timeout:g} s\n"
                f"the console's last lines are:\n{self._console.tail()}",
                log=self._console.log,
                hint="a larger timeout=, if the guest only needs longer; an initrd or a disk of "
                "your own must say when it is (docs/options.md, 'pytest-kgdb: ready')",
            ) from error
        self._since = None
