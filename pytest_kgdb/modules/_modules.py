"""The guest's modules, as a test holds them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

from ..actions import ActionLog, recorded
from ..console import Result
from ..debugger import RunControl, place_of
from ..errors import ConfigError, GuestCommandError, KernelPanic, KgdbError
from ..guest import FileTransfer, Shell
from ..klog import is_detail
from ..settings import make_variable
from ._insmod import init_failed
from ._kernel_list import KernelModules, Loaded
from ._module import Module
from ._parameters import arguments
from ._registry import ModuleRegistry
from ._symbols import ModuleSymbols
from ._tracker import ModuleTracker

__all__ = ["Modules"]

_OF_MODULE = re.compile(r"\+0x[0-9a-f]+/0x[0-9a-f]+ \[[\w-]+[^\]]*\]$")

# Lines of the kernel's log that an error shows.
_LINES = 20

# Of a wait that ran out: these methods have no timeout=, which may be a module's parameter.
_HINT = "a larger kgdb.timeout, if it only needs longer"


class KernelLog(Protocol):
    """The kernel's log."""

    def dmesg(self) -> str:
        """Return it whole."""

    def dmesg_end(self) -> str:
        """Return its last lines."""


class _Arrived(Exception):
    """Ends a wait: the module that is being loaded is where it was to be stopped."""


