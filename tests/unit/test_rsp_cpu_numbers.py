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


def test_a_task_that_goes_on_and_on() -> None:
    numbers = CpuNumbers()
    numbers.exchange(1, 2)
    assert numbers.for_gdb(b"T05watch:81;thread:p01.02;") == b"T05watch:81;thread:p01.01;"
    assert numbers.for_qemu(b"Hgp1.1") == b"Hgp1.02"
    assert numbers.for_qemu(b"vCont;s:p1.1;c:p1.-1") == b"vCont;s:p1.02;c:p1.-1"
    assert numbers.for_qemu(b"Hg0") == b"Hg0"
    numbers.exchange(2, 3)
    assert [numbers.of_qemu(number) for number in CPUS] == [3, 1, 2, 4]
    numbers.exchange(3, 1)  # back where it was; the others are not
    assert [numbers.of_qemu(number) for number in CPUS] == [1, 3, 2, 4]
    numbers.reset()
    assert [numbers.of_qemu(number) for number in CPUS] == [1, 2, 3, 4]


def test_what_names_no_thread_stays() -> None:
    numbers = CpuNumbers()
    numbers.exchange(1, 2)
    for packet in (b"M10,4:p1.1", b"qRcmd,70312e31", b"m10,4", b"qfThreadInfo", b"OK"):
        assert numbers.for_qemu(packet) == packet
        assert numbers.for_gdb(packet) == packet


@given(st.lists(st.tuples(st.sampled_from(CPUS), st.sampled_from(CPUS))))
def test_no_two_have_the_same(moves: list[tuple[int, int]]) -> None:
    numbers = CpuNumbers()
    stepped = 1
    for one, other in moves:
        if one == stepped and other != stepped:
            numbers.exchange(one, other)
            stepped = other
    assert sorted(map(numbers.of_qemu, CPUS)) == list(CPUS)
    assert numbers.of_qemu(1) == stepped, "the task's own stays"
    assert [numbers.of_gdb(numbers.of_qemu(number)) for number in CPUS] == list(CPUS)
