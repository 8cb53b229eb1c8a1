"""Snapshots as artifacts: a machine is booted once, and started from its snapshot ever after."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..debugger import Reason
from ..errors import CacheError
from ..machine import MachineSpec
from ._accel import cpu_model
from ._pci import PciSpaces, Spaces

__all__ = ["KIND", "Snapshot", "key_of"]

KIND: Final = "snapshot"
_RECIPE: Final = 4  # part of every key: to be raised when the same inputs give another snapshot


@dataclass(frozen=True)
class Snapshot:
    """A booted machine with its snapshots, in files."""

    storage: Path
    """The qcow2 image that QEMU saved them in."""

    memory: Mapping[str, Path]
    """The guest's memory at each of them, by the snapshots' names."""

    console: Path
    """What the console had shown by the last of them."""

    stop_replies: Mapping[str, bytes]
    """The snapshots' names, and kgdb's stop reply at each."""

    pci: Mapping[str, Spaces] = field(default_factory=dict)
    """The PCI devices' configuration at each snapshot, where QEMU may not save it."""

    reasons: Mapping[str, Reason] = field(default_factory=dict)
    """Why the kernel is stopped at each, where its name does not tell."""

    def put_into(self, directory: Path) -> None:
        """Copy it into a new cache entry."""
        shutil.copyfile(self.storage, directory / "storage.qcow2")
        for name, path in self.memory.items():
            shutil.copyfile(path, directory / f"{name}.ram")
        shutil.copyfile(self.console, directory / "console.log")
        record: dict[str, Any] = {
            "stop_replies": {name: reply.decode() for name, reply in self.stop_replies.items()},
            "pci": self.pci,
        }
        (directory / "snapshot.json").write_text(json.dumps(record, indent=1))

    @classmethod
    def from_entry(cls, directory: Path) -> Snapshot:
        """Read what :meth:`put_into` wrote.

        :raises CacheError: it cannot be read.
        """
        try:
            record = json.loads((directory / "snapshot.json").read_text())
            return cls(
                storage=directory / "storage.qcow2",
                memory={name: directory / f"{name}.ram" for name in record["stop_replies"]},
                console=directory / "console.log",
                stop_replies={
                    name: reply.encode() for name, reply in record["stop_replies"].items()
                },
                pci=record.get("pci", {}),
            )
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise CacheError(f"the snapshot in {directory} cannot be read: {error}") from error


def key_of(spec: MachineSpec, *, kernel: str, initrd: str, disk: str, qemu: str) -> str:
    """Return the key of a machine's snapshot: whatever could make another machine of it.

    :param kernel: the kernel's content key, and so on.
    :param qemu: QEMU's version: a state that one version saved is not for another to load.
    """
    inputs = [
        _RECIPE,
        kernel,
        initrd,
        disk,
        qemu,
        # With the devices' places on the bus, which are kept for devices that were asked for.
        *spec.identity(snapshot_extras=["pci"] if PciSpaces.needed(spec.qemu_arg) else []),
        # Under KVM the guest sees the host's own processor.
        cpu_model() if spec.accel == "kvm" else platform.machine(),
    ]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
