"""Which CPU does not hear an interrupt."""

from __future__ import annotations

from pytest_kgdb.handle._cpu_stacks import deaf_cpus

DUMP = """CPU 0, task 1 (init)
CPU#0
RAX=0000000000000000 RBX=ffffffff81e11600
RIP=ffffffff81024bae RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0
CPU#1
RIP=ffffffff81024bae RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
"""


def test_the_interrupt_flag() -> None:
    assert deaf_cpus(DUMP) == [0]
    assert deaf_cpus(DUMP.replace("RFL=00000246", "RFL=00000002")) == [0, 1]
    assert deaf_cpus("") == []
