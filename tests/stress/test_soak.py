"""The same thing again and again: boots, stops, restores. `make stress` runs it."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import pytest

from pytest_kgdb.handle import attachment_of


@pytest.mark.parametrize("number", range(20))
@pytest.mark.kgdb(isolation="reboot")
def test_twenty_boots(kgdb, number):
    assert kgdb.run(f"echo boot {number}").output == f"boot {number}\n"


@pytest.mark.parametrize("number", range(4))
@pytest.mark.kgdb(isolation="reboot", smp=2)
def test_boots_with_two_processors(kgdb, number):
    assert kgdb.run("grep -c ^processor /proc/cpuinfo").output == "2\n"


@pytest.mark.parametrize("number", range(200))
def test_two_hundred_pristine_kernels(kgdb, number):
    assert kgdb.evaluate("panic_on_oops") == 0
    kgdb.assign("panic_on_oops", number + 1)


def test_a_thousand_restores(kgdb, kgdb_session, request, record_property):
    """No flake, and no growth in memory or file descriptors."""
    from pytest_kgdb.plugin._run import Run

    session = Run.of(request.config).live
    assert session is not None
    again = session.settings.for_marker({}, "soak")
    attachment = attachment_of(kgdb)
    processes = {
        "pytest": os.getpid(),
        "QEMU": attachment.machine.pid,
        "gdb": attachment.gdb.pid,
    }
    sizes: dict[str, list[int]] = {name: [] for name in processes}
    times, files = [], []
    for number in range(1000):
        kgdb.assign("panic_on_oops", 1)
        if number % 3 == 1:
            kgdb.resume()
        elif number % 7 == 2:
            kgdb.breakpoint("vfs_read")
        began = time.monotonic()
        session.acquire(again)
        times.append(time.monotonic() - began)
        assert kgdb.evaluate("panic_on_oops") == 0
        if number % 100 == 99:
            files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))
            for name, pid in processes.items():
                sizes[name].append(resident(pid))
    median = 1000 * statistics.median(times)
    print(f"restore: median {median:.1f} ms, worst {1000 * max(times):.1f} ms; KiB {sizes}")
    record_property("restore_ms", median)
    assert max(files) == min(files)
    grown = {name: series[-1] - series[1] for name, series in sizes.items()}
    assert max(grown.values()) < 5 * 1024, "KiB"


def resident(pid: int) -> int:
    """KiB; the guest's memory, which is shared, not among them."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError("no RssAnon")


def test_a_thousand_stops(kgdb):
    kgdb.type("while :; do cat /proc/uptime; done >/dev/null")
    with kgdb.breakpoint("do_sys_openat2") as opened:
        for number in range(1, 1001):
            assert kgdb.cont().reason == "breakpoint"
            assert opened.hits == number
    kgdb.resume()
    kgdb.console.synchronise(interrupt=True)
    assert kgdb.run("echo still here").output == "still here\n"


def test_three_hundred_interrupts(kgdb):
    for _ in range(300):
        kgdb.resume()
        assert kgdb.interrupt().reason == "interrupt"
