"""Where a breakpoint can be inserted, and why not where it cannot."""

from __future__ import annotations

import bisect
import contextlib
import difflib
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from ..elf import ElfFile
from ..errors import KgdbError
from ..kernel import FREEING_INITMEM
from ._debugger import Debugger
from ._linespec import linespec
from ._mi import GdbError, c_string

__all__ = ["Locations", "NoSuchLocation"]

# Names that are macros on some kernels, and the function behind them there. printk became a
# macro over _printk in 5.15 (include/linux/printk.h).
_BEHIND_MACROS: Final = {"printk": "_printk"}

# What allocates became macros over functions of these names in 6.10, kmemdup() over
# kmemdup_noprof() (include/linux/alloc_tag.h, alloc_hooks).
_ALLOCATES: Final = "_noprof"

# kernel/debug/debug_core.h, KGDB_MAX_BREAKPOINTS (include/linux/kgdb.h): one more breaks the
# resume without a word.
MAX_BREAKPOINTS: Final = 1000


@dataclass(frozen=True)
class _Range:
    start: str
    end: str
    why: str


# include/asm-generic/vmlinux.lds.h and arch/x86/kernel/vmlinux.lds.S name the ends of these.
_FORBIDDEN: Final = (
    _Range(
        "__noinstr_text_start",
        "__noinstr_text_end",
        "it is noinstr code (section .noinstr.text), in which a trap may come before the kernel "
        "can handle one",
    ),
    _Range(
        "__entry_text_start",
        "__entry_text_end",
        "it is entry code (section .entry.text), which runs on the way into the kernel, before a "
        "trap can be handled",
    ),
    _Range(
        "__kprobes_text_start",
        "__kprobes_text_end",
        "it is on the kprobe blocklist (section .kprobes.text): the breakpoint handler itself "
        "uses it",
    ),
)


# gdb/linespec.c, linespec_keywords: where gdb's own `break` has a location end, and a condition.
_CONDITION: Final = re.compile(r"\s*(.*?)\s+if\b\s*(.*)", re.DOTALL)


