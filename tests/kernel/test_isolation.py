"""Every test gets the kernel as it was: vandals first, then those who look for traces."""

from __future__ import annotations

import random
import time

import pytest

VANDALS = {
    "data": lambda kgdb: kgdb.assign("panic_on_oops", 77),
    "text": lambda kgdb: kgdb.write(
        int(kgdb.evaluate("(unsigned long)&linux_banner")), b"vandalised"
    ),
    "file": lambda kgdb: kgdb.run("echo mess > /tmp/mess; rm -f /bin/ls; mkdir /mess"),
    "sysctl": lambda kgdb: kgdb.run("echo 1 > /proc/sys/kernel/panic_on_oops"),
    "memory": lambda kgdb: kgdb.run("dd if=/dev/zero of=/tmp/fill bs=1M count=60", timeout=60),
    "module": lambda kgdb: kgdb.run("modprobe dummy && ip link set dummy0 up"),
    "panic": lambda kgdb: (kgdb.type("echo c > /proc/sysrq-trigger"), kgdb.cont()),
    "halted": lambda kgdb: (kgdb.type("echo c > /proc/sysrq-trigger"), kgdb.cont(), kgdb.resume()),
    "running": lambda kgdb: kgdb.resume(),
    "busy": lambda kgdb: (kgdb.type("while :; do cat /proc/uptime; done"), kgdb.resume()),
    "typed": lambda kgdb: kgdb.type("echo left over > /tmp/mess; cat"),
    "half a line": lambda kgdb: kgdb.console.send("echo left ov"),
    "breakpoints": lambda kgdb: [kgdb.breakpoint(f) for f in ("vfs_read", "vfs_write", "do_exit")],
    "at a breakpoint": lambda kgdb: (
        kgdb.breakpoint("vfs_read"),
        kgdb.type("cat /proc/version"),
        kgdb.cont(),
    ),
    "stepped": lambda kgdb: kgdb.stepi(),
    "another frame": lambda kgdb: kgdb.execute("frame 2"),
    "no shell": lambda kgdb: (kgdb.type("exec sleep 1000"), kgdb.resume()),
    "registers": lambda kgdb: kgdb.assign("$rbx", 0x1234),
    "interrupts off": lambda kgdb: (
        kgdb.breakpoint("vfs_read", temporary=True),
        kgdb.type("cat /proc/version"),
        kgdb.cont(),
        kgdb.assign("$eflags", int(kgdb.evaluate("$eflags")) & ~0x200),
        kgdb.write(int(kgdb.evaluate("$pc")), b"\xeb\xfe"),  # jmp to itself: hung for good
        kgdb.resume(),
    ),
}
ORDER = sorted(VANDALS)
random.Random(12).shuffle(ORDER)  # an order, not a secret


@pytest.fixture(scope="module")
def seen() -> dict[str, object]:
    """What the first test found."""
    return {}


def look(kgdb) -> dict[str, object]:
    return {
        "stop": kgdb.stop.reason,
        "frame": kgdb.stop.frame.address,
        "rbx": int(kgdb.evaluate("$rbx")),
        "panic_on_oops": int(kgdb.evaluate("panic_on_oops")),
        "jiffies": int(kgdb.evaluate("jiffies_64")),
        "banner": kgdb.evaluate("linux_banner").string(),
        "breakpoints": kgdb.execute("info breakpoints"),
        "dmesg": kgdb.dmesg(),
        "tmp": kgdb.run("ls -a /tmp /").output,
        "sysctl": kgdb.run("cat /proc/sys/kernel/panic_on_oops").output,
        "memory": int(kgdb.run("free -m").output.split()[8]) // 32,
        "modules": kgdb.run("cat /proc/modules; ls /sys/class/net").output,
        # A pipe's next program may not be there yet while ps looks.
        "programs": kgdb.run("all=$(ps); echo \"$all\" | grep -c '[0-9] [^[]*$'").output,
    }


@pytest.mark.parametrize("vandal", ORDER)
def test_nothing_is_left_of(kgdb, seen, vandal):
    state = look(kgdb)
    if not seen:
        seen.update(state)
    assert state == seen
    VANDALS[vandal](kgdb)


def test_after_all_of_them(kgdb, seen):
    assert look(kgdb) == seen


@pytest.mark.kgdb(isolation="reboot")
def test_reboot_is_a_fresh_boot(kgdb):
    assert kgdb.run("cat /tmp/mess").status != 0
    kgdb.run("touch /tmp/mess")


@pytest.mark.kgdb(isolation="reboot")
def test_and_so_is_the_next(kgdb):
    assert kgdb.run("cat /tmp/mess").status != 0


@pytest.mark.kgdb(isolation="none")
def test_none_leaves_what_there_is(kgdb):
    kgdb.run("echo mine > /tmp/mine")
    kgdb.breakpoint("vfs_read")


@pytest.mark.kgdb(isolation="none")
def test_to_the_next_test(kgdb):
    assert kgdb.run("cat /tmp/mine").output == "mine\n"


@pytest.mark.kgdb(isolation="none")
def test_a_kernel_that_died_is_booted_again(kgdb):
    kgdb.type("echo c > /proc/sysrq-trigger")
    assert kgdb.cont().reason == "panic"
    kgdb.resume()


@pytest.mark.kgdb(isolation="none")
def test_here(kgdb):
    assert kgdb.run("echo alive").output == "alive\n"


def test_no_restore_waits_for_a_thread_of_ours(kgdb, request):
    """One that closed a socket on which another thread waited took 5 s, now and then."""
    from pytest_kgdb.plugin._run import Run

    session = Run.of(request.config).live
    wants = session.settings.for_marker({}, "restores")
    times = []
    for number in range(60):
        if number % 4 == 1:
            kgdb.breakpoint("vfs_read")
        elif number % 4 == 2:
            kgdb.resume()
        elif number % 4 == 3:
            kgdb.run("echo mess > /tmp/mess")
        began = time.monotonic()
        session.acquire(wants)
        times.append(time.monotonic() - began)
    assert max(times) < 3
