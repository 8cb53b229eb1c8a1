"""Snapshots as artifacts: a machine booted once, to be started from for ever after."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ..errors import CacheError
from ..machine import MachineSpec, kernel_command_line
from ..rsp import KgdbLayout
from ._accel import cpu_model
from ._pci import PciSpaces, Spaces

__all__ = ["Known", "Snapshot", "key_of"]

KIND: Final = "snapshot"
_RECIPE: Final = 2  # part of every key: to be raised when the same inputs give another snapshot

Known = tuple[KgdbLayout, int | None]
"""Where the kernel keeps its debugger's variables, and its console's count of characters."""


@dataclass(frozen=True)
class Snapshot:
    """What is kept of a booted machine."""

    storage: Path
    """The qcow2 image that the states are saved in."""

    memory: Mapping[str, Path]
    """What the guest's memory held at each of them, by the points' names."""

    console: Path
    """What the console had shown by the last of them."""

    points: Mapping[str, bytes]
    """The points' names, and what kgdb had told at each stop."""

    known: Known
    pci: Mapping[str, Spaces] = field(default_factory=dict)
    """The PCI devices' configuration at each point, where QEMU may not save it."""

    def put_into(self, directory: Path) -> None:
        """Copy it into a cache entry that is being made."""
        shutil.copyfile(self.storage, directory / "storage.qcow2")
        for name, path in self.memory.items():
            shutil.copyfile(path, directory / f"{name}.ram")
        shutil.copyfile(self.console, directory / "console.log")
        layout, rx = self.known
        told: dict[str, Any] = {
            "points": {name: reply.decode() for name, reply in self.points.items()},
            "layout": asdict(layout),
            "rx": rx,
            "pci": self.pci,
        }
        (directory / "snapshot.json").write_text(json.dumps(told, indent=1))

    @classmethod
    def from_entry(cls, directory: Path) -> Snapshot:
        """Read what :meth:`put_into` wrote.

        :raises CacheError: it is not to be read.
        """
        try:
            told = json.loads((directory / "snapshot.json").read_text())
            return cls(
                storage=directory / "storage.qcow2",
                memory={name: directory / f"{name}.ram" for name in told["points"]},
                console=directory / "console.log",
                points={name: reply.encode() for name, reply in told["points"].items()},
                known=(KgdbLayout(**told["layout"]), told["rx"]),
                pci=told.get("pci", {}),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
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
        kernel_command_line(spec),
        spec.arch.machine if spec.image is not None else [spec.arch.machine, spec.boot_key],
        spec.smp,
        spec.memory,
        spec.accel,
        # That there is a card; not to which ports of the host it leads.
        ["user,restrict=on"] if spec.forwards else [],
        # With the devices' places on the bus, which are kept for devices that were asked for.
        [*spec.qemu_args, "pci"] if PciSpaces.needed(spec.qemu_args) else list(spec.qemu_args),
        # Under KVM the guest sees the host's own processor.
        cpu_model() if spec.accel == "kvm" else platform.machine(),
    ]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
