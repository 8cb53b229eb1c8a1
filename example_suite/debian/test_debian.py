"""A real system: systemd, sshd, and a disk that is restored for every test."""

from __future__ import annotations

import subprocess

import pytest

pytestmark = pytest.mark.kgdb(memory=512, timeout=300)


@pytest.mark.kgdb(at="kgdbwait")
def test_each_message_of_the_boot(kgdb):
    """From early boot on, the kernel stops before every message that it prints."""
    formats = []
    with kgdb.breakpoint("printk") as printk:
        for _ in range(20):
            formats.append(kgdb.cont().frame.args["fmt"].string())
    assert printk.hits == 20
    assert all(formats)


@pytest.mark.kgdb(at="kgdbwait")
def test_the_root_file_system_is_mounted(kgdb):
    """Stop where a boot fails that ends with "Unable to mount root fs"."""
    with kgdb.breakpoint("do_mount_root"):
        stop = kgdb.cont()
        while stop.frame.args["fs"].string() != "ext4":  # the kernel tries each file system type
            stop = kgdb.cont()
    assert stop.frame.args["name"].string() == "/dev/root"
    assert kgdb.finish().return_value == 0


def test_systemd_is_up(kgdb):
    """The system has booted, and no unit failed."""
    assert kgdb.run("systemctl is-system-running").output == "running\n"


def test_a_service_dies_and_is_started_again(kgdb):
    """Watch a process end in the kernel, and systemd restart it."""
    before = int(kgdb.run("systemctl show -P MainPID systemd-journald").output)
    with kgdb.breakpoint("do_group_exit"):
        kgdb.type(f"kill -9 {before}")
        stop = kgdb.cont()
        while stop.task.tgid != before:
            stop = kgdb.cont()
    assert stop.task.comm == "systemd-journal"
    assert stop.frame.args["exit_code"] == 9
    kgdb.run("until systemctl is-active -q systemd-journald; do sleep 1; done")
    after = int(kgdb.run("systemctl show -P MainPID systemd-journald").output)
    assert after not in (0, before)


def test_login_by_ssh(kgdb):
    """Log in from the host; this needs --kgdb-forward=tcp:0:22."""
    assert kgdb.ssh("id -un; cat /etc/hostname").output == "root\ndebian\n"
    with kgdb.breakpoint("tcp_v4_do_rcv"):  # the same, seen in the kernel
        ssh = subprocess.Popen([*kgdb.ssh(), "true"])
        stop = kgdb.cont()
        assert "tcp_v4_rcv" in [frame.function for frame in stop.backtrace()]
    kgdb.resume()
    assert ssh.wait(300) == 0


def test_snapshot_and_restore(kgdb):
    """After a restore, memory and disk are as they were at the snapshot."""
    kgdb.run("echo before >/root/when; sync")
    kgdb.snapshot("before")
    kgdb.run("rm -rf /usr/bin /root/when; sync")
    assert kgdb.run("/usr/bin/ls").status != 0
    kgdb.restore("before")
    assert kgdb.run("cat /root/when; /usr/bin/ls /root").output == "before\nwhen\n"


def test_wreck_the_system(kgdb):
    """No other test sees what this one does to the disk."""
    kgdb.run("rm -rf /etc /var /usr/share; sync")
    assert kgdb.run("cat /etc/fstab").status != 0


def test_the_system_is_whole(kgdb):
    """Whatever tests ran before, in whatever order."""
    assert "LABEL=debian" in kgdb.run("cat /etc/fstab").output
    assert kgdb.run("dpkg --audit").output == ""
