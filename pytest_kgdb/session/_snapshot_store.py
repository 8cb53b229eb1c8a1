"""The snapshots of one running machine: which there are, which it is at, save and restore."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from ..deadline import WaitLimit
from ..debugger import Reason, Stop
from ..handle import MachineSlot
from ..machine import Machine
from ..rsp import Relay
from ._pci import PciSpaces, Spaces

__all__ = ["SnapshotStore"]

# Before the names that a test gives, which may be those of the session's own snapshots.
_NAMED: Final = "test-"


class ShellState(Protocol):
    """The part of :class:`ShellReadiness` that is used here."""

    def set(self, is_there: bool) -> None:
        """Note whether it is there."""

    @property
    def is_there(self) -> bool:
        """Whether it is there."""


class SnapshotStore:
    """Saves and restores a machine with its debugger and its console.

    :param slot: the handle's place, whose attachment is told of each restore.
    :param on_reconnect: is called when the console is connected anew.
    :param shell: knows whether the guest's shell is there.
    :param connect_gdb: connects another gdb to the stopped kernel, and ends the one that there is.
    :param saved: snapshots that there are already, and kgdb's stop reply at each.
    :param pci: the PCI devices' configuration at each.
    :param leaving: is called before the machine's memory is replaced.
    :param arrived: is called when it has been, with the tag of one of the session's snapshots.
    """

    def __init__(
        self,
        machine: Machine,
        relay: Relay,
        slot: MachineSlot,
        *,
        waits: WaitLimit,
        on_reconnect: Callable[[], None],
        connect_gdb: Callable[[], None],
        shell: ShellState,
        saved: Mapping[str, bytes],
        pci: Mapping[str, Spaces],
        leaving: Callable[[], None] = lambda: None,
        arrived: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self._machine = machine
        self._relay = relay
        self._slot = slot
        self._waits = waits
        self._on_reconnect = on_reconnect
        self._connect_gdb = connect_gdb
        self._shell = shell
        self._leaving = leaving
        self._arrived = arrived
        self._pci = (
            PciSpaces(machine.monitor.human) if PciSpaces.needed(machine.spec.qemu_arg) else None
        )
        self.saved: dict[str, bytes] = dict(saved)
        """The session's own snapshots, and the stop that kgdb reported at each."""
        self.pci: dict[str, Spaces] = dict(pci)
        """The PCI devices' configuration at each snapshot, where QEMU may not save it."""
        self._tags: dict[str, str] = {}  # where a snapshot has another name in QEMU
        self.current: str | None = None
        """The snapshot at which the machine is, untouched since; None once it moved on."""
        self._named: dict[str, tuple[bytes, Stop]] = {}
        self._input: dict[str, tuple[bool, bytes]] = {}  # is there a shell, and what is it to get

    def restore_pci(self, name: str) -> None:
        """Write to the PCI devices what QEMU has not restored of them."""
        if self._pci is not None and name in self.pci:
            self._pci.restore(self.pci[name])

    def _save(self, name: str) -> bytes:
        with self._relay.quiesced(self._waits.seconds):
            if self._pci is not None:
                self.pci[name] = self._pci.read()
            self._machine.save(name)
        return self._relay.stop_reply

    def _restore(
        self, name: str, stop_reply: bytes, reason: Reason, *, keep_breakpoints: bool
    ) -> None:
        machine, relay = self._machine, self._relay
        attachment = self._slot.require()
        # A test's own restore keeps its gdb, whatever is in it.
        keeps_gdb = keep_breakpoints or attachment.gdb_serves_another_test
        if not keeps_gdb:
            # It would insert its breakpoints in the restored kernel, and let it run.
            relay.let_go_of_gdb()
        settled = relay.detach(attachment.run_control.gdb_is_stopped, keeps_gdb=keep_breakpoints)
        if not settled and not keep_breakpoints:
            relay.let_go_of_gdb()
            keeps_gdb = False
        with (
            attachment.restoring(reason, keep_breakpoints=keep_breakpoints)
            if keeps_gdb
            else attachment.replacing_gdb(reason, self._connect_gdb)
        ):
            machine.vcpus.stop(self._waits.seconds)
            machine.console.disconnect()
            self._leaving()
            machine.load(name)
            self._arrived(None if keep_breakpoints else name)
            self.restore_pci(name)
            machine.console.reconnect()
            self._on_reconnect()
            relay.reattach(stop_reply, paused=True)

    def export(self, storage: Path, memory: Path, name: str) -> tuple[bytes, Spaces | None]:
        """Save the stopped machine into files, and none of it in the machine.

        :param storage: the file for the image that has QEMU's part of it.
        :param memory: the file for the guest's memory.
        :param name: the snapshot's, in the image.
        :return: the stop reply there, and the PCI devices' configuration.
        :raises KgdbError: QEMU could not save it.
        :raises OSError: a file cannot be written.
        """
        machine = self._machine
        with self._relay.quiesced(self._waits.seconds):
            pci = self._pci.read() if self._pci is not None else None
            machine.save(name)
            try:
                shutil.copyfile(machine.storage, storage)
                shutil.copyfile(machine.memory.files[name], memory)
            finally:
                machine.drop(name)
        return self._relay.stop_reply, pci

    # The session's own

    def save(self, name: str) -> None:
        """Save the stopped machine, for this session and others."""
        self.saved[name] = self._save(name)

    def supersede(self, name: str) -> None:
        """Save the stopped machine as one of the session's snapshots, for this session alone.

        The others are given up: they are of the machine before something was done to it.
        """
        tag = f"{name}+"
        self.saved = {name: self._save(tag)}
        self._tags = {name: tag}

    def tag(self, name: str) -> str:
        """Return the name of a session's snapshot in QEMU."""
        return self._tags.get(name, name)

    def restore(self, name: str, reason: Reason) -> None:
        """Restore memory, disk, debugger and console; breakpoints are deleted.

        It does not matter what the kernel does, or whether it still does anything.

        :param reason: why the kernel is stopped at that snapshot.
        """
        tag = self.tag(name)
        self._restore(tag, self.saved[name], reason, keep_breakpoints=False)
        self._shell.set(name != "kgdbwait")
        self.current = name

    # Those of the running test (handle.SnapshotKeeping)

    @property
    def names(self) -> list[str]:
        """The names of the test's snapshots, oldest first."""
        return list(self._named)

    def save_named(self, name: str, stop: Stop) -> None:
        """Save the stopped machine, without breakpoints in its memory."""
        self._input[name] = self._shell.is_there, self._machine.console.input.kept
        self._named[name] = self._save(_NAMED + name), stop

    def restore_named(self, name: str) -> None:
        """Restore the machine to the same stop; breakpoints are as they are now."""
        stop_reply, stop = self._named[name]
        has_shell, typed = self._input[name]
        self._restore(_NAMED + name, stop_reply, stop.reason, keep_breakpoints=True)
        self._shell.set(has_shell)
        self._machine.console.input.keep(typed)
        self._slot.require().run_control.record_again(stop)

    def drop_named(self) -> None:
        """Drop the test's snapshots: the next test must not find them."""
        while self._named and self._machine.alive:
            self._machine.drop(_NAMED + self._named.popitem()[0])
