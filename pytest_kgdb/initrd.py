"""The initrd: busybox and the kernel's modules in a cpio archive, reproducible byte by byte."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from .cache import Cache
from .elf import ElfFile
from .errors import ConfigError
from .host import install
from .kernel import Kernel, file_hash
from .process import run
from .progress import Progress
from .settings import Settings

__all__ = ["READY", "Initrd", "prepare"]

READY: Final = "pytest-kgdb: ready"
"""The line that the guest prints when its shell starts (data/initrd/ready)."""

_RECIPE: Final = "1"  # part of every key: to be increased when the same inputs give another initrd
_SECONDS: Final = 120.0
_BUSYBOXES: Final = ("/usr/bin/busybox", "/bin/busybox")
_DIRECTORIES: Final = (
    *("bin", "sbin", "usr", "usr/bin", "usr/sbin", "dev", "etc", "mnt", "proc"),
    *("root", "run", "sys", "tmp"),
)
_SCRIPTS: Final = {"inittab": 0o644, "setup": 0o755, "shell": 0o755, "ready": 0o644}

# The guest's kernel decompresses the initrd at every boot: a small one is faster uncompressed.
_COMPRESS_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class Initrd:
    """An initrd that is ready to boot."""

    path: Path
    key: str
    """Hash of all that it is built from."""
    kind: str
    """`busybox`, `initramfs-tools`, or `file` for the user's own."""
    base: Initrd | None = None
    """The same without the external modules, where it is known."""
    external: Path | None = None
    """What that one lacks: a cpio archive."""


def prepare(
    settings: Settings,
    kernel: Kernel,
    modules: Sequence[Path],
    cache: Cache,
    progress: Progress,
) -> Initrd:
    """Return the initrd that the settings name, built first if it is not in the cache.

    :param modules: external modules to include.
    :raises ConfigError: there is no such file, no static busybox, or no depmod.
    """
    kind = settings.initrd
    if kind == "busybox" and settings.disk != "none" and kernel.is_shipped:
        from .disk import needs_initramfs

        kind = "initramfs-tools" if needs_initramfs(settings, kernel) else kind
    if kind == "busybox":
        return _busybox(kernel, modules, cache)
    if kind == "initramfs-tools":
        from .disk import initramfs_tools  # which most runs have no use for

        path, key = initramfs_tools(settings, kernel, modules, cache, progress)
        return Initrd(path, key, "initramfs-tools")
    path = Path(settings.initrd)
    if not path.is_file():
        raise ConfigError(f"{settings.origin('initrd')}: there is no file {path}")
    if modules and settings.disk == "none":
        raise ConfigError(
            f"{settings.origin('module')}: {path} is used as it is, and has no room for modules",
            hint="use --kgdb-initrd=busybox, or put() them into the guest",
        )
    return Initrd(path, file_hash(path, cache), "file")


def _busybox(kernel: Kernel, modules: Sequence[Path], cache: Cache) -> Initrd:
    base = _without_external(kernel, cache)
    if not modules:
        return base
    parts = [_RECIPE, base.key, kernel.key, kernel.release]
    parts += [f"{path.name} {file_hash(path, cache)}" for path in modules]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def build(target: Path) -> None:
        from .kernel import collect_external  # a warm start builds nothing

        with tempfile.TemporaryDirectory(prefix="pytest-kgdb-initrd-") as scratch:
            collect_external(kernel, modules, Path(scratch))
            data = archive(_tree(Path(scratch)))
        (target / "external").write_bytes(data)
        (target / "initrd").write_bytes(joined(base.path.read_bytes(), data))

    label = f"the initrd of {kernel.release} with {', '.join(path.stem for path in modules)}"
    entry = cache.make("initrd", key, build, label=label, about={"kind": "busybox"})
    return Initrd(entry.path / "initrd", key, "busybox", base, entry.path / "external")


def _without_external(kernel: Kernel, cache: Cache) -> Initrd:
    program = _find_busybox(cache)
    parts = [_RECIPE, file_hash(program, cache)]
    parts += [_data(name) for name in _SCRIPTS]
    if kernel.modules_dir is not None:
        parts += [kernel.key, kernel.release]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def build(target: Path) -> None:
        from .kernel import collect_modules, compress_modules  # a warm start builds nothing

        with tempfile.TemporaryDirectory(prefix="pytest-kgdb-initrd-") as scratch:
            collect_modules(kernel, (), Path(scratch))
            if kernel.is_shipped:
                compress_modules(Path(scratch))
            data = archive(_members(program, Path(scratch)))
        large = len(data) >= _COMPRESS_BYTES and not kernel.is_shipped
        if large and kernel.config.get("RD_GZIP") == "y":
            import gzip  # rarely needed

            data = gzip.compress(data, compresslevel=1, mtime=0)
        (target / "initrd").write_bytes(data)

    label = "the initrd" if kernel.modules_dir is None else f"the initrd of {kernel.release}"
    entry = cache.make("initrd", key, build, label=label, about={"kind": "busybox"})
    return Initrd(entry.path / "initrd", key, "busybox")


