"""What a saved machine's `machine.json` says: written here, and checked here when it is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, cast, get_args

from ..arch import X86_64, Arch
from ..debugger import Reason
from ..errors import KgdbError
from ..kernel import Kernel, KgdbLayout, PatchedSites, SiteTable, StopLayout
from ..machine import MachineSpec
from ._pci import Spaces

__all__ = ["FORMAT", "TEXT_MOST", "DiskRecord", "KernelRecord", "SavedRecord"]

FORMAT: Final = 1
"""To be raised when an older reader would open a newer file wrongly."""

_ARCHES: Final = {arch.name: arch for arch in (X86_64,)}

# What comes into command lines of QEMU's and gdb's, or is part of a path, has one of these forms.
_WORD: Final = re.compile(r"[\w.+~:-]{0,200}", re.ASCII)
TEXT_MOST: Final = 4000
"""Characters that a text may have."""
# Without control characters, and the marks by which Unicode turns the direction of text.
_TEXT: Final = re.compile(
    rf"[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]{{0,{TEXT_MOST}}}"
)
_PATH: Final = re.compile(r"/[\w.@+,:=~^#%/ -]{0,1000}")
_HEX: Final = re.compile(r"[0-9a-f]{0,128}")
_MODULE: Final = re.compile(r"\w{1,100}", re.ASCII)
_FILE: Final = re.compile(r"\w[\w.+-]{0,200}", re.ASCII)
# gdb manual, "Stop Reply Packets".
_STOP_REPLY: Final = re.compile(r"(?:S[0-9a-f]{2}|T[0-9a-f]{2}(?:[a-z0-9_]+:[0-9a-fp.]*;)*)?")
_DEVICE: Final = re.compile(r"[0-9a-f]{2}\.[0-7]")
_WORDS_OF_SPACE: Final = 64
_SITE_TABLES: Final = 10


@dataclass(frozen=True)
class DiskRecord:
    """The image under the machine's overlay, which is not in the file."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class KernelRecord:
    """What is known of the kernel besides its files."""

    spec: str
    name: str
    release: str
    build_id: str
    compiler: str
    debug_source: str | None
    source_prefixes: tuple[str, ...]
    layout: dict[str, Any] | None
    """Of what a stop is read from (:class:`StopLayout`)."""

    @classmethod
    def of(cls, kernel: Kernel) -> KernelRecord:
        """Return what is saved of a kernel."""
        return cls(
            kernel.spec,
            kernel.name,
            kernel.release,
            kernel.build_id,
            kernel.compiler,
            None if kernel.debug_source is None else str(kernel.debug_source),
            kernel.source_prefixes,
            None if kernel.stop_layout is None else kernel.stop_layout.dump(),
        )


