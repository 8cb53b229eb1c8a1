"""The guest's network: ssh in by the loopback address, and no way out."""

from __future__ import annotations

import subprocess

import pytest
from knocking import knocks

from pytest_kgdb.errors import ConfigError, GuestCommandError, TimeoutError
from pytest_kgdb.guest import ssh_command_line

pytestmark = pytest.mark.kgdb(memory=512, timeout=300)


@pytest.fixture(autouse=True)
def _forwarded(request):
    if not any(forward.guest == 22 for forward in request.getfixturevalue("kgdb").forwards):
        pytest.fail("run these with --kgdb-forward=tcp:0:22")


def test_a_free_port_on_the_loopback_address_only(kgdb):
    (way,) = kgdb.forwards
    assert (way.proto, way.guest) == ("tcp", 22)
    assert way.host >= 1024
    listed = subprocess.run(["ss", "-Hltn", f"sport = :{way.host}"], capture_output=True, text=True)
    assert listed.stdout.split()[3] == f"127.0.0.1:{way.host}"


def test_ssh(kgdb):
    result = kgdb.ssh("id -un; echo $SSH_CONNECTION; echo oops >&2; exit 3")
    assert result.status == 3
    assert result.output.splitlines()[0] == "root"
    assert result.output.splitlines()[2] == "oops"
    assert kgdb.stopped
    assert kgdb.run("echo the console too").output == "the console too\n"


def test_ssh_again_and_a_running_kernel_runs_on(kgdb):
    kgdb.resume()
    assert kgdb.ssh("cat /proc/sys/kernel/hostname").output == "debian\n"
    assert not kgdb.stopped


def test_ssh_for_a_program_of_ones_own(kgdb):
    argv = kgdb.ssh()
    kgdb.resume()
    done = subprocess.run([*argv, "cat"], input=b"\0\xff binary", capture_output=True, timeout=300)
    assert done.stdout == b"\0\xff binary"


def test_a_guest_that_is_not_the_one(kgdb):
    kgdb.run(
        "rm /etc/ssh/ssh_host_ed25519_key*; ssh-keygen -q -N '' -t ed25519 "
        "-f /etc/ssh/ssh_host_ed25519_key; systemctl restart ssh"
    )
    with pytest.raises(GuestCommandError, match="Host key verification failed"):
        kgdb.ssh("true")


def test_no_sshd(kgdb):
    kgdb.run("systemctl stop ssh")
    with pytest.raises(GuestCommandError, match="was not run"):
        kgdb.ssh("true")


def test_a_breakpoint_on_the_way(kgdb):
    with kgdb.breakpoint("do_exit"):
        with pytest.raises(GuestCommandError, match="the kernel stopped meanwhile"):
            kgdb.ssh("true")
        assert kgdb.stop.frame.function == "do_exit"


def test_no_end_in_time(kgdb):
    with pytest.raises(TimeoutError, match="ssh: 'sleep 1000' did not end in 3 s"):
        kgdb.ssh("sleep 1000", timeout=3)
    assert kgdb.stopped


def test_a_snapshot_under_ssh(kgdb):
    kgdb.ssh("echo one >/root/file; sync")
    kgdb.snapshot("one")
    kgdb.ssh("echo two >/root/file")
    kgdb.restore("one")
    assert kgdb.ssh("cat /root/file").output == "one\n"


def test_nothing_goes_out(kgdb):
    """Not even to the host that QEMU runs on, where something does listen."""
    assert "inet 10.0.2.15/24" in kgdb.run("ip -4 address show dev eth0").output
    for address, proto, reached in knocks(kgdb):
        assert not reached, f"{proto} to {address} went out"


@pytest.mark.kgdb(at="kgdbwait")
def test_ports_are_known_before_anything_listens(kgdb):
    assert len(kgdb.forwards) == 1


def test_no_key(kgdb, tmp_path):
    with pytest.raises(ConfigError, match="has a key only for a Debian") as caught:
        ssh_command_line(kgdb.forwards, tmp_path, None)
    assert f"ssh -p {kgdb.forwards[0].host}" in str(caught.value.hint)
