"""Modules: loaded with their symbols known before their init runs."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigError, GuestCommandError, KgdbError, MachineDied
from ..klog import SplatFrame
from ._hidden import Hidden
from ._instruments import Instruments
from ._link import GdbError, Link
from ._module import Module
from ._module_errors import refused, stopped_in_init
from ._module_files import KnownFiles, arguments
from ._module_gone import frame_in
from ._module_symbols import Loaded, ModuleSymbols, Symbols

if TYPE_CHECKING:
    from ..kernel import Kernel
    from ..memory import KernelMemory
    from ._handle import Kgdb

__all__ = ["Module", "Modules"]

# kernel/module/main.c. At the first the module is complete, its parameters read, and its init
# has not run; the second comes when init has succeeded, before its memory goes; the third before
# a module's memory goes, be it unloaded or its init having failed. All take the module.
_COMING: Final = "do_init_module"
_INIT_ENDED: Final = "trim_init_extable"
_GOING: Final = "free_module"


class _Arrived(Exception):
    """Ends a wait: the module that is being loaded is where it was to be stopped."""


class Modules:
    """The guest's modules: a mapping of those that are loaded, by name."""

    def __init__(self, handle: Kgdb, kernel: Kernel) -> None:
        self._handle = handle
        self._kernel = kernel
        self._files = KnownFiles(kernel)
        self._link: Link | None = None
        self._state: KernelMemory | None = None
        self._symbols: ModuleSymbols | None = None
        self._hidden: Hidden | None = None
        self._instruments: Instruments | None = None
        self._awaited: str | None = None  # to be stopped at before its init

    # For the session and the handle

    @property
    def files(self) -> KnownFiles:
        """The files that are known (for the session)."""
        return self._files

    def provide(self, given: Sequence[Path], build: Callable[[Path], list[Path]]) -> None:
        """Name the modules that are in the guest, and how others are built (for the session)."""
        self._files.provide(given, build)

    def bind(
        self,
        link: Link,
        state: KernelMemory,
        hidden: Hidden,
        instruments: Instruments,
        directory: Path,
    ) -> None:
        """Take up a machine, whose directory is given (for the handle)."""
        self._files.forget()
        self._link, self._state, self._hidden = link, state, hidden
        self._instruments = instruments
        self._symbols = ModuleSymbols(link, state, self._files.find, directory)
        self._awaited = None

    def unbind(self) -> None:
        """Let go of the machine (for the handle)."""
        self._link = self._state = self._symbols = self._hidden = self._instruments = None

    def put_back(self, *, afresh: bool) -> None:
        """Forget what the kernel that was put back does not have (for the handle).

        :param afresh: for another test, which knows of no module that this one named.
        """
        self._awaited = None
        if afresh:
            self._files.forget()
        if self._symbols is not None and (self._symbols.have or self._files.watched):
            self._symbols.sync(self._files.watched)
        if self._symbols is not None:
            self._symbols.gone.clear()

    def stopped(self, *, trouble: bool) -> None:
        """Make gdb's symbols equal to what is loaded (for the handle).

        :param trouble: the kernel oopsed or panicked: whatever is loaded may be on its stack.
        """
        symbols = self._symbols
        if symbols is None or "MODULES" not in self._kernel.config:
            return
        if trouble or symbols.have or self._files.watched:
            # What the stop is, is known without; and memory may be damaged.
            with contextlib.suppress(KgdbError):
                symbols.sync(None if trouble else self._files.watched)

    def guard(self) -> None:
        """Watch for the end of memory in which something is planted (for the handle)."""
        symbols, hidden, instruments = self._symbols, self._hidden, self._instruments
        if symbols is None or hidden is None or instruments is None:
            return
        planted = (
            [address for each in symbols.breakpoints() for _, address, _ in each.locations]
            if symbols.have
            else []
        )
        for module in symbols.have.values():
            if any(map(module.holds, planted)) or instruments.within(module.holds):
                # A kernel that has neither, inlined or renamed, goes unguarded: most breakpoints
                # are gone before their module is.
                with contextlib.suppress(GdbError):
                    hidden.plant(_GOING, self._on_going)
                    if not module.init_gone:
                        hidden.plant(_INIT_ENDED, self._on_init_ended)

    def expects(self, location: str) -> bool:
        """Whether a module that is known, and not loaded, has such a location (for the handle)."""
        return self._files.has(location)

    def was_at(self, address: int) -> SplatFrame | None:
        """Return what an address was in a module, or an init, that is gone (for the leaks)."""
        if self._symbols is None:
            return None
        # busybox, being refused, loads a module by another system call, to the same addresses.
        its_init = [each for each in self._symbols.have.values() if each.holds(address, init=True)]
        gone = [each for each in reversed(self._symbols.gone) if each.holds(address)]
        return next((frame_in(each, address) for each in (*its_init, *gone)), None)

    def functions(self) -> Iterator[str]:
        """Yield the names of the known modules' functions (for the handle)."""
        return self._files.functions()

    def watch(self) -> None:
        """Have every module's symbols known before its init runs, from now on (for the handle)."""
        self._bound()[2].plant(_COMING, self._on_coming)

    def why_not(self, address: int) -> str | None:
        """Return why no breakpoint may be at an address in a module (for the handle)."""
        place = self._symbols.at(address) if self._symbols is not None else None
        if place is None or not place[1]:
            return None
        return (
            f"it is in .init.text of module {place[0].name}, whose memory the kernel has freed by "
            "now; begin() stops before a module's init, and once it is unloaded a breakpoint waits "
            "for it to be loaded again"
        )

    def _bound(self) -> tuple[Link, ModuleSymbols, Hidden]:
        if self._link is None or self._symbols is None or self._hidden is None:
            raise MachineDied(
                "there is no machine under this handle any more",
                hint="the next test gets a new one",
            )
        if "MODULES" not in self._kernel.config:
            raise ConfigError(
                f"the kernel {self._kernel.release} has no modules",
                hint="build it with CONFIG_MODULES=y",
            )
        return self._link, self._symbols, self._hidden

    # At the hidden breakpoints; the first argument is in RDI (x86-64 psABI)

    def _argument(self) -> int:
        link, _, _ = self._bound()
        return int(link.ask("numbers", expressions=["(unsigned long)$rdi"])["numbers"][0])

    def _on_coming(self) -> bool:
        symbols = self._bound()[1]
        name = symbols.name_at(self._argument())
        symbols.sync(self._files.watched)
        if name not in self._files.watched:
            # One that nobody named: without its symbols, breakpoints wait on.
            with contextlib.suppress(KgdbError):
                symbols.sync({*self._files.watched, name})
        self.guard()
        if self._awaited is not None and name == self._awaited:
            self._awaited = None
            return True
        return False

    def _on_init_ended(self) -> bool:
        if (module := self._found(self._argument())) is not None:
            self._bound()[1].init_ended(module)
            self._end_instruments(lambda address: module.holds(address, init=True))
        return False

    def _on_going(self) -> bool:
        if (module := self._found(self._argument())) is not None:
            self._end_instruments(module.holds)
            self._bound()[1].remove(module.name)
        return False

    def _end_instruments(self, contains: Callable[[int], bool]) -> None:
        """End what is planted in memory that is about to go."""
        if self._instruments is not None:
            for each in self._instruments.within(contains):
                each.delete()

    def _found(self, address: int) -> Symbols | None:
        have = self._bound()[1].have.values()
        return next((each for each in have if each.address == address), None)

    # What is loaded

    def _listing(self) -> list[Loaded]:
        link, symbols, _ = self._bound()
        link.require_stopped("modules")
        return list(symbols.listing())

    def find(self, name: str) -> Loaded | None:
        """Return a module as the kernel has it; None when it has not (for :class:`Module`)."""
        return next((each for each in self._listing() if each.name == name), None)

    def require(self, name: str) -> Loaded:
        """Return it, or raise (for :class:`Module`)."""
        found = self.find(name)
        if found is None:
            raise KgdbError(
                f"module {name} is not loaded{self._others()}", hint="modules.load() loads it"
            )
        return found

    def _others(self) -> str:
        return f"; these are: {', '.join(each.name for each in self._listing()) or 'none'}"

    def sections(self, name: str) -> dict[str, int]:
        """Return its sections (for :class:`Module`)."""
        return self._bound()[1].sections(self.require(name).address)

    def file(self, name: str) -> Path | None:
        """Return the file that its symbols come from (for :class:`Module`)."""
        return self._files.find(name)

    def __getitem__(self, name: str) -> Module:
        """Return a loaded module, with its symbols in gdb if there is a file of it.

        :raises KeyError: it is not loaded.
        """
        name = name.replace("-", "_")
        loaded = self._listing()
        if name not in (each.name for each in loaded):
            raise KeyError(f"module {name} is not loaded{self._others()}")
        self._files.watched.add(name)
        self._bound()[1].sync(self._files.watched)
        return Module(self, name)

    def __iter__(self) -> Iterator[Module]:
        """Iterate over the modules that are loaded, the latest first."""
        return iter([Module(self, each.name) for each in self._listing()])

    def __len__(self) -> int:
        return len(self._listing())

    def __contains__(self, name: object) -> bool:
        return any(each.name == str(name).replace("-", "_") for each in self._listing())

    def __repr__(self) -> str:
        return "<Modules>"

    # Loading

    def known(self, path: str | os.PathLike[str]) -> list[Path]:
        """Make a module known that the guest will load: build it if need be, and note its names.

        A breakpoint on one of its functions then waits for it.

        :param path: on the host: a directory, or a `.ko`.
        :returns: the `.ko` files.
        """
        return self._files.known(Path(path))

    def load(self, path: str | os.PathLike[str], /, **params: object) -> Module:
        """Load a module and wait until its init has run.

        A kernel that was running runs on.

        :param path: on the host, a directory that is built, or a `.ko`, put into the guest; a
            path in the guest; or the name of a module that is in the guest.
        :param params: the module's parameters.
        :raises GuestCommandError: it was refused, or its init failed, with the kernel's reason;
            or the kernel stopped in its init at a breakpoint.
        :raises KernelPanic: its init oopsed; `kgdb.stop` is where.
        """
        __tracebackhide__ = True
        with self._standing():
            command, name = self._prepare(path, params)
            self.watch()
            before = self._handle.dmesg()
            try:
                result = self._handle.run(command)
            except GuestCommandError as error:
                raise stopped_in_init(self._handle, name, error) from None
            if result.status != 0:
                refused(self._handle, f"loading {name}", command, result.output, before)
            self._bound()[1].sync(self._files.watched)
        return Module(self, name)

    def begin(self, path: str | os.PathLike[str], /, **params: object) -> Module:
        """Load a module up to its init, and stop there: symbols are known, nothing of it has run.

        `cont()` goes on into its init. The arguments are those of :meth:`load`.

        :raises GuestCommandError: it was refused, with the kernel's reason.
        """
        __tracebackhide__ = True
        with self._standing() as standing:
            command, name = self._prepare(path, params)
            self.watch()
            before = self._handle.dmesg()
            self._awaited = name
            try:
                result = self._handle.run_until(command, self._check_arrived)
                refused(self._handle, f"loading {name}", command, result.output, before)
            except _Arrived:
                standing.append(True)  # stopped, as was asked for
            finally:
                self._awaited = None
        return Module(self, name)

    def _check_arrived(self) -> None:
        if self._handle.stopped and self._awaited is None:  # in this order: looking may find it
            raise _Arrived

    def unload(self, module: Module | str) -> None:
        """Unload a module; gdb's symbols of it go, and breakpoints in it wait for it.

        :raises GuestCommandError: the kernel refused, with its reason.
        """
        __tracebackhide__ = True
        name = module.name if isinstance(module, Module) else module.replace("-", "_")
        with self._standing():
            before = self._handle.dmesg()
            command = f"rmmod {shlex.quote(name)}"
            result = self._handle.run(command)
            if result.status != 0:
                refused(self._handle, f"unloading {name}", command, result.output, before)
            self._bound()[1].sync(self._files.watched)

    @contextlib.contextmanager
    def _standing(self) -> Iterator[list[bool]]:
        """Have the kernel stopped, and let it go at the end if it was running.

        What is yielded is to be filled when the kernel is to stay as it is.
        """
        self._bound()
        stay: list[bool] = []
        was_running = not self._handle.stopped
        if was_running:
            self._handle.interrupt()
        try:
            yield stay
        except GuestCommandError:
            if was_running and self._handle.stopped and not stay:
                stop = self._handle.stop
                if stop is not None and stop.reason == "interrupt":
                    self._handle.resume()
            raise
        if was_running and not stay:
            self._handle.resume()

    def _prepare(self, path: str | os.PathLike[str], params: dict[str, Any]) -> tuple[str, str]:
        """Put the module where the guest can load it; return the command that does so."""
        link, _, _ = self._bound()
        link.require_stopped("loading a module")
        found = self._files.resolve(path)
        words = arguments(found.info, found.name, params)
        self._files.watched.add(found.name)
        for needed in found.needs:
            self._load_needed(needed)
        if found.info is not None and found.in_guest is None:
            found = self._files.transferred(found, self._handle.put)
        return shlex.join(["insmod", str(found.in_guest), *words]), found.name

    def _load_needed(self, name: str) -> None:
        """Load what another module needs, unless it is there."""
        if name not in self:
            if self._files.is_known(name):
                self.load(name)
            else:
                before = self._handle.dmesg()
                command = f"modprobe {shlex.quote(name)}"
                result = self._handle.run(command)
                if result.status != 0:
                    refused(self._handle, f"loading {name}", command, result.output, before)