@dataclass(frozen=True)
class Member:
    """One member of an archive."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def archive(members: Iterable[Member]) -> bytes:
    """Return a cpio archive in the format that the kernel unpacks.

    The format is "newc" (Documentation/driver-api/early-userspace/buffer-format.rst). All members
    are owned by root, have the time 0, and are sorted by name, directories before their content.
    """
    out = io.BytesIO()
    numbered = enumerate(sorted(members, key=lambda member: member.name), 1)
    for inode, member in (*numbered, (0, Member("TRAILER!!!", 0))):
        name = os.fsencode(member.name) + b"\0"
        links = 2 if stat.S_ISDIR(member.mode) else 1
        fields = [inode, member.mode, 0, 0, links, 0, len(member.data), 0, 0]
        fields += [*member.device, len(name), 0]
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields))
        out.write(name + bytes(-(110 + len(name)) % 4))
        out.write(member.data + bytes(-len(member.data) % 4))
    return out.getvalue()


def joined(first: bytes, second: bytes) -> bytes:
    """Return two archives as one, in which the second one's files count."""
    if first.endswith(_TRAILER):
        return first[: -len(_TRAILER)] + second
    # A compressed one: the kernel unpacks several after one another, each at a multiple of four.
    return first + bytes(-len(first) % 4) + second


_TRAILER: Final = archive([])  # the end of every archive


def _members(busybox: Path, modules: Path) -> Iterator[Member]:
    for name in _DIRECTORIES:
        yield Member(name, stat.S_IFDIR | (0o1777 if name == "tmp" else 0o755))
    # Without it, init has no standard output (init/main.c, console_on_rootfs).
    yield Member("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    yield Member("dev/null", stat.S_IFCHR | 0o666, device=(1, 3))
    yield Member("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    yield Member("init", stat.S_IFLNK | 0o777, b"/bin/busybox")
    applets = run([str(busybox), "--list-full"], timeout=_SECONDS).output.split()
    for applet in sorted(set(applets) - {"bin/busybox"}):
        if applet.rpartition("/")[0] in _DIRECTORIES:
            yield Member(applet, stat.S_IFLNK | 0o777, b"/bin/busybox")
    for name, mode in _SCRIPTS.items():
        yield Member(f"etc/{name}", stat.S_IFREG | mode, _data(name).encode())
    yield Member("etc/passwd", stat.S_IFREG | 0o644, b"root::0:0:root:/root:/bin/sh\n")
    yield Member("etc/group", stat.S_IFREG | 0o644, b"root:x:0:\n")
    yield from _tree(modules)


def _tree(root: Path) -> Iterator[Member]:
    """Yield what is in a directory."""
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            member = str(path.relative_to(root))
            if path.is_dir():
                yield Member(member, stat.S_IFDIR | 0o755)
            else:
                yield Member(member, stat.S_IFREG | 0o644, path.read_bytes())


def _find_busybox(cache: Cache) -> Path:
    """Return a static busybox: Debian's, or the one on PATH."""
    candidates = [*_BUSYBOXES]
    if on_path := shutil.which("busybox"):
        candidates.append(on_path)
    present = [path for name in candidates if (path := Path(name)).is_file()]
    for path in present:
        if is_static(path) and "cttyhack" in _applets(path, cache):
            return path
    what = f"{present[0]} is not static" if present else "there is no busybox"
    raise ConfigError(
        f"the initrd needs a static busybox, and {what}", hint=install("busybox-static")
    )


def _applets(busybox: Path, cache: Cache) -> list[str]:
    key = f"{busybox} {file_hash(busybox, cache)}"
    return cache.memo(
        "busybox", key, lambda: run([str(busybox), "--list"], timeout=_SECONDS).output
    ).split()


def is_static(path: Path) -> bool:
    """Whether a file is a 64-bit ELF program that needs no dynamic loader."""
    try:
        with ElfFile(path) as elf:
            return not elf.is_dynamic
    except ConfigError:
        return False


def _data(name: str) -> str:
    return (resources.files("pytest_kgdb") / "data/initrd" / name).read_text()