class NoSuchLocation(KgdbError):
    """Nothing that gdb knows is there: a test that names it is at fault."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, by_test=True)


class Locations:
    """Turns a location into addresses, or refuses it with the reason.

    :param elf: the kernel's vmlinux.
    :param symbols: its System.map, where there is one.
    :param refusal: returns why no breakpoint may be at an address in a module.
    :param functions: returns the names of modules' functions.
    :param explain: returns why nothing is at a location, and what to do, where modules explain it.
    """

    def __init__(
        self,
        debugger: Debugger,
        elf: ElfFile,
        symbols: Path | None,
        *,
        refusal: Callable[[int], str | None],
        functions: Callable[[], Iterable[str]] = tuple,
        explain: Callable[[str], tuple[str, str] | None] = lambda _: None,
    ) -> None:
        self._debugger = debugger
        self._refusal = refusal
        self._functions = functions
        self._explain = explain
        self._elf = elf
        self._symbols = symbols
        self._addresses: dict[str, int | None] = {}
        self._freed: dict[str, frozenset[int]] = {}
        self._freed_of_modules: dict[str, frozenset[int]] = {}
        self._around: dict[int, str] = {}
        self._is_hidden = False  # of what was decoded last
        self._within_instructions: dict[int, tuple[int, str]] = {}  # likewise

    def resolve(self, location: str) -> str:
        """Return the location as gdb takes it, an explicit one as a linespec.

        :raises KgdbError: nothing is there, or it must not be probed; the message says why.
        """
        if match := _CONDITION.fullmatch(location):
            raise KgdbError(
                f"no breakpoint at {location}: a condition is not part of the location",
                hint=f'breakpoint("{match[1]}", condition="{match[2]}")',
            )
        location = resolved = linespec(location)
        try:
            addresses = self._decode(location)
        except GdbError as error:
            behind = self._behind_macro(location)
            if behind is None:
                raise self._unknown(location, error) from error
            addresses, resolved = self._decode(behind), behind
        freed = self.freed_among(addresses)
        of_modules = frozenset(a for a in addresses if self._refusal(a) is not None)
        self._learn_functions(addresses)
        # Nothing arrives any more where an inlined copy was in init code.
        if resolved == location and self._is_hidden:
            # gdb takes the name for a variable's that another file has.
            if len(addresses) > 1:
                raise KgdbError(
                    f"no breakpoint at {location}: several functions have the name, and a variable",
                    hint=f"name the file: FILE.c:{location}",
                )
            resolved = f"*{addresses[0]:#x}"
        elif self._skipped == addresses and self._within(addresses[0], "_stext", "_etext"):
            # An override and a breakpoint on it are about the same instruction. A module's address
            # would not outlive the module.
            resolved = f"*{addresses[0]:#x}"
        for address in set(addresses) - freed - of_modules or addresses:
            self.refuse(address, f"no breakpoint at {location}")
            self._refuse_within_instruction(address, f"no breakpoint at {location}")
        self._freed, self._freed_of_modules = {resolved: freed}, {resolved: of_modules}
        return resolved

    def freed(self, location: str) -> frozenset[int]:
        """Return the addresses in the kernel's freed init code of what was resolved last."""
        return self._freed.get(location, frozenset())

    def freed_of_modules(self, location: str) -> frozenset[int]:
        """Return the same of modules, which have them again when they are loaded again."""
        return self._freed_of_modules.get(location, frozenset())

    def behind(self, function: str, what: str) -> str:
        """Return the name by which gdb knows a function: `printk` and `kmemdup` are macros.

        :param what: what is to be on it, for the error: `spy`.
        :raises KgdbError: there is none; the message has the nearest names.
        """
        if _CONDITION.fullmatch(function):
            raise KgdbError(
                f"no {what} on {function}: a condition is not part of the function's name",
                hint="an override() has when=; a spy() records all calls, with their arguments",
            )
        function = linespec(function)
        try:
            self._decode(function)
        except GdbError as error:
            behind = self._behind_macro(function)
            if behind is None:
                raise self._unknown(function, error, f"{what} on") from error
            return behind
        return function

    def _behind_macro(self, name: str) -> str | None:
        """Return the function that a macro of some kernels calls; None if there is none."""
        for function in (_BEHIND_MACROS.get(name), name + _ALLOCATES):
            if function is not None and name.isidentifier():
                with contextlib.suppress(GdbError):
                    self._decode(function)
                    return function
        return None

    def refuse(self, address: int, what: str) -> None:
        """:raises KgdbError: an address must not be probed; `what` begins the message."""
        if why := self._forbidden(address):
            raise KgdbError(
                f"{what} ({address:#x}): {why}",
                hint="take a caller, or a function that it calls",
            )

    def refuse_within_instruction(self, location: str, what: str) -> None:
        """:raises KgdbError: an address is no instruction's; `what` begins the message."""
        for address in self._decode(location):
            self._refuse_within_instruction(address, what)

    def _refuse_within_instruction(self, address: int, what: str) -> None:
        if (around := self._within_instructions.get(address)) is None:
            return
        start, text = around
        raise KgdbError(
            f"{what}: {address:#x} is within an instruction, '{text}', which begins at {start:#x}; "
            "a breakpoint there would change it",
            hint=f"execute('disassemble {start:#x},+32') shows where instructions begin",
        )

    def forbidden_ranges(self) -> list[tuple[int, int]]:
        """Return where no breakpoint may be, what the blocklist names excepted."""
        ranges = [(text.start, text.end) for text in _FORBIDDEN]
        pairs = [(self._address(start), self._address(end)) for start, end in ranges]
        return [
            (low & _MASK, high & _MASK)
            for low, high in pairs
            if low is not None and high is not None
        ]

    def _decode(self, location: str) -> list[int]:
        c_string(location)  # of a second line gdb.decode_line makes what its Python then dies of
        answer = self._debugger.request("locations", location=location)
        places = answer["locations"]
        self._is_hidden = bool(answer.get("hidden"))
        self._skipped = [int(address) for address in answer.get("skipped", ())]
        addresses = [int(place["address"]) for place in places]
        self._within_instructions = {
            address: (int(around[0]), str(around[1]))
            for address, around in zip(addresses, answer.get("within", ()), strict=False)
            if around is not None
        }
        return addresses

    def _address(self, symbol: str) -> int | None:
        if symbol not in self._addresses:
            self._addresses[symbol] = self._debugger.request("symbol", name=symbol).get("address")
        return self._addresses[symbol]

    def _within(self, address: int, start: str, end: str) -> bool:
        low, high = self._address(start), self._address(end)
        if low is None or high is None:
            return False
        return (low & _MASK) <= address < (high & _MASK)

    def freed_among(self, addresses: Iterable[int]) -> frozenset[int]:
        """Return those that are in init code of the kernel's which is gone."""
        init = frozenset(a for a in addresses if self._within(a, "_sinittext", "_einittext"))
        if not init:
            return init
        state = int(self._debugger.request("evaluate", expression="(int)system_state")["int"])
        return init if state >= FREEING_INITMEM else frozenset()

    def _forbidden(self, address: int) -> str | None:
        if self.freed_among([address]):
            return (
                "it is in .init.text, whose memory the kernel has freed by now; "
                'a test with @pytest.mark.kgdb(at="kgdbwait") comes before that'
            )
        if why := self._refusal(address):
            return why
        if self._debugger.door == "qemu":
            return None  # it stops the machine, whatever the kernel is about
        for text in _FORBIDDEN:
            if self._within(address, text.start, text.end):
                return text.why
        if self._blocklisted(address):
            return (
                "it is on the kprobe blocklist (NOKPROBE_SYMBOL), which kgdb honours "
                "(kernel/debug/debug_core.c, kgdb_validate_break_address): the breakpoint "
                "handler itself uses it"
            )
        return None

    def _blocklisted(self, address: int) -> bool:
        """Whether the function around an address is named by NOKPROBE_SYMBOL."""
        entries = self._blocklist
        index = bisect.bisect_right(entries, address)
        if index == 0:
            return False
        entry = entries[index - 1]
        self._learn_functions([entry, address])
        return entry == address or self._around[entry] == self._around[address]

    def _learn_functions(self, addresses: Iterable[int]) -> None:
        """Ask gdb once for the names of the functions around addresses of the kernel's."""
        unknown = [address for address in addresses if address not in self._around]
        if unknown:
            names = self._debugger.request("symbols_around", addresses=unknown)["symbols"]
            self._around.update(zip(unknown, names, strict=True))

    @cached_property
    def _blocklist(self) -> list[int]:
        """The functions that NOKPROBE_SYMBOL names, from section _kprobe_blacklist."""
        low = self._address("__start_kprobe_blacklist")
        high = self._address("__stop_kprobe_blacklist")
        if low is None or high is None:
            return []
        low, high = low & _MASK, high & _MASK
        # From the file: in memory the section goes with the rest of init data.
        data = self._elf.contents(low, high - low)
        return sorted(entry for (entry,) in struct.iter_unpack("<Q", data) if entry)

    def _unknown(
        self, location: str, error: GdbError, what: str = "breakpoint at"
    ) -> NoSuchLocation:
        if (explained := self._explain(location)) is not None:
            reason, hint = explained
            return NoSuchLocation(f"no {what} {location}: {reason}", hint=hint)
        name = re.split(r"[:+*\s]", location.strip(), maxsplit=1)[0]
        names = {*self._names(), *self._functions()} if name else ()
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.7)
        reason = error.message.rstrip(".")
        return NoSuchLocation(
            f"no {what} {location}: {reason}",
            hint=f"did you mean {', '.join(near)}?"
            if near
            else "a function that gcc inlined everywhere, or a module's before it is loaded, "
            "has no address",
        )

    def _names(self) -> Iterator[str]:
        """The kernel's functions by name."""
        if self._symbols is not None and self._symbols.exists():
            with self._symbols.open() as lines:
                for line in lines:
                    _, kind, name = line.split(maxsplit=2)
                    if kind in "tTwW":
                        yield name.strip()
            return
        yield from self._elf.functions()


_MASK: Final = (1 << 64) - 1
