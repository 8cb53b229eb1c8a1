"""Measurements on one live kernel: restores, stops, reads, an idle machine."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.handle import attachment_of
from pytest_kgdb.kernel import Vmlinux
from pytest_kgdb.machine import Machine, boot_to_kgdbwait
from pytest_kgdb.plugin._artifacts import Artifacts
from pytest_kgdb.process import Child, run
from pytest_kgdb.progress import Progress
from pytest_kgdb.rsp._connection import Connection
from pytest_kgdb.session import Session
from pytest_kgdb.settings import make_settings
from tests.bench.result import Bench, Row

BUSY = "while :; do echo 0 > /proc/sys/kernel/panic_on_oops; done"
AT = "ksys_write"
STOPS, BEFORE = 300, 20


@cache
def session_of(kernel: str, stub: str = "kgdb") -> Session:
    settings = make_settings(kernel=(kernel,), stub=stub)
    artifacts = Artifacts(settings, Progress())
    built = artifacts.kernel(kernel)
    return artifacts.session(built, artifacts.initrd(built), None)


@contextmanager
def plain(bench: Bench, smp: int = 1, stub: str = "kgdb") -> Iterator[tuple[Machine, Session]]:
    """The same machine in the same state, and nothing of ours between it and a gdb."""
    session = session_of(bench.kernel, stub)
    spec, snapshot = session.prepare(session.settings.for_marker({"smp": smp}, "bench"))
    with Machine(
        spec,
        waits=WaitLimit(60),
        storage=snapshot.storage,
        memory=snapshot.memory,
        snapshot="ready",
        history=snapshot.console.read_bytes(),
    ) as machine:
        machine.cont()
        yield machine, session


def gdb_batch(machine: Machine, session: Session, script: str, timeout: float = 300) -> str:
    """Run a script in a gdb with default settings, attached to the stub directly."""
    port = machine.kgdb_socket if session.stub == "kgdb" else machine.stub_socket
    path = machine.directory / "script.gdb"
    path.write_text(script)
    done = run(
        [
            "gdb",
            "-nx",
            "-batch",
            "-ex",
            f"target remote {port}",
            "-x",
            str(path),
            str(session.kernel.vmlinux),
        ],
        timeout=timeout,
        check=False,
    )
    if "FIGURE " not in done.output:
        raise RuntimeError(f"gdb gave no figure:\n{done.output[-3000:]}")
    return done.output


def figure(output: str) -> float:
    match = re.search(r"FIGURE ([\d.]+)", output)
    assert match is not None
    return float(match[1])


def boot(bench: Bench) -> float:
    """Seconds from the power button to the shell, gdb attached at kgdbwait."""
    session = session_of(bench.kernel)
    spec, _ = session.prepare(session.settings.for_marker({}, "bench"))
    began = time.monotonic()
    with Machine(spec, waits=WaitLimit(60)) as machine:
        boot_to_kgdbwait(machine, 60)
        with Child.spawn(
            [
                "gdb",
                "-nx",
                "-batch",
                "-ex",
                f"target remote {machine.kgdb_socket}",
                "-ex",
                "continue",
                str(session.kernel.vmlinux),
            ],
            name="gdb",
        ) as gdb:
            machine.console.wait_for(rb"pytest-kgdb: ready\r?\n", mark=0, timeout=60)
            took = time.monotonic() - began
            gdb.kill()
    return took


def restore(bench: Bench) -> Row:
    """A pristine kernel for one more test."""
    session = session_of(bench.kernel)
    wants = session.settings.for_marker({}, "bench")
    kgdb = session.acquire(wants)
    dice = random.Random(1)

    def ours() -> float:
        times = []
        for _ in range(20):
            what = dice.randrange(4)  # what a test may leave
            kgdb.assign("panic_on_oops", 1)
            if what == 1:
                kgdb.breakpoint("vfs_read")
            elif what == 2:
                kgdb.resume()
            elif what == 3:
                kgdb.run("echo 1 > /tmp/file")
            began = time.monotonic()
            session.acquire(wants)
            times.append(time.monotonic() - began)
            assert kgdb.evaluate("panic_on_oops") == 0
        return 1000 * sorted(times)[len(times) // 2]

    try:
        mine, theirs = bench.alternate(ours, lambda: 1000 * boot(bench))
    finally:
        session.close()
    return Row(
        "a pristine kernel for one more test (256 MiB)",
        "ms",
        mine,
        theirs,
        "a boot to the shell, gdb attached",
        must="≤ 50 ms",
        goal="≤ 20 ms",
        budget=lambda row: row.median <= 50,
        note="each of ours the median of 20",
    )


def stops_of(bench: Bench, smp: int, stub: str) -> Callable[[], float]:
    """Return what measures our breakpoint stops per second."""
    session = session_of(bench.kernel, stub)

    def ours() -> float:
        kgdb = session.acquire(session.settings.for_marker({"smp": smp}, "bench"))
        kgdb.type(BUSY)
        with kgdb.breakpoint(AT):
            for _ in range(BEFORE):
                kgdb.cont()
            began = time.monotonic()
            for _ in range(STOPS):
                stop = kgdb.cont()
            took = time.monotonic() - began
            assert stop.frame.function == AT
        session.close()
        return STOPS / took

    return ours


def batch_stops_of(bench: Bench, smp: int, stub: str) -> Callable[[], float]:
    """Return what measures those of gdb's own loop."""

    def theirs() -> float:
        with plain(bench, smp, stub) as (machine, session):
            machine.console.sendline(BUSY)
            loop = "set $i = 0\nwhile $i < {0}\ncontinue\nset $i = $i + 1\nend\n"
            output = gdb_batch(
                machine,
                session,
                f"break {AT}\n{loop.format(BEFORE)}python import time; began = time.monotonic()\n"
                f"{loop.format(STOPS)}"
                f"python print('FIGURE', {STOPS} / (time.monotonic() - began))\nkill\n",
            )
            assert output.count(f"Breakpoint 1, {AT}") == STOPS + BEFORE
            return figure(output)

    return theirs


