"""A Debian as the guest: up and well, its shell fit for a program, put back with its disk."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.kgdb(memory=512, timeout=300)


def test_it_is_up_and_nothing_failed(kgdb):
    told = kgdb.run("systemctl is-system-running; systemctl --failed --no-legend --plain")
    assert told.output == "running\n"


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
    kgdb.console.wait_for(rb"# ", mark=mark, timeout=60)
    assert kgdb.run("echo back").output == "back\n"


@pytest.mark.kgdb(at="kgdbwait")
def test_it_can_be_watched_from_early_boot_on(kgdb):
    with kgdb.breakpoint("do_mount_root", temporary=True):
        stop = kgdb.cont()
    assert stop.frame.args["name"].string() == "/dev/root"


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
    running = kgdb.run("systemctl show -P MainPID '*.service'").output
    before = int(float(kgdb.run("cut -d' ' -f1 /proc/uptime").output))
    # What the clock does when a kernel goes on after an hour (kernel/time/timekeeping.c); the
    # shadow is what the next tick begins with.
    for step in CLOCK:
        for timekeeper in ("tk_core.timekeeper", "shadow_timekeeper"):
            kgdb.execute(f"set var {timekeeper}.{step}")
    kgdb.run("sleep 5")
    assert int(float(kgdb.run("cut -d' ' -f1 /proc/uptime").output)) - before >= HOUR
    assert kgdb.run("systemctl is-system-running").output == "running\n"
    assert kgdb.run("systemctl show -P MainPID '*.service'").output == running
    assert kgdb.run("echo the shell is there").output == "the shell is there\n"
