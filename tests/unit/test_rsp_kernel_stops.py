"""Stops at exceptions and panics, through a QEMU's gdb stub that is played here."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from scripted_qemu import ScriptedQemu
from scripted_stub import BASE, CALLER, DATA, ENTRY, LOAD, NAMES, NOP, RET, STACK, Gdb

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.rsp import CONTINUE, STOP, Action, Event, Hook, QemuStubBackend, Relay
from pytest_kgdb.rsp._breakpoints import InsertedBreakpoints
from pytest_kgdb.rsp._hooks import Return
from pytest_kgdb.rsp._kernel_stops import Fault, KernelStops

# arch/x86/include/asm/kdebug.h, enum die_val
OOPS, INT3, DEBUG, TRAP, GPF = 1, 2, 3, 8, 9
NOTIFY_DONE, NOTIFY_STOP = 0, 0x8001  # include/linux/notifier.h
SIGILL, SIGTRAP, SIGBUS, SIGSEGV = 4, 5, 7, 11
KERNEL_CS, USER_CS = 0x10, 0x33

PT_REGS: Final = BASE + 0x400
FAULT: Final = BASE + 0x300
"""The instruction that is interrupted."""
FAULT_STACK: Final = BASE + 0x600
SYMBOLS: Final = {
    "notify_die": RET, "panic": BASE + 0x500, "__handle_sysrq": BASE + 0x510,
    "kgdb_panic": BASE + 0x520, "native_stop_other_cpus": BASE + 0x530,
    "atomic_notifier_call_chain": BASE + 0x540, "panic_notifier_list": BASE + 0x550,
}  # fmt: skip


def pt_regs(cs: int = KERNEL_CS) -> bytes:
    values = dict.fromkeys(range(21), 0)
    values[5], values[10], values[16], values[17] = 0xBB, 0xAA, FAULT, cs  # bx, ax, ip, cs
    values[18], values[19], values[20] = 0x246, FAULT_STACK, 0x18  # flags, sp, ss
    return struct.pack("<21Q", *values.values())


class Kernel:
    """The hooks, and a CPU that comes to them."""

    def __init__(self, *missing: str) -> None:
        self.memory = {PT_REGS: pt_regs(), STACK: CALLER.to_bytes(8, "little")}
        self.shown: list[Fault] = []
        self.breakpoints = InsertedBreakpoints(lambda _: b"OK")
        symbols = {name: at for name, at in SYMBOLS.items() if name not in missing}
        self.stops = KernelStops(self.breakpoints, symbols.get, show=self.shown.append)
        self.registers: dict[str, int] = {}

    @property
    def hooked(self) -> set[int]:
        return set(self.breakpoints.hooks)

    def at(self, address: int, **registers: int) -> Action:
        """Bring a CPU to an address; the only hook there decides."""
        self.registers = dict.fromkeys(NAMES, 0) | {"sp": STACK} | registers
        (hook,) = self.breakpoints.hooks[address]
        return hook(Event(address, self.registers, lambda at, size: self.memory[at][:size], 0.0))

    def exception(self, kind: int, signal: int = SIGSEGV, result: int = NOTIFY_DONE) -> Action:
        """Call notify_die(), and return from it."""
        assert self.at(RET, di=kind, dx=PT_REGS, r9=signal) == CONTINUE
        if CALLER not in self.hooked:
            return CONTINUE
        return self.at(CALLER, sp=STACK + 8, ax=result)


PERMANENT: Final = {RET, SYMBOLS["panic"], SYMBOLS["__handle_sysrq"]}


@pytest.fixture
def kernel() -> Kernel:
    kernel = Kernel()
    assert kernel.hooked == PERMANENT
    return kernel


@pytest.mark.parametrize(
    ("kind", "signal", "shown"),
    [(OOPS, SIGSEGV, 11), (TRAP, SIGILL, 4), (GPF, SIGSEGV, 11), (TRAP, SIGBUS, 10)],
)
def test_an_exception_in_the_kernel(kernel: Kernel, kind: int, signal: int, shown: int) -> None:
    """SIGBUS has another number in gdb's protocol."""
    assert kernel.exception(kind, signal) == STOP
    assert kernel.shown == [Fault(PT_REGS, shown)]
    assert kernel.registers["ax"] == NOTIFY_DONE, "the kernel goes on with its oops"
    assert kernel.hooked == PERMANENT


def test_one_of_a_program_is_none(kernel: Kernel) -> None:
    kernel.memory[PT_REGS] = pt_regs(USER_CS)
    assert kernel.exception(INT3, SIGTRAP) == CONTINUE
    assert kernel.exception(TRAP, SIGILL) == CONTINUE
    assert kernel.hooked == PERMANENT
    assert not kernel.shown


def test_a_single_step_of_the_kernels_own_is_none(kernel: Kernel) -> None:
    assert kernel.exception(DEBUG, SIGTRAP) == CONTINUE
    assert kernel.hooked == PERMANENT


