"""A distribution's kernel in small: an image, debug symbols, a module, packages, an archive."""

from __future__ import annotations

import gzip
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

RELEASE = "6.1.0-9-test"
ROOT = "/build/linux-6.1.99"

CONFIG = "".join(
    f"CONFIG_{name}=y\n"
    for name in ("SERIAL_8250_CONSOLE", "BLK_DEV_INITRD", "DEBUG_INFO", "MODULES")
)
KGDB = "".join(
    f"CONFIG_{name}=y\n" for name in ("KGDB_SERIAL_CONSOLE", "MAGIC_SYSRQ", "MAGIC_SYSRQ_SERIAL")
)

_SOURCE = """
const char linux_banner[] __attribute__((used)) =
    "Linux version {release} (someone) #1 SMP Debian 6.1.99-{number} (2026-01-01)\\n";
int main(void) {{ return {number}; }}
"""


class Built(NamedTuple):
    """What a build leaves."""

    image: bytes
    vmlinux: bytes
    config: str = CONFIG


def build(directory: Path, *, release: str = RELEASE, number: int = 1) -> Built:
    """Build a kernel; another number gives another build id."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "x.c").write_text(_SOURCE.format(release=release, number=number))
    # By the name of its unit, the source's place is recognised.
    assembler = directory / "arch/x86/kernel/head_64.S"
    put(directory, {"arch/x86/kernel/head_64.S": ".text\nnop\n.section .note.GNU-stack\n"})
    command = "gcc -g -static -nostdlib -Wl,--build-id=sha1 -Wl,-e,main -o vmlinux x.c"
    argv = [*command.split(), f"-fdebug-prefix-map={directory}={ROOT}", str(assembler)]
    subprocess.run(argv, cwd=directory, check=True)
    vmlinux = (directory / "vmlinux").read_bytes()
    return Built(boot_image(vmlinux, release), vmlinux)


def boot_image(vmlinux: bytes, release: str) -> bytes:
    """Return a bzImage around a kernel, as far as anybody looks at it here."""
    payload = gzip.compress(vmlinux)
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x20F)
    struct.pack_into("<H", head, 0x20E, 0x100)
    name = f"{release} (someone) #1".encode() + b"\0"
    head[0x300 : 0x300 + len(name)] = name
    struct.pack_into("<II", head, 0x248, 0, len(payload))
    return bytes(head) + payload


def put(root: Path, files: dict[str, bytes | str]) -> None:
    """Write files below a directory, by their paths there."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


class Archive:
    """A Debian archive in a directory, which apt reads by `file:`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._pool = directory / "pool"
        self._pool.mkdir(parents=True)
        self._packages = ""

    def add(
        self,
        name: str,
        version: str,
        files: dict[str, bytes | str] | None = None,
        *,
        depends: str = "",
    ) -> Path:
        """Add a package, and return its file."""
        tree = self.directory / "trees" / f"{name}_{version}"
        put(tree, files or {})
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
        control += "Maintainer: Someone <someone@example.org>\nDescription: a test\n"
        control += f"Depends: {depends}\n" if depends else ""
        put(tree, {"DEBIAN/control": control})
        target = self._pool / f"{name}_{version}_all.deb"
        argv = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(target)]
        subprocess.run(argv, check=True, capture_output=True)
        self._packages += control + self._fields(target) + "\n"
        self.publish()
        return target

    def _fields(self, file: Path) -> str:
        import hashlib

        data = file.read_bytes()
        return (
            f"Filename: pool/{file.name}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
        )

    def publish(self) -> None:
        """Write the list of packages."""
        (self.directory / "Packages").write_text(self._packages)

    def clear(self) -> None:
        """Take all packages out of the list; the files stay."""
        self._packages = ""
        self.publish()

    def options(self) -> list[str]:
        """Return the settings with which apt uses this archive, and no other."""
        sources = self.directory / "sources.list"
        sources.write_text(f"deb [trusted=yes] copy:{self.directory} ./\n")
        return [f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=/dev/null"]

    def add_kernel(
        self,
        built: Built,
        *,
        release: str = RELEASE,
        version: str = "6.1.99-1",
        debug: Built | None = None,
    ) -> None:
        """Add the packages of a kernel.

        :param debug: the build whose debug symbols there are; by default the same.
        """
        module = "lib/modules/{}/kernel/drivers/dummy.ko"
        self.add(
            f"linux-image-{release}",
            version,
            {
                f"boot/vmlinuz-{release}": built.image,
                f"boot/config-{release}": built.config,
                module.format(release): "as shipped",
            },
        )
        debugging = debug or built
        self.add(
            f"linux-image-{release}-dbg",
            version,
            {
                f"usr/lib/debug/boot/vmlinux-{release}": debugging.vmlinux,
                f"usr/lib/debug/boot/System.map-{release}": "",
                f"usr/lib/debug/{module.format(release)}": "with debug information",
            },
        )
        self.add("linux-image-test", version, depends=f"linux-image-{release} (= {version})")
