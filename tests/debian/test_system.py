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
    "line", ["echo $PS1", "echo $TERM; tput cols", "ls --color=auto /etc/fstab"]
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


def test_time_that_passes_while_it_stands_still_harms_nobody(kgdb):
    """As after an hour in a debugger: nothing is taken for hung, or killed."""
    kgdb.run("date -s '+1 hour'")
    assert kgdb.run("sleep 2; systemctl is-system-running").output == "running\n"
