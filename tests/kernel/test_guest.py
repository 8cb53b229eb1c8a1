"""The guest's shell and console on a real kernel."""

from __future__ import annotations

import time

import pytest

from pytest_kgdb.errors import ConfigError, GuestCommandError, TimeoutError


def test_status_and_output(kgdb):
    result = kgdb.run("echo hello; echo oops >&2; exit 3")
    assert result.status == 3
    assert result.output == "hello\noops\n"


def test_run_leaves_a_stopped_kernel_stopped_and_a_running_one_running(kgdb):
    kgdb.run("true")
    assert kgdb.stopped
    kgdb.resume()
    assert kgdb.run("echo running").output == "running\n"
    assert not kgdb.stopped


@pytest.mark.parametrize("number", range(3))
def test_the_shell_is_stopped_where_it_waits_for_the_next_command(kgdb, number):
    read = kgdb.spy("vfs_read")  # for which busybox's cat has sendfile(2)
    kgdb.run("cat /proc/version")
    assert [call.task.comm for call in read.calls] == ["sh"]


def test_a_guest_that_computes_is_not_waited_for(kgdb):
    kgdb.run("while :; do :; done &")
    start = time.monotonic()
    kgdb.run("true")
    assert time.monotonic() - start < 2
    assert kgdb.stop.reason == "interrupt"


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("echo 'it'\"'\"'s'", "it's\n"),
        ("printf 'no newline'", "no newline"),
        ("echo one\necho two", "one\ntwo\n"),
        ("cat <<END\nhere\nEND", "here\n"),
        ("true # a comment", ""),
        ("echo $((6 * 7)) \\\\ `echo sub`", "42 \\ sub\n"),
        ("sleep 100 & echo in background", "in background\n"),
        ("cat; echo no input", "no input\n"),
    ],
)
def test_what_shells_can_be_given(kgdb, command, output):
    assert kgdb.run(command).output == output


@pytest.mark.parametrize("padding", [0, 3000])
def test_control_characters_in_a_command(kgdb, padding):
    text = "".join(map(chr, [*range(1, 32), 127])) + "\xa0\udcff" + "x" * padding
    output = kgdb.run(f"printf %s '{text}' | od -v -An -tx1").output
    assert bytes.fromhex(output) == text.encode(errors="surrogateescape")


def test_what_no_shell_can_be_given(kgdb):
    with pytest.raises(ConfigError, match="no shell has NUL in a word"):
        kgdb.run("printf 'a\0b'")
    assert kgdb.stopped
    assert kgdb.run("echo fine").output == "fine\n"


def test_a_syntax_error_ends_the_command(kgdb):
    result = kgdb.run("if")
    assert result.status == 2
    assert "syntax error" in result.output
    assert kgdb.run("echo fine").output == "fine\n"


def test_a_long_command(kgdb):
    text = "x" * 6000
    assert kgdb.run(f"echo {text} | wc -c").output.strip() == "6001"


def test_much_output(kgdb):
    result = kgdb.run("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i + 1)); done")
    assert result.output.splitlines() == [f"line {i}" for i in range(2000)]


def test_kernel_messages_are_not_output(kgdb):
    result = kgdb.run(
        "for i in 1 2 3 4 5; do echo before $i; echo KERNEL > /dev/kmsg; echo after $i; done"
    )
    assert result.output == "".join(f"before {i}\nafter {i}\n" for i in range(1, 6))
    assert "KERNEL" in kgdb.console.since().decode()


def test_dmesg_is_output(kgdb):
    output = kgdb.run("dmesg").output
    assert "Linux version" in output
    assert len(output.splitlines()) > 100


@pytest.mark.parametrize("stopped", [True, False])
def test_output_and_messages_are_told_apart_by_what_the_kernel_printed(kgdb, stopped):
    """Not by their form, and not by whether they come twice."""
    kgdb.run("dmesg -c > /dev/null")
    if not stopped:
        kgdb.resume()
    output = kgdb.run(
        "echo ONE > /dev/kmsg; echo '<7>HIDDEN' > /dev/kmsg; echo 'TWO' > /dev/kmsg; "
        "dmesg | grep -v sysrq; echo '[    1.000000] mine'; printf '[    2.000000] no end'"
    ).output
    words = [line.partition("] ")[2] for line in output.splitlines()]
    assert words == ["ONE", "HIDDEN", "TWO", "mine", "no end"]


