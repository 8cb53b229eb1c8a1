"""The host's own distribution, and what it calls the packages that Debian has under other names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT = Path("/")

# By Debian's name: those of Fedora and Red Hat, of openSUSE and SUSE, and of Arch; "" where there
# is none, or none that we know. What is not here has the same name everywhere.
_OTHERS: Final[Mapping[str, tuple[str, str, str]]] = {
    "busybox-static": ("busybox", "busybox-static", "busybox"),
    "dpkg": ("dpkg", "dpkg", "dpkg"),
    "apt": ("apt", "", "apt"),
    "dwarves": ("dwarves", "dwarves", "pahole"),
    "grub-pc-bin": ("grub2-pc-modules", "grub2-i386-pc", "grub"),
    "libelf-dev": ("elfutils-libelf-devel", "libelf-devel", "libelf"),
    "libssl-dev": ("openssl-devel", "libopenssl-devel", "openssl"),
    "linux-source": ("", "", ""),
    "mmdebstrap": ("mmdebstrap", "", ""),
    "pahole": ("dwarves", "dwarves", "pahole"),
    "openssh-client": ("openssh-clients", "openssh-clients", "openssh"),
    "qemu-system-x86": ("qemu-system-x86", "qemu-x86", "qemu-system-x86"),
    "qemu-utils": ("qemu-img", "qemu-tools", "qemu-img"),
    "uidmap": ("shadow-utils", "shadow", "shadow"),
    "xz-utils": ("xz", "xz", "xz"),
}
_COMMANDS: Final = ("dnf install", "zypper install", "pacman -S")
_APT: Final = "apt install"
# os-release(5), ID and ID_LIKE: the place in the tuples above.
_SYSTEMS: Final[Mapping[str, int]] = {
    "fedora": 0,
    "rhel": 0,
    "centos": 0,
    "suse": 1,
    "opensuse": 1,
    "sles": 1,
    "arch": 2,
}


def os_release(root: Path | None = None) -> dict[str, str]:
    """Return the fields of os-release(5); none where there is no such file.

    :param root: the directory in which the system is installed, by default the running one's.
    """
    root = root or ROOT
    for place in ("etc/os-release", "usr/lib/os-release"):
        try:
            lines = (root / place).read_text(errors="replace").splitlines()
        except OSError:
            continue
        pairs = (line.partition("=") for line in lines if "=" in line)
        return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}
    return {}


@dataclass(frozen=True)
class Host:
    """A distribution, by the names that os-release(5) gives it."""

    systems: tuple[str, ...]
    """ID, then what ID_LIKE says, the nearest first."""

    @classmethod
    def of(cls, root: Path | None = None) -> Host:
        """Return the one that is installed in a directory, by default the running one."""
        fields = os_release(root)
        return cls((*fields.get("ID", "").split(), *fields.get("ID_LIKE", "").split()))

    @property
    def has_apt(self) -> bool:
        """Whether its packages have Debian's names. It is assumed where nothing is known."""
        return not self.systems or any(name in ("debian", "ubuntu") for name in self.systems)

    def install(self, *packages: str) -> str:
        """Return the command that installs packages, or words that say what to look for.

        :param packages: by the names that Debian has for them.
        """
        if self.has_apt:
            return f"{_APT} {' '.join(packages)}"
        place = self._place()
        if place is None:
            return f"install what Debian calls {', '.join(packages)}"
        names = [_OTHERS[name][place] if name in _OTHERS else name for name in packages]
        there = [name for name in names if name]
        unknown = [package for package, name in zip(packages, names, strict=True) if not name]
        parts = [f"{_COMMANDS[place]} {' '.join(there)}"] if there else []
        if unknown:
            parts.append(f"install what Debian calls {', '.join(unknown)}")
        return "; ".join(parts)

    def install_debug_symbols(self, release: str) -> str:
        """Return how the debug symbols of an installed kernel are installed, or ""."""
        for system in self.systems:
            if system == "ubuntu":
                return f"apt install linux-image-{release}-dbgsym (ddebs)"
            if system == "debian":
                return f"apt install linux-image-{release}-dbg; or package:linux-image-{release}"
            place = _system(system)
            if place is not None:
                return (
                    f"dnf debuginfo-install kernel-{release}",
                    "zypper install kernel-default-debuginfo",
                    "pacman -S linux-debug",
                )[place]
        return ""

    def _place(self) -> int | None:
        places = (_system(name) for name in self.systems)
        return next((place for place in places if place is not None), None)


def install(*packages: str) -> str:
    """Return the command that installs packages here, given by Debian's names."""
    return Host.of().install(*packages)


def _system(name: str) -> int | None:
    # openSUSE's IDs are opensuse-leap, opensuse-tumbleweed and more.
    return _SYSTEMS.get(name.partition("-")[0])