def packet_stops_of(bench: Bench) -> Callable[[], float]:
    """Return what measures those of QEMU's stub itself: the packets of a stop, and no gdb.

    It has one CPU.
    """

    def theirs() -> float:
        with plain(bench, 1, "qemu") as (machine, session):
            machine.console.sendline(BUSY)
            at = Vmlinux(session.kernel.vmlinux).need(AT)
            connection = Connection(
                machine.connect_stub, waits=WaitLimit(60), target="QEMU", port="its gdb stub"
            )

            def ask(payload: bytes) -> None:
                connection.send(payload)
                deadline = connection.deadline()
                while connection.next_packet(payload, deadline) != b"OK":
                    pass  # that the machine was stopped for a new debugger

            def run(payload: bytes) -> None:
                connection.send(payload)
                deadline = connection.deadline()
                while connection.next_packet(payload, deadline)[:3] != b"T05":
                    pass

            def stop() -> None:
                ask(b"z0,%x,1" % at)
                run(b"vCont;s:p01.01")
                ask(b"Z0,%x,1" % at)
                run(b"c")

            ask(b"Hgp01.01")
            ask(b"Z0,%x,1" % at)
            run(b"c")
            for _ in range(BEFORE):
                stop()
            began = time.monotonic()
            for _ in range(STOPS):
                stop()
            took = time.monotonic() - began
            connection.close()
            return STOPS / took

    return theirs


def stops(bench: Bench, *, smp: int) -> Row:
    """Breakpoint stops per second, through kgdb."""
    mine, other = bench.alternate(stops_of(bench, smp, "kgdb"), batch_stops_of(bench, smp, "kgdb"))
    return Row(
        f"breakpoint stops, {smp} CPU{'s' * (smp > 1)} in the guest",
        "/s",
        mine,
        other,
        "`gdb -batch`, default settings",
        must="≥ 1.5 ×",
        goal="≥ 2.5 ×",
        higher=True,
        budget=lambda row: row.ratio >= 1.5,
        note=f"{STOPS} stops each",
    )


