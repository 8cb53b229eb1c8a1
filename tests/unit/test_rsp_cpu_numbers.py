"""gdb's numbers of the CPUs, where a task that it steps goes from one to another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_kgdb.rsp._cpu_numbers import CpuNumbers

CPUS = range(1, 5)


def test_they_are_qemus_at_first() -> None:
    numbers = CpuNumbers()
    assert numbers.for_qemu(b"vCont;s:p1.1;c:p1.-1") == b"vCont;s:p1.1;c:p1.-1"
    assert numbers.for_gdb(b"T05thread:p01.02;") == b"T05thread:p01.02;"


def stepping(task: bytes = b"a", cpu: int = 1) -> CpuNumbers:
    numbers = CpuNumbers()
    numbers.step_begins(task, cpu)
    return numbers


def test_a_task_that_goes_on_and_on() -> None:
    numbers = stepping()
    numbers.stopped(2, lambda: b"a")
    assert numbers.for_gdb(b"T05watch:81;thread:p01.02;") == b"T05watch:81;thread:p01.01;"
    assert numbers.thread_for_gdb(b"p01.02") == b"p01.01"
    assert numbers.for_qemu(b"Hgp1.1") == b"Hgp1.02"
    assert numbers.for_qemu(b"vCont;s:p1.1;c:p1.-1") == b"vCont;s:p1.02;c:p1.-1"
    assert numbers.for_qemu(b"Hg0") == b"Hg0"
    numbers.stopped(3, lambda: b"a")
    assert [numbers.of_qemu(number) for number in CPUS] == [3, 1, 2, 4]
    numbers.stopped(1, lambda: b"a")  # back where it was; the others are not
    assert [numbers.of_qemu(number) for number in CPUS] == [1, 3, 2, 4]
    numbers.reset()
    assert [numbers.of_qemu(number) for number in CPUS] == [1, 2, 3, 4]


def test_other_stops_change_nothing() -> None:
    numbers = stepping()
    numbers.stopped(2, lambda: b"b")
    numbers.stopped(1, lambda: b"a")
    numbers.step_ends()
    numbers.stopped(2, lambda: b"a")
    unknown = stepping(b"")
    assert not unknown.steps
    unknown.stopped(2, lambda: b"")
    for one in (numbers, unknown):
        assert [one.of_qemu(number) for number in CPUS] == [1, 2, 3, 4]


def test_the_numbers_outlast_the_step() -> None:
    numbers = stepping()
    numbers.stopped(2, lambda: b"a")
    numbers.step_ends()
    assert numbers.for_qemu(b"Hgp1.1") == b"Hgp1.02"
    numbers.step_begins(b"a", 2)
    numbers.stopped(2, lambda: b"a")
    assert numbers.for_qemu(b"Hgp1.1") == b"Hgp1.02"


def test_what_names_no_thread_stays() -> None:
    numbers = stepping()
    numbers.stopped(2, lambda: b"a")
    for packet in (b"M10,4:p1.1", b"qRcmd,70312e31", b"m10,4", b"qfThreadInfo", b"OK"):
        assert numbers.for_qemu(packet) == packet
        assert numbers.for_gdb(packet) == packet


@given(st.lists(st.sampled_from(CPUS)))
def test_no_two_have_the_same(moves: list[int]) -> None:
    numbers = stepping()
    for cpu in moves:
        numbers.stopped(cpu, lambda: b"a")
    assert sorted(map(numbers.of_qemu, CPUS)) == list(CPUS)
    assert numbers.of_qemu(1) == (moves or [1])[-1], "the task's own stays"
    assert [numbers.of_gdb(numbers.of_qemu(number)) for number in CPUS] == list(CPUS)