@pytest.mark.parametrize("kind", [OOPS, INT3])
def test_one_that_a_notifier_has_dealt_with_is_none(kernel: Kernel, kind: int) -> None:
    assert kernel.exception(kind, result=NOTIFY_STOP) == CONTINUE
    assert kernel.registers["ax"] == NOTIFY_STOP
    assert kernel.hooked == PERMANENT
    assert not kernel.shown


def test_that_of_another_cpu_is_not_taken_for_it(kernel: Kernel) -> None:
    assert kernel.at(RET, di=OOPS, dx=PT_REGS, r9=SIGSEGV) == CONTINUE
    assert kernel.at(CALLER, sp=STACK + 0x1008) == CONTINUE
    assert not kernel.shown
    assert kernel.at(CALLER, sp=STACK + 8) == STOP


def test_an_int3_stops_behind_it(kernel: Kernel) -> None:
    assert kernel.exception(INT3, SIGTRAP) == CONTINUE
    assert kernel.registers["ax"] == NOTIFY_STOP, "it is not an oops"
    assert kernel.at(FAULT, sp=STACK) == CONTINUE, "another task's way"
    assert kernel.at(FAULT, sp=FAULT_STACK) == STOP
    assert kernel.hooked == PERMANENT
    assert not kernel.shown, "the CPU is there"


def test_a_panic(kernel: Kernel) -> None:
    assert kernel.at(SYMBOLS["panic"]) == CONTINUE
    assert kernel.at(SYMBOLS["kgdb_panic"], sp=STACK - 0x88) == STOP
    assert kernel.hooked == PERMANENT


def test_a_panic_of_a_kernel_without_kgdb() -> None:
    kernel = Kernel("kgdb_panic")
    assert kernel.at(SYMBOLS["panic"]) == CONTINUE
    chain = SYMBOLS["atomic_notifier_call_chain"]
    assert kernel.at(chain, sp=STACK - 0x88, di=BASE) == CONTINUE, "another list"
    assert kernel.at(SYMBOLS["native_stop_other_cpus"], sp=STACK - 0x800) == CONTINUE, "too deep"
    assert kernel.at(chain, sp=STACK + 0x88, di=SYMBOLS["panic_notifier_list"]) == CONTINUE
    assert kernel.at(chain, sp=STACK - 0x88, di=SYMBOLS["panic_notifier_list"]) == STOP
    assert kernel.hooked == PERMANENT


@pytest.mark.parametrize(("key", "action"), [("g", Return(None, stop=True)), ("h", CONTINUE)])
def test_sysrq(kernel: Kernel, key: str, action: Action) -> None:
    """The bits above the key's are not its (`u8 key` since 6.7)."""
    assert kernel.at(SYMBOLS["__handle_sysrq"], di=0xAB00 | ord(key)) == action


def test_a_kernel_that_lacks_it_all() -> None:
    assert not Kernel(*SYMBOLS).hooked


def test_another_state_of_the_machine(kernel: Kernel) -> None:
    kernel.at(RET, di=OOPS, dx=PT_REGS, r9=SIGSEGV)
    kernel.at(SYMBOLS["panic"])
    assert kernel.hooked > PERMANENT
    kernel.stops.reset()
    assert kernel.hooked == PERMANENT


def test_a_hook_is_kept_where_nothing_can_be_inserted_yet() -> None:
    replies = [b"E22", b"OK"]
    breakpoints = InsertedBreakpoints(lambda _: replies.pop(0))
    hook: Hook = lambda _: CONTINUE  # noqa: E731
    breakpoints.keep_hook(ENTRY, hook)
    for inserted in (set[int](), {ENTRY}):
        breakpoints.sync(set())
        assert breakpoints.inserted == inserted


# Through the relay


class Machine:
    """A QEMU whose next function is notify_die(), the relay, and a gdb."""

    def __init__(self, directory: Path) -> None:
        self.qemu = ScriptedQemu()
        backend = QemuStubBackend(self.qemu.connect, waits=WaitLimit(10), symbol=SYMBOLS.get)
        self.relay = Relay(directory / "gdb", backend)
        self.gdb = Gdb(str(self.relay.path))
        assert self.gdb.ask(b"?") == b"T05thread:p01.01;"
        self.qemu.memory.write(PT_REGS, pt_regs())
        self.qemu.registers.update(di=OOPS, dx=PT_REGS, r9=SIGSEGV, ip=NOP, gs_base=0x99)

    def oops(self) -> bytes:
        return self.gdb.ask(b"vCont;c:p1.-1")

    def go_to(self, address: int) -> None:
        """Set the program counter, as gdb does."""
        assert self.gdb.ask(b"P10=%b" % address.to_bytes(8, "little").hex().encode()) == b"OK"

    def general(self) -> dict[str, int]:
        values = struct.unpack("<17Q7I3Q", bytes.fromhex(self.gdb.ask(b"g").decode()))
        return dict(zip(NAMES, values, strict=True))

    def close(self) -> None:
        self.relay.close()
        self.gdb.close()
        self.qemu.close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