def test_messages_that_come_twice(kgdb):
    kgdb.run("mkdir -p /sys/kernel/debug; mount -t debugfs none /sys/kernel/debug; dmesg -n 8")
    # All tasks' stacks, of which several are the same.
    for _ in range(3):
        assert kgdb.run("echo t > /proc/sysrq-trigger; echo done", timeout=60).output == "done\n"


def test_dmesg_after_a_restore_is_output(kgdb):
    kgdb.run("echo EARLIER > /dev/kmsg")
    kgdb.snapshot("here")
    kgdb.run("echo LATER > /dev/kmsg")
    for _ in range(2):
        kgdb.restore("here")
        assert "EARLIER" in kgdb.run("dmesg").output
        assert "LATER" not in kgdb.run("dmesg").output


@pytest.mark.parametrize("job", ["sleep 0.2 &", "(sleep 0.2; cat /proc/version > /dev/null) &"])
def test_a_job_in_the_background_that_ends(kgdb, job):
    """The shell reads its input meanwhile, and is the same one afterwards."""
    kgdb.type("kept=$$")
    for _ in range(2):
        kgdb.type(job)
        with pytest.raises(TimeoutError):
            kgdb.cont(timeout=0.6)
        kgdb.interrupt()
        assert kgdb.run("echo $((kept - $$))").output == "0\n"


def test_a_job_in_the_background_that_ends_while_input_comes(kgdb):
    with kgdb.breakpoint("do_group_exit"):
        kgdb.type("kept=$$; sleep 0.2 &")
        while kgdb.cont().task.comm != "sleep":
            pass
    assert kgdb.run("echo $((kept - $$))").output == "0\n"


def test_a_command_that_does_not_end(kgdb):
    with pytest.raises(TimeoutError, match=r"'sleep 1000' did not end in 1 s"):
        kgdb.run("sleep 1000", timeout=1)
    assert kgdb.stopped


def test_the_console_is_a_pexpect_spawn(kgdb):
    kgdb.resume()
    kgdb.console.sendline("echo $((40 + 2)); uname -s")
    # Kernel messages come in between, as on any console.
    assert kgdb.console.expect([r"(\d)2\r\n", "nothing"]) == 0
    assert kgdb.console.match.group(1) == "4"
    kgdb.console.expect_exact("Linux")
    kgdb.console.expect("# ")
    kgdb.console.sendline("cat")
    kgdb.console.sendline("echoed")
    kgdb.console.expect("echoed")
    kgdb.console.sendcontrol("c")
    kgdb.console.expect("# ")


def test_what_a_console_does_not_show_is_an_error_with_its_text(kgdb):
    import pexpect

    kgdb.resume()
    with pytest.raises(pexpect.TIMEOUT):
        kgdb.console.expect("never", timeout=0.2)


def test_typed_while_stopped_is_read_when_it_runs(kgdb):
    kgdb.type("echo typed > /tmp/typed")
    assert kgdb.stopped
    assert kgdb.run("cat /tmp/typed").output == "typed\n"


def test_the_guest_has_no_network(kgdb):
    assert kgdb.run("ls /sys/bus/pci/drivers/virtio-pci /sys/class/net").output.find("eth") < 0
    assert kgdb.run("ip route").output == ""


def test_the_kernel_is_the_one_that_was_built(kgdb, kgdb_kernel):
    assert kgdb.run("uname -r").output.strip() == kgdb_kernel.release
    assert kgdb_kernel.config["CONFIG_KGDB"] == "y"
    assert kgdb_kernel.vmlinux.exists()
    assert kgdb_kernel.image.exists()
    assert f"{kgdb_kernel.version[0]}.{kgdb_kernel.version[1]}" in kgdb_kernel.release


@pytest.mark.parametrize("signal", ["KILL", "SEGV"])
def test_the_shell_itself_is_killed(kgdb, signal):
    """By the OOM killer, say; that is said at once, and another shell is there."""
    for _ in range(2):
        with pytest.raises(GuestCommandError, match="the guest's shell ended during"):
            kgdb.run(f"kill -{signal} $$")
        assert kgdb.stopped
        assert kgdb.run("echo on").output == "on\n"
