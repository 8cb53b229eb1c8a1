"""A real system: systemd, sshd, and a disk that is as it was for every test."""

from __future__ import annotations

import subprocess

import pytest

pytestmark = pytest.mark.kgdb(memory=512, timeout=300)


@pytest.mark.kgdb(at="kgdbwait")
def test_each_message_of_the_boot(kgdb):
    """From before init on, the kernel stops before every message that it prints."""
    formats = []
    with kgdb.breakpoint("printk") as printk:
        for _ in range(20):
            formats.append(kgdb.cont().frame.args["fmt"].string())
    assert printk.hits == 20
    assert all(formats)


@pytest.mark.kgdb(at="kgdbwait")
def test_the_root_file_system_is_mounted(kgdb):
    """Follow the kernel where a boot goes wrong that says "Unable to mount root fs"."""
    with kgdb.breakpoint("do_mount_root"):
        stop = kgdb.cont()
        while stop.frame.args["fs"].string() != "ext4":  # it tries one type after the other
            stop = kgdb.cont()
    assert stop.frame.args["name"].string() == "/dev/root"
    assert kgdb.finish().return_value == 0


def test_systemd_has_nothing_left_to_do(kgdb):
    """The machine is up, and no unit failed."""
    assert kgdb.run("systemctl is-system-running").output == "running\n"


def test_a_service_dies_and_is_started_again(kgdb):
    """See a process end in the kernel, and what systemd makes of it."""
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


def test_who_comes_in_by_ssh(kgdb):
    """Log in from the host: it needs --kgdb-forward=tcp:0:22."""
    assert kgdb.ssh("id -un; cat /etc/hostname").output == "root\ndebian\n"
    with kgdb.breakpoint("tcp_v4_do_rcv"):  # the same, seen from within
        ssh = subprocess.Popen([*kgdb.ssh(), "true"])
        stop = kgdb.cont()
        assert "tcp_v4_rcv" in [frame.function for frame in stop.backtrace()]
    kgdb.resume()
    assert ssh.wait(300) == 0


def test_there_and_back_again(kgdb):
    """A snapshot is taken and applied: memory and disk are what they were."""
    kgdb.run("echo before >/root/when; sync")
    kgdb.snapshot("before")
    kgdb.run("rm -rf /usr/bin /root/when; sync")
    assert kgdb.run("/usr/bin/ls").status != 0
    kgdb.restore("before")
    assert kgdb.run("cat /root/when; /usr/bin/ls /root").output == "before\nwhen\n"


def test_wreck_the_system(kgdb):
    """What this does to the disk, no other test will see."""
    kgdb.run("rm -rf /etc /var /usr/share; sync")
    assert kgdb.run("cat /etc/fstab").status != 0


def test_the_system_is_whole(kgdb):
    """Whatever came before, in whatever order."""
    assert "LABEL=debian" in kgdb.run("cat /etc/fstab").output
    assert kgdb.run("dpkg --audit").output == ""
