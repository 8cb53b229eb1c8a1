"""Saves a stopped machine as one file, with all that gdb needs to be at the same line elsewhere."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from ..debugger import in_a_line
from ..disk import backing_of, keep_snapshot
from ..errors import ConfigError, KgdbError
from ..escape import clean
from ..kernel import SourceArchive
from ..machine import MachineSpec
from ._accel import cpu_model, qemu_version
from ._machine_file import Packed, pack, sha256_of, write_machine_file
from ._pci import Spaces
from ._saved_record import TEXT_MOST, DiskRecord, KernelRecord, SavedRecord

if TYPE_CHECKING:
    from ..debugger import Stop
    from ..handle import Attachment
    from ..kernel import Kernel

__all__ = ["SAVED", "MachineExport", "save_machine"]

SAVED: Final = "saved"
"""The snapshot's name in the image that is in the file."""

_BYTES: Final = 100_000_000
"""Of a file for a guest of 256 MiB; more for larger guests."""
_GUEST: Final = 256
_CONSOLE_BYTES: Final = 1 << 20
_FRAMES: Final = 64
_HOPELESS: Final = 5
"""Debug information is compressed to a third or half: with this ratio it is not tried."""


class MachineExport(Protocol):
    """Saves the machine itself (:class:`SnapshotStore`)."""

    def export(self, storage: Path, memory: Path, name: str) -> tuple[bytes, Spaces | None]:
        """Save the stopped machine into files, and none of it in the machine."""


def save_machine(
    path: Path,
    stop: Stop,
    *,
    spec: MachineSpec,
    kernel: Kernel,
    attachment: Attachment,
    export: MachineExport,
    index_cache: Path,
    notice: Callable[[str], None],
) -> None:
    """Save the stopped machine.

    :param index_cache: the directory in which gdb keeps its index of the kernel's symbols.
    :param notice: is told what was left out.
    :raises KgdbError: it cannot be saved.
    """
    disk = _disk_record(spec)
    limit = _BYTES * max(1.0, spec.memory / _GUEST)
    directory = attachment.machine.directory
    try:
        with tempfile.TemporaryDirectory(prefix="save-", dir=directory) as name:
            scratch = Path(name)
            storage, memory = scratch / "storage.qcow2", scratch / "memory"
            stop_reply, pci = export.export(storage, memory, SAVED)
            keep_snapshot(storage, SAVED)
            modules = {module.name: module.file for module in attachment.registry.loaded.values()}
            parts, missing = _Parts(kernel, attachment, scratch, limit).pack(
                {
                    "memory": memory,
                    "storage.qcow2": storage,
                    "console.log": attachment.machine.console.since()[-_CONSOLE_BYTES:],
                    "config": kernel.config.read_bytes(),
                    **({"image": spec.image} if spec.image is not None else {}),
                },
                modules,
                index_cache / f"{kernel.build_id}.gdb-index",
            )
            record = SavedRecord(
                saved=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
                where=_in_a_line(in_a_line(stop)),
                qemu=qemu_version(spec.arch.qemu),
                cpu=cpu_model() if spec.accel == "kvm" else "",
                arch=spec.arch.name,
                smp=spec.smp,
                memory=spec.memory,
                append=spec.append,
                qemu_arg=spec.qemu_arg,
                accel=spec.accel,
                root=spec.root,
                stub=spec.stub,
                forwards=tuple(
                    f"{forward.proto}:{forward.guest}" for forward in attachment.machine.forwards
                ),
                has_image=spec.image is not None,
                disk=disk,
                kernel=KernelRecord.of(kernel),
                reason=stop.reason,
                message=_in_a_line(stop.message or ""),
                stop_reply=_reduced(stop_reply),
                pci=None if pci is None else {place: list(words) for place, words in pci.items()},
                modules={module: file.name for module, file in modules.items()},
                missing=tuple(missing),
            )
            # It must be possible to open what is written.
            SavedRecord.load(record.dump(), lambda why: KgdbError(f"cannot be saved: {why}"))
            write_machine_file(path, record.dump(), parts)
    except OSError as error:
        raise KgdbError(
            f"the machine could not be saved: {error.strerror or error}: {directory}",
            hint="make room there, or set TMPDIR to where there is",
        ) from error
    if "vmlinux" in missing:
        notice(
            f"{path}: without the vmlinux of {kernel.release}, with which it would have more than "
            f"{limit / 1e6:.0f} MB: opening it takes the same kernel, of build id "
            f"{kernel.build_id}, in the cache or by --kgdb-kernel"
        )


def _in_a_line(text: str) -> str:
    """Return a text of the guest's as a record may have it; a task's name may have a tab."""
    return " ".join(clean(text).split())[:TEXT_MOST]


