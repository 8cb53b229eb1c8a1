"""Other ways to the same shell, each on a machine of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from knocking import knocks
from machines import Boot, OpenSession

from pytest_kgdb import Kgdb
from pytest_kgdb.disk import Disk
from pytest_kgdb.errors import BootError
from pytest_kgdb.settings import Settings


def test_by_debians_own_initramfs(boot: Boot) -> None:
    with boot(initrd="initramfs-tools", append="root=LABEL=debian rw") as kgdb:
        assert kgdb.run("systemctl is-system-running").output == "running\n"
        assert kgdb.run("findmnt -no FSTYPE /").output == "ext4\n"
        assert "Unpacking initramfs" in kgdb.dmesg()


def test_another_suite(boot: Boot) -> None:
    with boot(disk="debian:trixie", disk_package=()) as kgdb:
        assert kgdb.run("systemctl is-system-running").output == "running\n"
        assert kgdb.run(". /etc/os-release; echo $VERSION_CODENAME").output == "trixie\n"
        assert "\x1b" not in kgdb.run("ip address; ls --color=auto /").output


def test_a_network_that_was_asked_for(boot: Boot) -> None:
    """It goes out by the very ways that are shut otherwise (test_nothing_goes_out)."""
    card = ("-netdev", "user,id=out", "-device", "virtio-net-pci,netdev=out")
    with boot(qemu_arg=card, forward=()) as kgdb:
        for address, proto, reached in knocks(kgdb):
            assert reached, f"{proto} to {address} did not go out"


def test_an_image_of_the_users_own(kgdb_disk: Disk, boot: Boot, tmp_path: Path) -> None:
    image = tmp_path / "mine.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", kgdb_disk.path, image], check=True)
    before = image.read_bytes()
    with boot(disk=str(image)) as kgdb:
        kgdb.run("echo mess > /etc/fstab; sync")
        assert kgdb.run("systemctl is-system-running").output == "running\n"
    assert image.read_bytes() == before


def test_an_image_without_a_serial_login(kgdb_disk: Disk, boot: Boot, tmp_path: Path) -> None:
    raw, image = tmp_path / "mute.raw", tmp_path / "mute.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "raw", kgdb_disk.path, raw], check=True)
    link = "/etc/systemd/system/multi-user.target.wants/pytest-kgdb-console@ttyS0.service"
    subprocess.run(["/sbin/debugfs", "-w", "-R", f"rm {link}", raw], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image], check=True)
    with (
        pytest.raises(BootError, match="did not say that it is ready") as caught,
        boot(disk=str(image), timeout=90),
    ):
        pass
    assert "target multi-user.target" in str(caught.value)  # the console's last lines


def test_from_the_disks_own_boot_loader(open_session: OpenSession, settings: Settings) -> None:
    with open_session(boot="disk", disk_package=()) as session:
        wants = session.settings.for_marker({}, "the test")
        base = session._disk
        assert base is not None
        before = base.path.stat().st_mtime_ns, base.path.read_bytes()
        kgdb = session.acquire(wants)
        assert kgdb.run("systemctl is-system-running").output == "running\n"
        release = session.kernel.release
        assert kgdb.run("cat /proc/cmdline").output.startswith(f"BOOT_IMAGE=/vmlinuz-{release} ")
        mounted = kgdb.run("findmnt -no SOURCE /; findmnt -no SOURCE /boot").output
        assert mounted == "/dev/vda2\n/dev/vda1\n"
        listing = kgdb.run("ls -ln /boot").output
        assert kgdb.run("rm -r /boot/* /etc/passwd; sync; ls /boot").output == ""
        session.release()
        kgdb = session.acquire(wants)
        assert kgdb.run("ls -ln /boot; test -e /etc/passwd").output == listing
        assert f" 0 0 {session.kernel.image.stat().st_size} " in " ".join(listing.split())
        assert (base.path.stat().st_mtime_ns, base.path.read_bytes()) == before


def test_from_the_disks_own_boot_loader_by_its_initramfs(boot: Boot) -> None:
    with boot(boot="disk", initrd="initramfs-tools", append="root=LABEL=debian rw") as kgdb:
        assert kgdb.run("systemctl is-system-running").output == "running\n"
        assert "root=LABEL=debian" in kgdb.run("cat /proc/cmdline").output
        assert kgdb.run("ls /boot").output.split()[2:3] == [f"initrd.img-{kgdb_release(kgdb)}"]
        assert "Unpacking initramfs" in kgdb.dmesg()


def kgdb_release(kgdb: Kgdb) -> str:
    return kgdb.run("uname -r").output.strip()