@dataclass(frozen=True)
class SavedRecord:
    """Everything that a machine is started again by, but its parts."""

    saved: str
    """When, in UTC."""
    where: str
    """Why and where its kernel was stopped."""
    qemu: str
    """QEMU's version."""
    cpu: str
    """The host's processor, of which a guest under KVM has seen something; empty under TCG."""
    arch: str
    smp: int
    memory: int
    """MiB."""
    append: str
    qemu_arg: tuple[str, ...]
    accel: str
    root: str
    stub: str
    forwards: tuple[str, ...]
    """Ports of the guest to which ports of the host led: `tcp:22`."""
    has_image: bool
    """Whether QEMU has loaded the kernel, and not a boot loader on the disk."""
    disk: DiskRecord | None
    kernel: KernelRecord
    reason: Reason
    """Why the kernel was stopped."""
    message: str
    """The kernel's words for that; empty where there are none."""
    stop_reply: str
    pci: dict[str, list[int]] | None
    modules: dict[str, str]
    """The files of the modules that were loaded, by the modules' names."""
    missing: tuple[str, ...]
    """Parts that were left out, for want of room."""

    def dump(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def load(cls, values: Mapping[str, Any], damaged: Callable[[str], KgdbError]) -> SavedRecord:
        """Return what :meth:`dump` was called on; it may be somebody else's.

        :param damaged: returns the error for values that cannot be.
        :raises KgdbError: there are such values.
        """
        read = _Reader(values, damaged)
        disk, kernel = read.part("disk"), read.part("kernel")
        if kernel is None:
            raise damaged("it says nothing of the kernel")
        pci = values.get("pci")
        return cls(
            saved=read.text("saved"),
            where=read.text("where"),
            qemu=read.text("qemu", _WORD),
            cpu=read.text("cpu"),
            arch=read.one_of("arch", _ARCHES),
            smp=read.number("smp", 1, 4096),
            memory=read.number("memory", 1, 1 << 22),
            append=read.text("append"),
            qemu_arg=read.texts("qemu_arg", _TEXT),
            accel=read.one_of("accel", ("tcg", "kvm")),
            root=read.text("root"),
            stub=read.one_of("stub", ("kgdb", "qemu")),
            forwards=read.texts("forwards", re.compile(r"(?:tcp|udp):\d{1,5}", re.ASCII)),
            has_image=read.truth("has_image"),
            disk=None
            if disk is None
            else DiskRecord(
                disk.text("name"), disk.number("size", 0, 1 << 62), disk.text("sha256", _HEX)
            ),
            kernel=KernelRecord(
                spec=kernel.text("spec"),
                name=kernel.text("name"),
                release=kernel.text("release", _WORD),
                build_id=kernel.text("build_id", _HEX),
                compiler=kernel.text("compiler"),
                debug_source=kernel.text("debug_source", _PATH, optional=True) or None,
                source_prefixes=kernel.texts("source_prefixes", _PATH),
                layout=kernel.layout("layout"),
            ),
            reason=cast(Reason, read.one_of("reason", get_args(Reason))),
            message=read.text("message", optional=True),
            stop_reply=read.text("stop_reply", _STOP_REPLY),
            pci=None if pci is None else read.spaces("pci"),
            modules=read.names("modules"),
            missing=read.texts("missing", _FILE),
        )

    def machine(self, *, image: Path | None, disk: Path | None) -> MachineSpec:
        """Return the machine that can load it.

        :param image: the kernel's image; for a machine whose kernel QEMU has loaded.
        :param disk: the image under its overlay.
        """
        return MachineSpec(
            arch=self.architecture,
            image=image,
            initrd=None,  # which the kernel has unpacked long since
            smp=self.smp,
            memory=self.memory,
            append=self.append,
            qemu_arg=self.qemu_arg,
            accel=self.accel,
            disk=disk,
            root=self.root,
            # On ports that are free here.
            forwards=tuple(
                f"{proto}:127.0.0.1:0-:{port}"
                for proto, _, port in (forward.partition(":") for forward in self.forwards)
            ),
            stub=self.stub,
        )

    @property
    def architecture(self) -> Arch:
        """The machine's architecture."""
        return _ARCHES[self.arch]

    @property
    def spaces(self) -> Spaces | None:
        """The PCI devices' configuration, where QEMU may not have saved it."""
        return self.pci


class _Reader:
    """Reads checked values."""

    def __init__(self, values: Mapping[str, Any], damaged: Callable[[str], KgdbError]) -> None:
        self._values, self._damaged = values, damaged

    def _refused(self, name: str) -> KgdbError:
        return self._damaged(f"machine.json: {name} cannot be {str(self._values.get(name))[:80]!r}")

    def text(self, name: str, form: re.Pattern[str] = _TEXT, *, optional: bool = False) -> str:
        value = self._values.get(name)
        if value is None and optional:
            return ""
        if not isinstance(value, str) or not form.fullmatch(value):
            raise self._refused(name)
        return value

    def texts(self, name: str, form: re.Pattern[str]) -> tuple[str, ...]:
        value = self._values.get(name)
        if not isinstance(value, list | tuple) or not all(
            isinstance(item, str) and form.fullmatch(item) for item in value
        ):
            raise self._refused(name)
        return tuple(value)

    def one_of(self, name: str, values: Any) -> str:
        value = self._values.get(name)
        if not isinstance(value, str) or value not in values:
            raise self._refused(name)
        return value

    def number(self, name: str, least: int, most: int) -> int:
        value = self._values.get(name)
        if type(value) is not int or not least <= value <= most:
            raise self._refused(name)
        return value

    def truth(self, name: str) -> bool:
        value = self._values.get(name)
        if not isinstance(value, bool):
            raise self._refused(name)
        return value

    def part(self, name: str) -> _Reader | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._refused(name)
        return _Reader(value, self._damaged)

    def names(self, name: str) -> dict[str, str]:
        value = self._values.get(name)
        if not isinstance(value, dict) or not all(
            _MODULE.fullmatch(key) and isinstance(file, str) and _FILE.fullmatch(file)
            for key, file in value.items()
        ):
            raise self._refused(name)
        return dict(value)

    def layout(self, name: str) -> dict[str, Any] | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._refused(name)
        numbers, (kgdb, patched) = _without(value, "kgdb", "patched")
        if not (
            _are_numbers_of(StopLayout, numbers)
            and (kgdb is None or _are_numbers_of(KgdbLayout, kgdb))
            and (patched is None or _are_sites(patched))
        ):
            raise self._refused(name)
        try:
            StopLayout.load(value)
        except (TypeError, KeyError):  # one is missing
            raise self._refused(name) from None
        return dict(value)

    def spaces(self, name: str) -> dict[str, list[int]]:
        value = self._values.get(name)
        if not isinstance(value, dict) or not all(
            _DEVICE.fullmatch(device)
            and isinstance(words, list)
            and len(words) == _WORDS_OF_SPACE
            and all(type(word) is int and 0 <= word < 1 << 32 for word in words)
            for device, words in value.items()
        ):
            raise self._refused(name)
        return dict(value)


def _without(values: dict[str, Any], *names: str) -> tuple[dict[str, Any], list[Any]]:
    """Return the others of some values, and those of these names; None for one that is missing."""
    others = {name: value for name, value in values.items() if name not in names}
    return others, [values.get(name) for name in names]


def _are_sites(value: object) -> bool:
    """Return whether a value from a file can be the tables of what a kernel patches."""
    if not isinstance(value, dict):
        return False
    numbers, (tables,) = _without(value, "tables")
    return (
        _are_numbers_of(PatchedSites, numbers)
        and isinstance(tables, list | tuple)
        and len(tables) <= _SITE_TABLES
        and all(_are_numbers_of(SiteTable, table) for table in tables)
    )


def _are_numbers_of(
    layout: type[StopLayout | KgdbLayout | PatchedSites | SiteTable], value: object
) -> bool:
    """Return whether a value from a file can be the fields of a layout."""
    kinds = {field.name: field for field in fields(layout)}
    return (
        isinstance(value, dict)
        and set(value) <= set(kinds)
        and all(
            (type(number) is int and 0 <= number < 1 << 64)
            or (number is None and kinds[key].default is None)
            for key, number in value.items()
        )
    )
