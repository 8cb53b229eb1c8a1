"""Numbers that are the same in each run of a kernel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from ..elf import ElfFile
from ._debugger import Debugger

__all__ = ["Constants", "Remember"]

Remember = Callable[[str, Callable[[], str]], str]
"""Returns a text for a key; where none is remembered, it is computed."""


class Constants:
    """Sizes, offsets and addresses that gdb is asked for once in a kernel's life.

    gdb expands the debug information of a whole source file for the first of them, which takes
    some tenths of a second in each session.

    :param remember: keeps texts from session to session, for this kernel.
    """

    def __init__(self, debugger: Debugger, remember: Remember) -> None:
        self._debugger = debugger
        self._remember = remember

    def numbers(self, expressions: Iterable[str]) -> list[int]:
        """Evaluate expressions that depend on the debug information alone.

        :raises GdbError: gdb cannot evaluate one of them; that is not remembered.
        """
        asked = list(expressions)
        text = self._remember("\n".join(asked), lambda: json.dumps(self._debugger.numbers(*asked)))
        return [int(number) for number in json.loads(text)]

    def symbols(self, elf: ElfFile, names: Iterable[str]) -> dict[str, int]:
        """Return the addresses of those symbols that vmlinux has, as linked.

        gdb takes a weak function that the linker has replaced for the one of that name.

        :raises ConfigError: vmlinux has no symbol table.
        """
        asked = list(names)

        def look_up() -> str:
            return json.dumps({name: elf.symbol(name) for name in asked})

        addresses = json.loads(self._remember("symbols " + " ".join(asked), look_up))
        return {name: int(address) for name, address in addresses.items() if address is not None}