def _reduced(stop_reply: bytes) -> str:
    """Return a stop reply with the signal and the thread only: what gdb has inserted is gone."""
    thread = re.search(rb"thread:[0-9a-fp.]+;", stop_reply)
    return (stop_reply[:3] + (thread[0] if thread else b"")).decode("ascii", "replace")


def _disk_record(spec: MachineSpec) -> DiskRecord | None:
    """Return what tells the disk under the overlay from others."""
    if spec.disk is None:
        return None
    if backing_of(spec.disk) is not None:
        raise ConfigError(
            f"the machine cannot be saved: its disk {spec.disk} is an overlay itself",
            hint="`qemu-img convert -O qcow2` makes one image of it",
        )
    return DiskRecord(spec.disk.name, spec.disk.stat().st_size, sha256_of(spec.disk))


class _Parts:
    """Chooses the parts, so that the file stays within its limit.

    :param limit: bytes.
    """

    def __init__(self, kernel: Kernel, attachment: Attachment, scratch: Path, limit: float) -> None:
        self._kernel = kernel
        self._attachment = attachment
        self._scratch = scratch / "packed"
        self._few = scratch / "sources"
        self._limit = limit

    def pack(
        self, machine: dict[str, Path | bytes], modules: dict[str, Path], index: Path
    ) -> tuple[list[Packed], list[str]]:
        """Return the parts, and the names of those that were left out.

        :param machine: what there is no doing without.
        :param modules: the files of the modules that are loaded.
        :param index: gdb's of the kernel's symbols, which need not be there.
        """
        self._scratch.mkdir()
        vmlinux = self._kernel.vmlinux
        symbols: dict[str, Path | bytes] = {}
        if vmlinux.stat().st_size < _HOPELESS * self._limit:
            symbols["vmlinux"] = vmlinux
            if index.exists():
                symbols["gdb-index"] = index
        system_map = vmlinux.with_name("System.map")
        if system_map.exists():
            machine = {**machine, "System.map": system_map}
        few = self._sources_of_frames()
        for name, file in modules.items():
            machine[f"modules/{name}/{file.name}"] = file
        # The symbols stay for the next file: to compress them takes longer than all the rest.
        kept = self._attachment.machine.directory / "packed"
        kept.mkdir(exist_ok=True)
        with ThreadPoolExecutor(2, "kgdb-pack") as pool:
            packing = [
                {name: pool.submit(pack, name, source, where) for name, source in group.items()}
                for group, where in (
                    (symbols, kept),
                    (machine, self._scratch),
                    (few, self._scratch),
                )
            ]
            debug, needed, sources = map(_results, packing)
        parts = [*needed, *sources]
        missing = []
        if debug and _size(parts) + _size(debug) <= self._limit:
            parts = [*needed, *debug, *sources]
        else:
            missing.append("vmlinux")
        archive = self._kernel.sources
        if isinstance(archive, SourceArchive):
            directory = self._scratch / "whole"
            directory.mkdir()
            whole = [pack(name, source, directory) for name, source in archive.paths.items()]
            replaced = {part.name for part in whole}
            others = [part for part in parts if part.name not in replaced]
            if _size(others) + _size(whole) <= self._limit:
                parts = [*others, *whole]
            else:
                missing.append("sources")
        return parts, missing

    def _sources_of_frames(self) -> dict[str, Path | bytes]:
        """Return archives of the files that the stack's frames are in; whole ones of modules."""
        attachment = self._attachment
        files: dict[str, dict[str, bytes]] = defaultdict(dict)
        frames = attachment.debugger.request("frames", limit=_FRAMES, behind=False)["frames"]
        for frame in frames:
            path, address = frame.get("fullname"), frame.get("address")
            if path is None or address is None:
                continue
            name = attachment.source.name(str(path))
            place = attachment.registry.at(int(address))
            top = "." if place is None or not name.startswith("/") else place[0].name
            with contextlib.suppress(KgdbError):
                files[top][name] = attachment.source.read(str(path), int(address))
        parts: dict[str, Path | bytes] = {}
        for module in attachment.registry.loaded.values():
            archive = attachment.source.of_module(module)
            if isinstance(archive, SourceArchive):
                files.pop(module.name, None)
                for name, source in archive.paths.items():
                    parts[f"modules/{module.name}/{name}"] = source
        for top, contents in files.items():
            directory = self._few / top
            directory.mkdir(parents=True, exist_ok=True)
            SourceArchive.write(contents, directory)
            prefix = "" if top == "." else f"modules/{top}/"
            for path in directory.iterdir():
                if path.is_file():
                    parts[prefix + path.name] = path
        return parts


def _results(futures: dict[str, Future[Packed]]) -> list[Packed]:
    return [future.result() for future in futures.values()]


def _size(parts: list[Packed]) -> int:
    return sum(part.packed for part in parts)