SEEN: Final = b"T0bthread:p01.01;"


def test_gdb_sees_what_was_interrupted(machine: Machine) -> None:
    assert machine.oops() == SEEN
    assert machine.gdb.ask(b"?") == SEEN
    assert machine.qemu.registers["ip"] == CALLER, "where notify_die() returns to"
    seen = machine.general()
    assert (seen["ip"], seen["sp"], seen["bx"], seen["cs"]) == (FAULT, FAULT_STACK, 0xBB, KERNEL_CS)
    assert seen["gs_base"] == 0x99, "the CPU's"
    assert machine.gdb.ask(b"p0") == (0xAA).to_bytes(8, "little").hex().encode()
    assert machine.gdb.ask(b"Hgp1.2") == b"OK"
    assert machine.general()["ip"] == ENTRY, "the other CPU's"


def test_a_register_is_set_in_what_was_interrupted(machine: Machine) -> None:
    machine.oops()
    assert machine.gdb.ask(b"P0=ee00000000000000") == b"OK"
    assert machine.general()["ax"] == 0xEE
    assert machine.qemu.memory.read(PT_REGS + 80, 8) == (0xEE).to_bytes(8, "little")
    assert machine.gdb.ask(b"P19=1100000000000000") == b"OK"  # gs_base
    assert machine.qemu.registers["gs_base"] == 0x11
    assert machine.general()["gs_base"] == 0x11
    assert machine.gdb.ask(b"G00") == b"E01"


def test_gdb_passes_the_signal_on(machine: Machine) -> None:
    machine.oops()
    machine.qemu.packets.clear()
    machine.gdb.send(b"vCont;C0b:p1.1;c:p1.-1")
    machine.qemu.wait_for(b"vCont;c")
    assert machine.qemu.packets[-1] == b"vCont;c"
    assert machine.gdb.silent()


def test_a_step_is_that_of_the_cpu(machine: Machine) -> None:
    machine.oops()
    machine.qemu.registers["ip"] = ENTRY
    assert machine.gdb.ask(b"vCont;s:p1.1") == b"T05thread:p01.01;"
    assert machine.general()["ip"] == LOAD


def test_a_machine_that_is_put_back_to_it(machine: Machine) -> None:
    machine.oops()
    saved = machine.relay.stop_reply
    machine.gdb.send(b"vCont;c:p1.-1")
    machine.qemu.wait_for(b"vCont;c")
    machine.relay.detach()
    machine.qemu.stop(signal=b"02")  # by QMP
    machine.relay.reattach(saved, paused=True)
    assert machine.gdb.receive() == SEEN
    assert machine.general()["ip"] == FAULT


@pytest.mark.parametrize("kind", [b"2", b"1"])
def test_what_a_gdb_that_is_gone_watched(machine: Machine, kind: bytes) -> None:
    """It has not removed it from the machine that the next test has."""
    key = b"%b,%x,8" % (kind, DATA)
    assert machine.gdb.ask(b"Z" + key) == b"OK"
    assert machine.qemu.watchpoints == {key}
    machine.relay.detach()
    machine.relay.reattach(b"T05thread:p01.01;", paused=True)
    assert machine.qemu.watchpoints == set()
    assert machine.gdb.ask(b"z" + key) == b"OK"


def test_nothing_is_emulated_where_memory_is_watched(machine: Machine) -> None:
    machine.qemu.registers["ip"] = ENTRY  # a push
    machine.gdb.ask(b"Z2,%x,8" % DATA)
    machine.qemu.packets.clear()
    assert machine.gdb.ask(b"vCont;s:p1.1") == b"T05thread:p01.01;"
    assert b"vCont;s:p1.1" in machine.qemu.packets
    machine.gdb.ask(b"z2,%x,8" % DATA)
    machine.go_to(ENTRY)
    machine.qemu.packets.clear()
    assert machine.gdb.ask(b"vCont;s:p1.1") == b"T05thread:p01.01;"
    assert not [packet for packet in machine.qemu.packets if packet[:1] == b"v"]
    assert machine.qemu.registers["ip"] == LOAD
    assert machine.qemu.memory.read(STACK - 8, 8) == bytes(8)


def test_others_run_while_gdb_steps_in_a_loop(machine: Machine) -> None:
    """What is emulated lets no other CPU run, and the loop may wait for one."""
    machine.qemu.packets.clear()
    for _ in range(120):
        machine.go_to(NOP)
        assert machine.gdb.ask(b"vCont;s:p1.1;c:p1.-1") == b"T05thread:p01.01;"
    steps = [packet for packet in machine.qemu.packets if packet.startswith(b"vCont;s")]
    assert len(steps) == 2
