"""A boot loader, a kernel and its initramfs at the beginning of a disk, for a BIOS."""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..errors import BuildError, ConfigError
from ..host import install
from ..kernel import Kernel, file_hash
from ..process import CommandFailed, run, which
from ..progress import Progress
from ._root import root

AREA: Final = "boot.raw"
START_MIB: Final = 1
"""Where the boot partition begins; GRUB is before it."""
ROOT_MIB: Final = 256
"""Where the root partition begins."""
ROOT: Final = "/dev/vda2"

_RECIPE: Final = "1"  # part of every key: to be increased when the same inputs give another area
_SECONDS: Final = 120.0
_SECTOR: Final = 512
_MIB: Final = 1 << 20
_GRUB: Final = Path("/usr/lib/grub/i386-pc")
_PACKAGE: Final = "grub-pc-bin"
_MODULES: Final = ("biosdisk", "part_msdos", "ext2", "normal", "linux")

# ext4 features that all versions of GRUB can read.
_FEATURES: Final = "none,ext_attr,filetype,extent,sparse_super,large_file"

# grub-core/boot/i386/pc/boot.S: the code ends before the partition table and Windows' signature.
_CODE: Final = 440
_TABLE: Final = 446

# lib/cmdline.c, next_arg: spaces separate parameters, except between quotes.
_WORD: Final = re.compile(r'(?:[^\s"]|"[^"]*"?)+')

_CONFIG: Final = """\
set timeout=0
menuentry 'Linux {release}' {{
\tlinux /vmlinuz-{release} {parameters}
{initrd}}}
"""


@dataclass(frozen=True)
class BootArea:
    """The beginning of a disk, up to its root partition."""

    path: Path
    """The file, to be written to the start of a disk's overlay."""
    key: str


def boot_area(
    kernel: Kernel,
    initrd: tuple[Path, str] | None,
    parameters: str,
    disk_mib: int,
    cache: Cache,
    progress: Progress,
) -> BootArea:
    """Return the start of a disk that boots a kernel: GRUB, and a partition for `/boot`.

    :param initrd: the initrd's file and key.
    :param parameters: the kernel's command line.
    :param disk_mib: the size of the disk in MiB.
    :raises ConfigError: GRUB is not installed.
    :raises BuildError: a program failed, or the kernel is too large.
    """
    program = which("grub-mkimage", package=_PACKAGE)
    stages = [_GRUB / "boot.img", _GRUB / "kernel.img"]
    if not all(path.is_file() for path in stages):
        raise ConfigError(
            f"--kgdb-boot=disk needs GRUB for a BIOS, and {_GRUB} is not there",
            hint=install(_PACKAGE),
        )
    parts = [_RECIPE, kernel.key, initrd[1] if initrd else "", parameters, str(disk_mib)]
    parts += [file_hash(path, cache) for path in stages]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]
    label = f"the boot loader for {kernel.release}"

    def build(target: Path) -> None:
        with (
            progress.stage(f"making {label}"),
            tempfile.TemporaryDirectory(prefix="pytest-kgdb-boot-") as scratch,
        ):
            try:
                ram = initrd[0] if initrd else None
                _make(target / AREA, Path(scratch), program, kernel, ram, parameters, disk_mib)
            except CommandFailed as error:
                raise BuildError(
                    f"{label} could not be made: {error.message}", log=error.log
                ) from error

    about = {"release": kernel.release}
    entry = cache.make("boot", key, build, label=label, about=about)
    return BootArea(entry.path / AREA, key)


def _make(
    area: Path,
    scratch: Path,
    program: str,
    kernel: Kernel,
    initrd: Path | None,
    parameters: str,
    disk_mib: int,
) -> None:
    files = scratch / "boot"
    (files / "grub").mkdir(parents=True)
    shutil.copyfile(kernel.image, files / f"vmlinuz-{kernel.release}")
    shutil.copyfile(kernel.config, files / f"config-{kernel.release}")
    if initrd is not None:
        shutil.copyfile(initrd, files / f"initrd.img-{kernel.release}")
    loads = f"\tinitrd /initrd.img-{kernel.release}\n" if initrd is not None else ""
    (files / "grub/grub.cfg").write_text(
        _CONFIG.format(release=kernel.release, parameters=_quoted(parameters), initrd=loads)
    )
    size = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
    mebibytes = size * 21 // 20 // _MIB + 4  # with ext4's own tables
    if mebibytes > ROOT_MIB - START_MIB:
        raise BuildError(
            f"kernel and initrd have {size // _MIB} MiB, and the boot partition "
            f"{ROOT_MIB - START_MIB}",
            hint="--kgdb-config=distro has fewer modules than distro-full",
        )
    partition, core = scratch / "partition", scratch / "core.img"
    mke2fs = which("mke2fs", package="e2fsprogs", system=True)
    run(
        [
            # The files are to be owned by root, also if another user builds them.
            *root().prefix,
            *(mke2fs, "-q", "-t", "ext4", "-L", "boot", "-m", "0", "-O", _FEATURES),
            *("-E", "root_owner=0:0", "-d", str(files), str(partition), f"{mebibytes}M"),
        ],
        timeout=_SECONDS,
    )
    run(
        [
            *(program, "-O", "i386-pc", "-d", str(_GRUB), "-p", "(hd0,msdos1)/grub"),
            *("-o", str(core), *_MODULES),
        ],
        timeout=_SECONDS,
    )
    with area.open("wb") as file:
        file.write(_first_sector((_GRUB / "boot.img").read_bytes(), disk_mib))
        # boot.img expects it in the next sectors, contiguous.
        file.write(core.read_bytes())
        if file.tell() > START_MIB * _MIB:
            raise BuildError(
                f"GRUB has {file.tell()} bytes: too many for the gap before the partition"
            )
        file.seek(START_MIB * _MIB)
        with partition.open("rb") as source:
            shutil.copyfileobj(source, file)


def _first_sector(code: bytes, disk_mib: int) -> bytes:
    """Return a master boot record: GRUB's code, and a table with two partitions."""
    spans = (START_MIB, ROOT_MIB - START_MIB, 0x80), (ROOT_MIB, disk_mib - ROOT_MIB, 0)
    # These cylinders and heads mean that the sector numbers count; 0x83 is Linux.
    chs = b"\xfe\xff\xff"
    table = b"".join(
        struct.pack(
            "<B3sB3sII",
            *(active, chs, 0x83, chs),
            *(start * _MIB // _SECTOR, size * _MIB // _SECTOR),
        )
        for start, size, active in spans
    )
    head = code[:_CODE].ljust(_TABLE, b"\0") + table
    return head.ljust(_SECTOR - 2, b"\0") + b"\x55\xaa"


def _quoted(parameters: str) -> str:
    """Return the kernel's parameters, quoted for GRUB's shell.

    GRUB passes a parameter with spaces on with quotes around all of it (grub-core/lib/cmdline.c),
    which means the same to the kernel (lib/cmdline.c, next_arg).
    """
    words = (word.replace('"', "") for word in _WORD.findall(parameters))
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
