"""Debian's own configuration, trimmed to what a QEMU guest can load, under kgdb."""

from __future__ import annotations

import pytest
from machines import Boot

pytestmark = pytest.mark.kgdb(memory=512, timeout=900)


def test_it_is_debians_configuration(kgdb_kernel):
    assert kgdb_kernel.release.endswith("-kgdb")
    on = ("CONFIG_SECURITY_APPARMOR", "CONFIG_SECURITY_SELINUX", "CONFIG_BPF_JIT", "CONFIG_NUMA")
    assert {name: kgdb_kernel.config.get(name) for name in on} == dict.fromkeys(on, "y")
    assert kgdb_kernel.config["CONFIG_VIRTIO_NET"] == "m"
    assert "CONFIG_WLAN_VENDOR_INTEL" not in kgdb_kernel.config or (
        "CONFIG_IWLWIFI" not in kgdb_kernel.config  # no QEMU guest has one
    )


def test_it_is_up_by_its_initramfs(kgdb, kgdb_kernel):
    reply = kgdb.run("systemctl is-system-running; systemctl --failed --no-legend --plain")
    assert reply.output == "running\n"
    assert kgdb.run("uname -r").output == f"{kgdb_kernel.release}\n"
    # Only an initramfs can find a root by its label.
    assert "root=LABEL=debian" in kgdb.run("cat /proc/cmdline").output
    assert kgdb.run("findmnt -no FSTYPE /").output == "ext4\n"
    assert "Unpacking initramfs" in kgdb.dmesg()


def test_it_is_up_without_an_initramfs(boot: Boot) -> None:
    """The driver of the disk and its file system are built in, and the kernel mounts /dev."""
    # The origins say what was asked for; a disk takes no busybox initrd that was not.
    with boot(initrd="busybox", append="", origins={}) as kgdb:
        assert kgdb.run("systemctl is-system-running").output == "running\n"
        assert "root=/dev/vda" in kgdb.run("cat /proc/cmdline").output
        assert "Unpacking initramfs" not in kgdb.dmesg()


def test_a_breakpoint_on_the_way_of_a_command(kgdb):
    kgdb.type("cat /etc/hostname")
    # Where the name is in the kernel: the caller's page with it may not be there yet, and a
    # condition that cannot be read stops.
    with kgdb.breakpoint("do_filp_open", condition='$_streq(pathname->name, "/etc/hostname")'):
        stop = kgdb.cont()
        assert stop.reason == "breakpoint"
        assert stop.task.comm == "cat"
    assert kgdb.run("echo on").output.endswith("on\n")


def test_the_modules_that_the_system_loaded(kgdb):
    reply = {line.split()[0] for line in kgdb.run("lsmod").output.splitlines()[1:]}
    assert {module.name for module in kgdb.modules} == reply
    assert {"virtio_net", "ata_piix"} <= reply
    assert kgdb.modules["virtio_net"].sections[".text"]  # from here on gdb knows it
    with kgdb.breakpoint("virtnet_open") as opened:
        kgdb.type("ip link set eth0 down; ip link set eth0 up")
        stop = kgdb.cont()
        assert stop.breakpoint is opened
        assert stop.frame.file == "drivers/net/virtio_net.c"
        assert stop.task.comm == "ip"


@pytest.mark.parametrize("time", [1, 2])
def test_each_test_has_it_as_it_was(kgdb, time):
    assert kgdb.run("cat /root/mark").status == 1
    assert "dummy" not in kgdb.modules
    assert kgdb.run("echo here > /root/mark; sync; modprobe dummy").status == 0
    assert "dummy" in kgdb.modules
    assert kgdb.ssh("cat /root/mark").output == "here\n"