@recorded(
    known="modules.known",
    load="modules.load",
    load_stopped="modules.load_stopped",
    unload="modules.unload",
)
class Modules:
    """The guest's modules: a mapping of those that are loaded, by name.

    :param actions: records what a test does with modules.
    :param refusal: why there are no modules (CONFIG_MODULES is off); None where there are.
    """

    def __init__(
        self,
        run_control: RunControl,
        shell: Shell,
        files: FileTransfer,
        log: KernelLog,
        *,
        kernel: KernelModules,
        registry: ModuleRegistry,
        symbols: ModuleSymbols,
        tracker: ModuleTracker,
        refusal: ConfigError | None,
        actions: ActionLog,
    ) -> None:
        self._actions = actions
        self._run_control = run_control
        self._shell = shell
        self._transfer = files
        self._log = log
        self._kernel = kernel
        self._registry = registry
        self._symbols = symbols
        self._tracker = tracker
        self._refusal = refusal

    def _check(self) -> None:
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)

    # What is loaded

    def _listing(self) -> list[Loaded]:
        self._check()
        self._run_control.require_stopped("modules")
        return list(self._kernel.listing())

    def find(self, name: str) -> Loaded | None:
        """Return a module as the kernel has it; None when it is not loaded."""
        return next((entry for entry in self._listing() if entry.name == name), None)

    def require(self, name: str) -> Loaded:
        """Return a module as the kernel has it.

        :raises KgdbError: it is not loaded.
        """
        entry = self.find(name)
        if entry is None:
            raise KgdbError(
                f"module {name} is not loaded{self._others()}", hint="modules.load() loads it"
            )
        return entry

    def _others(self) -> str:
        return f"; these are: {', '.join(entry.name for entry in self._listing()) or 'none'}"

    def sections(self, name: str) -> dict[str, int]:
        """Return the addresses of a loaded module's sections, by name."""
        return self._kernel.sections(self.require(name).address)

    def file(self, name: str) -> Path | None:
        """Return the file that a module's symbols come from; None where none is known."""
        loaded = self._registry.loaded.get(name)
        return self._registry.find(name) if loaded is None else loaded.file

    def __getitem__(self, name: str) -> Module:
        """Return a loaded module, with its symbols in gdb if there is a file of it.

        :raises KeyError: it is not loaded.
        """
        name = name.replace("-", "_")
        loaded = self._listing()
        if name not in (entry.name for entry in loaded):
            raise KeyError(f"module {name} is not loaded{self._others()}")
        self._registry.watched.add(name)
        self._symbols.sync(self._registry.watched)
        return Module(self, name)

    def __iter__(self) -> Iterator[Module]:
        """Iterate over the modules that are loaded, the latest first."""
        return iter([Module(self, entry.name) for entry in self._listing()])

    def __len__(self) -> int:
        return len(self._listing())

    def __contains__(self, name: object) -> bool:
        return any(entry.name == str(name).replace("-", "_") for entry in self._listing())

    def __repr__(self) -> str:
        return "<Modules>"

    # Loading

    def known(
        self, path: str | os.PathLike[str], make: Mapping[str, object] | None = None, /
    ) -> list[Path]:
        """Register a module that the guest will load: build it if need be, and note its names.

        A breakpoint on one of its functions then waits for it.

        :param path: on the host: a directory, or a `.ko`.
        :param make: variables for make's command line: `{"DEBUG": 1}`.
        :return: the `.ko` files.
        :raises BuildError: it could not be built.
        """
        return self._registry.add(Path(path), _variables(make))

    def load(
        self,
        path: str | os.PathLike[str],
        make: Mapping[str, object] | None = None,
        /,
        **params: object,
    ) -> Module:
        """Load a module and wait until its init has run.

        A kernel that was running runs on.

        :param path: on the host, a directory that is built, or a `.ko`, put into the guest; a
            path in the guest; or the name of a module that is in the guest.
        :param make: variables for make's command line, where it is built: `{"DEBUG": 1}`.
        :param params: the module's parameters.
        :raises GuestCommandError: it was refused, or its init failed, with the kernel's reason;
            or the kernel stopped in its init at a breakpoint; or it is not loaded afterwards.
        :raises KernelPanic: its init oopsed; `kgdb.stop` is where.
        """
        __tracebackhide__ = True
        self._check()
        with self._run_control.kept_stopped(f"loading {path}"):
            command, name = self._prepare(path, make, params)
            self._tracker.watch()
            before = self._log.dmesg_end()
            others = {entry.name for entry in self._listing()}
            self._tracker.forget_init(name)
            try:
                result = self._shell.run(command, hint=_HINT)
            except GuestCommandError as error:
                raise self._stopped_in_init(name, error) from None
            self._check_loaded(name, command, result, before)
            name = self._loaded_as(name, others, before)
            self._symbols.sync(self._registry.watched)
        return Module(self, name)

    def _loaded_as(self, name: str, others: Collection[str], before: str) -> str:
        """Return the name of the module that a command has loaded.

        :param others: those that were there.
        :raises GuestCommandError: it is not loaded.
        """
        present = [entry.name for entry in self._listing()]
        if name in present:
            return name
        new = [other for other in present if other not in others]
        if self.file(name) is None and len(new) == 1:  # the guest's file has another name
            self._registry.watched.add(new[0])
            return new[0]
        raise GuestCommandError(
            f"loading {name} failed: insmod reports no error, and the kernel has no module {name}"
            + self._new_messages(before),
            log=self._shell.console.log,
            # kernel/module/main.c, do_init_module: whatever is negative is a failure.
            hint="its init may have returned a negative number that is no error's: libc takes "
            "-1 to -4095 for errors (include/linux/err.h, MAX_ERRNO)",
        )

    def load_stopped(
        self,
        path: str | os.PathLike[str],
        make: Mapping[str, object] | None = None,
        /,
        **params: object,
    ) -> Module:
        """Load a module up to its init, and stop there: symbols are known, nothing of it has run.

        `cont()` goes on into its init. The arguments are those of :meth:`load`.

        :raises GuestCommandError: it was refused, with the kernel's reason.
        """
        __tracebackhide__ = True
        self._check()
        with self._run_control.kept_stopped(f"loading {path}"):
            command, name = self._prepare(path, make, params)
            self._tracker.watch()
            before = self._log.dmesg_end()
            with self._tracker.stopping_at(name):
                try:
                    result = self._shell.run(command, check=self._check_arrived, hint=_HINT)
                    self._refused(f"loading {name}", command, result, before)
                except _Arrived:
                    pass  # and the kernel stays there
        return Module(self, name)

    def begin(
        self,
        path: str | os.PathLike[str],
        make: Mapping[str, object] | None = None,
        /,
        **params: object,
    ) -> Module:
        """Do the same as :meth:`load_stopped`, under its old name."""
        __tracebackhide__ = True
        return self.load_stopped(path, make, **params)

    def _check_arrived(self) -> None:
        # In this order: the look for a stop may find that the module has arrived.
        if self._run_control.stopped and self._tracker.arrived:
            raise _Arrived

    def unload(self, module: Module | str) -> None:
        """Unload a module; gdb's symbols of it go, and breakpoints in it wait for it.

        :raises GuestCommandError: the kernel refused, with its reason.
        """
        __tracebackhide__ = True
        name = module.name if isinstance(module, Module) else module.replace("-", "_")
        self._check()
        with self._run_control.kept_stopped(f"unloading {name}"):
            before = self._log.dmesg_end()
            command = f"rmmod {shlex.quote(name)}"
            result = self._shell.run(command, hint=_HINT)
            self._check_status(f"unloading {name}", command, result, before)
            self._symbols.sync(self._registry.watched)

    def _prepare(
        self,
        path: str | os.PathLike[str],
        make: Mapping[str, object] | None,
        params: dict[str, Any],
    ) -> tuple[str, str]:
        """Put the module where the guest can load it; return the command and its name."""
        self._run_control.require_stopped("loading a module")
        source = self._registry.resolve(path, _variables(make))
        words = arguments(source.info, source.name, params)
        self._registry.watched.add(source.name)
        for needed in source.needs:
            self._load_needed(needed)
        if source.info is not None and source.in_guest is None:
            put = functools.partial(self._transfer.put, hint=_HINT)
            source = self._registry.transferred(source, put)
        return shlex.join(["insmod", str(source.in_guest), *words]), source.name

    def _load_needed(self, name: str) -> None:
        """Load what another module needs, unless it is there."""
        if name in self:
            return
        if self._registry.is_known(name):
            self.load(name)
            return
        before = self._log.dmesg_end()
        command = f"modprobe {shlex.quote(name)}"
        self._tracker.forget_init(name)
        result = self._shell.run(command, hint=_HINT)
        self._check_loaded(name, command, result, before)

    # Errors

    def _check_loaded(self, name: str, command: str, result: Result, before: str) -> None:
        """:raises GuestCommandError: it was refused, or its init has returned an error."""
        if result.status != 0 and self._tracker.ran_init(name):
            result = dataclasses.replace(result, output=init_failed(result.output))
        self._check_status(f"loading {name}", command, result, before)

    def _check_status(self, what: str, command: str, result: Result, before: str) -> None:
        """:raises GuestCommandError: the command failed; the message has the kernel's reason."""
        if result.status != 0:
            self._refused(what, command, result, before)

    def _refused(self, what: str, command: str, result: Result, before: str) -> NoReturn:
        message = f"{what} failed: {result.output.strip() or command}"
        message += self._new_messages(before)
        raise GuestCommandError(message, log=self._shell.console.log)

    def _new_messages(self, before: str) -> str:
        """Return what the kernel has logged since, for a message."""
        lines = _shown(_new_lines(before, self._log.dmesg()))
        if not lines:
            return ""
        return "\nthe kernel said:\n" + "\n".join(f"    {line}" for line in lines)

    def _stopped_in_init(self, name: str, error: GuestCommandError) -> KgdbError:
        """Return the error for a load during which the kernel stopped."""
        stop = self._run_control.stop
        if stop is None:
            return error
        with contextlib.suppress(KgdbError):
            if stop.reason in ("oops", "panic"):
                did = "oopsed" if stop.reason == "oops" else "panicked"
                return KernelPanic(
                    f"loading {name}: the kernel {did} in {place_of(stop)}: "
                    f"{stop.message or repr(stop)}",
                    log=self._shell.console.log,
                    hint="kgdb.stop is where; a test that wants it: load_stopped(), then cont()",
                )
        return GuestCommandError(
            f"loading {name} did not end: the kernel stopped meanwhile, {stop!r}",
            log=self._shell.console.log,
            hint="to stop in a module's init: load_stopped(), then cont()",
        )


