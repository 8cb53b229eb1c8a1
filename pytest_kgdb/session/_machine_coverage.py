"""Coverage on one machine: int3s in its snapshots, and what they have recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..errors import KgdbError
from ..kernel import CodeAddress
from ..modules import KernelModules
from ..rsp import CONTINUE, Action, Event, Hook
from ..trace import AddressRecorder, RecorderNumbers

if TYPE_CHECKING:
    from ..debugger import Constants
    from ..kernel import Config
    from ..memory import RelayMemory
    from ..recipes import Coverage

__all__ = ["MachineCoverage"]

# kernel/module/main.c. At the first the module is complete, and its init has not run; the second
# comes before what it has for its init is freed, the third before the rest is. All take the module.
_COMING: Final = "do_init_module"
_INIT_ENDED: Final = "trim_init_extable"
_GOING: Final = "free_module"
# The register of the first argument (x86-64 psABI, "Parameter Passing").
_FIRST_ARGUMENT: Final = "di"

_NUMBERS: Final = ("sizeof(struct page)", "(int)PG_reserved")


class MachineCoverage:
    """Has a machine's snapshots record which code runs.

    Restoring a snapshot inserts everything again, at no cost: each test sees all that it runs.

    :param memory: the machine's memory.
    :param patch: changes a snapshot: by its tag, offsets in the RAM and contents.
    :param add_hook: has a function called whenever a CPU comes to an address.
    """

    def __init__(
        self,
        coverage: Coverage,
        memory: RelayMemory,
        constants: Callable[[], Constants],
        config: Config,
        patch: Callable[[str, list[tuple[int, bytes]]], None],
        add_hook: Callable[[int, Hook], None],
    ) -> None:
        self._coverage = coverage
        self._memory = memory
        self._constants = constants
        self._isolated = any(
            symbol in config
            for symbol in ("PAGE_TABLE_ISOLATION", "MITIGATION_PAGE_TABLE_ISOLATION")
        )
        self._patch = patch
        self._add_hook = add_hook
        self._kernel_modules: KernelModules | None = None
        self._loaded: dict[int, dict[int, CodeAddress]] = {}  # by the `struct module`'s address
        self._recorders: dict[str, AddressRecorder] = {}  # by the snapshot's tag
        self._recorder: AddressRecorder | None = None
        self._modules: dict[int, CodeAddress] = {}  # by address
        self._reported: set[int] = set()
        self._pending: set[CodeAddress] = set()

    def _numbers(self) -> RecorderNumbers:
        return RecorderNumbers(*self._constants().numbers(_NUMBERS))

    # Snapshots

    def has(self, tag: str) -> bool:
        """Whether a snapshot records."""
        return tag in self._recorders

    def arm(self, tag: str, *, booted: bool) -> None:
        """Have a snapshot record, of which the machine's memory is an untouched copy now.

        :param booted: whether it is of a kernel that has come up.
        :raises ConfigError: there is more than there is room for.
        """
        recorder = AddressRecorder(self._memory, self._numbers, isolated=self._isolated)
        offset = self._memory.image_offset
        pieces = recorder.prepare(
            address + offset for address in self._coverage.kernel_code(booted=booted)
        )
        self._patch(
            tag,
            [(self._memory.ram_offset(start, len(data)), data) for start, data in pieces],
        )
        self._recorders[tag] = recorder
        self._follow_modules()

    def restored(self, tag: str | None) -> None:
        """Take note that the machine's memory was replaced.

        :param tag: the session's snapshot that it is at, untouched; None for one of the test's.
        :raises KgdbError: the snapshot's changes did not get there.
        """
        if tag is not None:
            self._recorder = self._recorders.get(tag)
            self._modules.clear()
            self._loaded.clear()
            self._reported.clear()
        if self._recorder is not None and not self._recorder.restored():
            raise KgdbError(
                "coverage cannot be had of this machine: QEMU restores its memory by itself",
                hint="take share=on out of --kgdb-qemu-arg",
            )

    # What ran

    def collect(self) -> None:
        """Take what is recorded in the machine's memory, which is about to be replaced."""
        if self._recorder is None:
            return
        offset = self._memory.image_offset
        for address in self._recorder.hits() - self._reported:
            self._reported.add(address)
            self._pending.add(self._modules.get(address) or CodeAddress("", "", address - offset))

    def take(self) -> set[CodeAddress]:
        """Return, once, the code that ran."""
        self.collect()
        pending, self._pending = self._pending, set()
        return pending

    # Modules

    def _follow_modules(self) -> None:
        """Be told of modules that come and go, by the relay: their init runs before gdb knows."""
        if self._kernel_modules is not None or not self._coverage.modules:
            return
        modules = KernelModules(self._constants(), self._memory.read)
        modules.prepare()  # a hook must not ask gdb
        self._kernel_modules = modules
        for function, hook in (
            (_COMING, self._on_coming),
            (_INIT_ENDED, self._on_init_ended),
            (_GOING, self._on_going),
        ):
            if (address := self._memory.symbol(function)) is not None:
                self._add_hook(address, hook)

    def _on_coming(self, event: Event) -> Action:
        recorder, modules = self._recorder, self._kernel_modules
        if recorder is None or modules is None:
            return CONTINUE
        address = event.registers[_FIRST_ARGUMENT]
        name = modules.name_at(address)
        if name not in self._coverage.modules:
            return CONTINUE
        sections = modules.sections(address)
        places = {
            sections[place.section] + place.offset: place
            for place in self._coverage.module_code(name)
            if place.section in sections
        }
        self.collect()
        self._reported -= set(places)
        self._modules.update(places)
        self._loaded[address] = places
        recorder.add(places)
        return CONTINUE

    def _on_init_ended(self, event: Event) -> Action:
        self._drop(event, lambda place: place.section.startswith(".init"))
        return CONTINUE

    def _on_going(self, event: Event) -> Action:
        self._drop(event, lambda _: True)
        return CONTINUE

    def _drop(self, event: Event, goes: Callable[[CodeAddress], bool]) -> None:
        """Take what a module's memory has recorded, part of which is about to be freed."""
        places = self._loaded.get(event.registers[_FIRST_ARGUMENT], {})
        if self._recorder is not None and places:
            self.collect()
            self._recorder.drop(address for address, place in places.items() if goes(place))

    # For the relay, of the snapshot that the machine is at (rsp.RecordedCode)

    @property
    def active(self) -> bool:
        """Whether anything is recorded."""
        return self._recorder is not None and self._recorder.active

    def give(self, address: int) -> bytes | None:
        """See :meth:`RecordedCode.give`."""
        return None if self._recorder is None else self._recorder.give(address)

    def take_back(self, address: int) -> bytes | None:
        """See :meth:`RecordedCode.take_back`."""
        return None if self._recorder is None else self._recorder.take_back(address)

    def reached(self, address: int) -> bytes | None:
        """See :meth:`RecordedCode.reached`."""
        return None if self._recorder is None else self._recorder.reached(address)

    def skipped(self, address: int) -> None:
        """See :meth:`RecordedCode.skipped`."""
        if self._recorder is not None:
            self._recorder.skipped(address)

    def written(self, address: int, size: int) -> None:
        """See :meth:`RecordedCode.written`."""
        if self._recorder is not None:
            self._recorder.written(address, size)

    def write(self, address: int, byte: bytes) -> None:
        """See :meth:`RecordedCode.write`."""
        if self._recorder is not None:
            self._recorder.write(address, byte)

    def original(self, address: int, data: bytes) -> bytes:
        """See :meth:`RecordedCode.original`."""
        return data if self._recorder is None else self._recorder.original(address, data)
