"""A Debian as the guest: up and well, its shell fit for a program, put back with its disk."""

from __future__ import annotations

import hashlib
import random
import re

import pytest

from pytest_kgdb.errors import GuestCommandError

pytestmark = pytest.mark.kgdb(memory=512, timeout=300)


def test_it_is_up_and_nothing_failed(kgdb):
    ended = kgdb.run("systemctl is-system-running; systemctl --failed --no-legend --plain")
    assert ended.output == "running\n"


def test_the_shell_writes_what_the_command_writes_and_nothing_else(kgdb):
    result = kgdb.run("id -un; echo oops >&2; exit 3")
    assert (result.status, result.output) == (3, "root\noops\n")


@pytest.mark.parametrize(
    "line", ["echo $PS1", "echo $TERM; tput cols", "ls --color=auto /etc/fstab", "ip address"]
)
def test_no_escape_sequences(kgdb, line):
    assert "\x1b" not in kgdb.run(line).output


def test_the_shell_comes_back_when_it_is_left(kgdb):
    kgdb.resume()
    mark = kgdb.console.mark()
    kgdb.console.sendline("exit")
    # The prompt behind the new login: the old one may still come.
    kgdb.console.wait_for(rb"(?s)automatic login.*# ", mark=mark, timeout=60)
    assert kgdb.run("echo back").output == "back\n"


@pytest.mark.kgdb(at="kgdbwait")
def test_it_can_be_watched_from_early_boot_on(kgdb):
    with kgdb.breakpoint("do_mount_root", temporary=True):
        stop = kgdb.cont()
    assert stop.frame.args["name"].string() == "/dev/root"


def test_files_there_and_back(kgdb, tmp_path):
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/file").write_bytes(data := random.Random(1).randbytes(10 << 20))
    (tmp_path / "d/e/file").write_bytes(b"text\n")
    (tmp_path / "d/e/file").chmod(0o640)
    kgdb.put(tmp_path / "d", "/var/tmp")
    ended = kgdb.run("cd /var/tmp/d; sha256sum file; stat -c '%a %U' e/file").output
    assert ended == f"{hashlib.sha256(data).hexdigest()}  file\n640 root\n"
    assert kgdb.get("/var/tmp/d/file", tmp_path / "file").read_bytes() == data
    back = kgdb.get("/var/tmp/d/", tmp_path / "back")
    assert (back / "file").read_bytes() == data
    assert (back / "e/file").read_bytes() == b"text\n"
    with pytest.raises(GuestCommandError, match="No such file or directory"):
        kgdb.get("/no/such", tmp_path)


def test_no_room_on_the_disk(kgdb, tmp_path):
    kgdb.run("fallocate -l $(($(stat -f -c '%a*%S' /) - 5000000)) /fill")
    (tmp_path / "file").write_bytes(bytes(10 << 20))
    with pytest.raises(GuestCommandError, match="No space left on device"):
        kgdb.put(tmp_path / "file", "/root")
    assert kgdb.run("ls -d /run/pytest-kgdb-?*").output.count("\n") == 1  # the shell's own


class TestEveryTestGetsTheDiskAsItWas:
    def test_write_to_it(self, kgdb):
        kgdb.run("rm -rf /usr/share/perl5 /var/lib/dpkg; echo mess > /etc/fstab; sync")
        assert kgdb.run("cat /etc/fstab").output == "mess\n"

    def test_look_for_traces(self, kgdb):
        assert "LABEL=debian / ext4" in kgdb.run("cat /etc/fstab; ls -d /var/lib/dpkg").output

    def test_in_the_page_cache_and_below_it(self, kgdb):
        kgdb.run("echo 3 > /proc/sys/vm/drop_caches")
        assert kgdb.run("cat /etc/hostname").output == "debian\n"
        assert kgdb.run("dpkg-query -W -f '${Status}' systemd").output == "install ok installed"


def test_nothing_has_a_watchdog(kgdb):
    ended = kgdb.run(
        "systemctl show -P RuntimeWatchdogUSec; "
        "systemctl show --property=Id,WatchdogUSec '*.service' | grep WatchdogUSec | sort -u; "
        "systemctl show --property=TimeoutStartUSec '*.service' | grep Timeout | sort -u"
    )
    assert ended.output == "0\nWatchdogUSec=0\nTimeoutStartUSec=infinity\n"


HOUR = 3600
CLOCK = (
    f"tkr_mono.base += {HOUR} * 1000000000LL",
    f"tkr_raw.base += {HOUR} * 1000000000LL",
    f"ktime_sec += {HOUR}",
    f"wall_to_monotonic.tv_sec += {HOUR}",
    f"offs_real -= {HOUR} * 1000000000LL",
)


def test_an_hour_in_the_debugger_harms_nobody(kgdb):
    """Nothing is taken for hung, and killed: an hour later all the same processes are there."""
    services = "systemctl show --property=Id,MainPID,Result '*.service'"
    running = kgdb.run(services).output
    before = int(float(kgdb.run("cut -d' ' -f1 /proc/uptime").output))
    # What the clock does when a kernel goes on after an hour (kernel/time/timekeeping.c); the
    # shadow is what the next tick begins with.
    for step in CLOCK:
        for timekeeper in ("tk_core.timekeeper", "shadow_timekeeper"):
            kgdb.execute(f"set var {timekeeper}.{step}")
    kgdb.run("sleep 5")
    assert int(float(kgdb.run("cut -d' ' -f1 /proc/uptime").output)) - before >= HOUR
    assert kgdb.run("systemctl is-system-running").output == "running\n"
    assert kgdb.run(services).output == running
    assert not re.search("soft lockup|stall|blocked for more than|watchdog:", kgdb.dmesg())
    assert kgdb.run("echo the shell is there").output == "the shell is there\n"