def _variables(make: Mapping[str, object] | None) -> list[str]:
    """Return variables as words of make's command line.

    :raises ConfigError: one cannot be set.
    """
    words = []
    for name, value in (make or {}).items():
        text = ("1" if value else "0") if isinstance(value, bool) else str(value)
        try:
            words.append(make_variable(f"{name}={text}"))
        except ValueError as error:
            raise ConfigError(f"a variable of make's: {error}") from None
    return words


def _new_lines(before: str, after: str) -> list[str]:
    """Return the lines of a log that were not there before."""
    old = before.splitlines()
    lines = after.splitlines()
    if old and old[-1] in lines:
        lines = lines[len(lines) - lines[::-1].index(old[-1]) :]
    texts = (re.sub(r"^\[[^\]]*\] ", "", line) for line in lines)
    # An interrupt() is in the log, too. And busybox, being refused, tries again by another system
    # call: the kernel says everything twice.
    return list(dict.fromkeys(line for line in texts if line != "sysrq: DEBUG"))


def _shown(lines: list[str]) -> list[str]:
    """Return the lines that say what happened: of a splat the headlines, and the module's frames.

    Registers, and the way through the kernel, are left out if there are many lines.
    """
    if len(lines) <= _LINES:
        return lines
    kept = [line for line in lines if not is_detail(line) or _OF_MODULE.search(line)]
    if len(kept) > _LINES:
        half = _LINES // 2
        left = len(kept) - 2 * half
        kept[half:-half] = [f"… {left} lines left out …"]
    return kept