def stub_stops(bench: Bench, *, packets: bool) -> Row:
    """The same through QEMU's stub, on one CPU.

    :param packets: whether they are measured against the packets alone, or against gdb.
    """
    theirs = packet_stops_of(bench) if packets else batch_stops_of(bench, 1, "qemu")
    mine, other = bench.alternate(stops_of(bench, 1, "qemu"), theirs)
    must = 0.8 if packets else 1.0
    return Row(
        "breakpoint stops through QEMU's stub, 1 CPU",
        "/s",
        mine,
        other,
        "its packets, and no gdb" if packets else "`gdb -batch` on that stub, default settings",
        must=f"≥ {must} ×",
        goal="≥ 1.0 ×" if packets else "≥ 1.2 ×",
        higher=True,
        budget=lambda row: row.ratio >= must,
        note=f"{STOPS} stops each",
    )


def reads(bench: Bench) -> Row:
    """Typed reads: every task's pid, comm and parent's pid."""
    session = session_of(bench.kernel)
    addresses: list[int] = []

    def ours() -> float:
        import drgn
        from drgn.helpers.linux.pid import for_each_task

        kgdb = session.acquire(session.settings.for_marker({}, "bench"))
        program = kgdb.program
        addresses[:] = [task.value_() for task in for_each_task(program)]
        tasks = [
            drgn.Object(program, "struct task_struct *", value=address) for address in addresses
        ]
        began, count = time.monotonic(), 0
        while (took := time.monotonic() - began) < 1.0:
            for task in tasks:
                task.pid.value_()
                task.comm.string_()
                task.real_parent.pid.value_()
            count += 4 * len(tasks)  # a parent's pid is two
        session.close()
        return count / took

    def theirs() -> float:
        with plain(bench) as (machine, _):
            output = gdb_batch(
                machine,
                session,
                f"""python
import time
pointer = gdb.lookup_type("struct task_struct").pointer()
tasks = [gdb.Value(each).cast(pointer) for each in {addresses}]
began = time.monotonic()
for task in tasks:
    int(task["pid"]), task["comm"].string(), int(task["real_parent"]["pid"])
print("FIGURE", 4 * len(tasks) / (time.monotonic() - began))
end
kill
""",
            )
            return figure(output)

    ours()  # has the addresses found
    mine, other = bench.alternate(ours, theirs)
    return Row(
        "typed reads (`kgdb.program`)",
        "/s",
        mine,
        other,
        "the same by gdb over kgdb",
        must="≥ 100 ×",
        goal="≥ 200 ×",
        higher=True,
        budget=lambda row: row.ratio >= 100,
    )


def idle(bench: Bench) -> Row:
    """What a stopped machine costs."""
    session = session_of(bench.kernel)

    def busy(machine: Machine) -> float:
        stat = Path(f"/proc/{machine.pid}/stat")

        def used() -> float:
            fields = stat.read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        time.sleep(0.2)
        before, began = used(), time.monotonic()
        time.sleep(2)
        return 100 * (used() - before) / (time.monotonic() - began)

    def ours() -> float:
        kgdb = session.acquire(session.settings.for_marker({}, "bench"))
        with kgdb.breakpoint("vfs_read"):
            kgdb.type("cat /proc/version")
            kgdb.cont()
            used = busy(attachment_of(kgdb).machine)
        session.close()
        return used

    def theirs() -> float:
        with plain(bench) as (machine, _):
            return busy(machine)

    mine, other = bench.alternate(ours, theirs)
    return Row(
        "host CPU while the kernel is stopped and the test is idle",
        "% of a core",
        mine,
        other,
        "the same machine, not paused",
        must="none",
        goal="none",
        budget=lambda row: row.median < 1,
    )
