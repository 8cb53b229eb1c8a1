"""Packages by the names of the host's distribution; the release files are made up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pytest_kgdb
from pytest_kgdb import host
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.host import Host, os_release
from pytest_kgdb.kernel._diagnose import fix
from pytest_kgdb.process import which

DEBIAN = 'ID=debian\nVERSION_CODENAME=trixie\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n'
UBUNTU = "ID=ubuntu\nID_LIKE=debian\n"
MINT = 'ID=linuxmint\nID_LIKE="ubuntu debian"\n'
FEDORA = "NAME='Fedora Linux'\nID=fedora\n"
ROCKY = 'ID="rocky"\nID_LIKE="rhel centos fedora"\n'
LEAP = 'ID="opensuse-leap"\nID_LIKE="suse opensuse"\n'
SLES = 'ID="sles"\nID_LIKE="suse"\n'
ARCH = "ID=arch\n"
MANJARO = "ID=manjaro\nID_LIKE=arch\n"
GENTOO = "ID=gentoo\n"


@pytest.fixture
def system(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root directory with a release file, which is this host's."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(request.param)
    monkeypatch.setattr(host, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("system", "command"),
    [
        (DEBIAN, "apt install flex qemu-utils"),
        (UBUNTU, "apt install flex qemu-utils"),
        (MINT, "apt install flex qemu-utils"),
        (FEDORA, "dnf install flex qemu-img"),
        (ROCKY, "dnf install flex qemu-img"),
        (LEAP, "zypper install flex qemu-tools"),
        (SLES, "zypper install flex qemu-tools"),
        (ARCH, "pacman -S flex qemu-img"),
        (MANJARO, "pacman -S flex qemu-img"),
        (GENTOO, "install what Debian calls flex, qemu-utils"),
        ("", "apt install flex qemu-utils"),
    ],
    indirect=["system"],
)
def test_install(system: Path, command: str) -> None:
    assert Host.of().install("flex", "qemu-utils") == command


@pytest.mark.parametrize("system", [ARCH], indirect=True)
def test_a_package_that_is_not_there(system: Path) -> None:
    """No name is made up."""
    assert Host.of().install("mmdebstrap") == "install what Debian calls mmdebstrap"
    assert Host.of().install("gdb", "linux-source") == (
        "pacman -S gdb; install what Debian calls linux-source"
    )


@pytest.mark.parametrize("system", [FEDORA], indirect=True)
def test_hints_of_errors(system: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        which("no-such-program", package="uidmap")
    assert caught.value.hint == "dnf install shadow-utils"
    assert fix("/bin/sh: 1: bison: not found") == "dnf install bison"
    assert fix("fatal error: gelf.h: No such file or directory") == (
        "dnf install elfutils-libelf-devel"
    )


def test_the_fields(tmp_path: Path) -> None:
    assert os_release(tmp_path) == {}
    assert Host.of(tmp_path) == Host(())
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text("# from the vendor\nID=arch\nBLANK=\n")
    assert os_release(tmp_path) == {"ID": "arch", "BLANK": ""}
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(DEBIAN)
    assert os_release(tmp_path)["PRETTY_NAME"] == "Debian GNU/Linux 13 (trixie)"
    assert Host.of(tmp_path).has_apt


# So called by Debian, Fedora, openSUSE and Arch alike; not tried on such hosts.
SAME = frozenset(
    {
        *("bc", "binutils", "bison", "ccache", "clang", "coreutils", "cpio", "e2fsprogs"),
        *("findutils", "flex", "gcc", "gdb", "git", "gzip", "kmod", "lld", "llvm", "lz4"),
        *("make", "patch", "perl", "rsync", "tar", "util-linux", "zstd"),
    }
)


def test_every_package_that_an_error_names_is_known() -> None:
    named = set()
    for path in Path(pytest_kgdb.__file__).parent.rglob("*.py"):
        named |= set(re.findall(r'\bpackage="([\w-]+)"', path.read_text()))
    assert len(named) > 15
    assert named <= SAME | host._OTHERS.keys()
    assert not SAME & host._OTHERS.keys()
