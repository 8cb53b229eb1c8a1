"""Hooks of the relay, on a kgdb of two processors that is played here."""

from __future__ import annotations

import pytest

from pytest_kgdb.rsp import PASS, TELL, Action, Event, Return
from pytest_kgdb.rsp._serve import Context, HookServer

HERE, CALLER, TRAP_FLAG = 0xFFFFFFFF81000000, 0xFFFFFFFF81999999, 0x100


class Kgdb:
    """What kgdb is told, and a CPU that stops."""

    def __init__(self) -> None:
        self.told: list[bytes] = []
        self.planted: set[int] = set()
        self.server = HookServer(self.ask, self.told.append)
        self.simulates = True
        self.calls: list[str] = []

    def ask(self, payload: bytes) -> bytes:
        self.told.append(payload)
        address = int(payload.split(b",")[1], 16)
        if payload[:1] == b"Z":
            self.planted.add(address)
        else:
            self.planted.remove(address)
        return b"OK"

    def stop(self, ip: int, *, thread: bytes = b"1", flags: int = 0) -> Context:
        registers = {"ip": ip, "sp": 0x1000, "ax": 0, "flags": flags}

        def simulate() -> bool:
            registers["ip"] += self.simulates
            return self.simulates

        return Context(registers, lambda _a, _s: CALLER.to_bytes(8, "little"), thread, simulate)

    def hit(self, address: int, thread: bytes = b"1") -> tuple[Context, bool]:
        context = self.stop(address + 1, thread=thread)
        return context, self.server.arrive(context, 0.0)

    def hook(self, name: str, action: Action = PASS, address: int = HERE) -> None:
        def called(event: Event) -> Action:
            self.calls.append(f"{name}{' late' if event.decided else ''}")
            return action

        assert self.server.plants.hook(address, called) == b"OK"


@pytest.fixture
def kgdb() -> Kgdb:
    return Kgdb()


def test_a_call_passes_and_the_breakpoint_stays(kgdb: Kgdb) -> None:
    kgdb.hook("spy")
    context, served = kgdb.hit(HERE)
    assert served
    assert kgdb.calls == ["spy"]
    assert context.registers["ip"] == HERE + 1, "the first instruction is done"
    assert kgdb.told == [b"Z0,%x,1" % HERE, b"c"]


def test_what_is_not_simulated_is_stepped(kgdb: Kgdb) -> None:
    kgdb.hook("spy")
    kgdb.simulates = False
    assert kgdb.hit(HERE)[1]
    assert kgdb.told[-2:] == [b"z0,%x,1" % HERE, b"s"]
    assert kgdb.server.arrive(kgdb.stop(HERE + 3, flags=TRAP_FLAG), 0.0)
    assert kgdb.told[-2:] == [b"Z0,%x,1" % HERE, b"c"]
    assert kgdb.calls == ["spy"]


def test_two_processors_step_at_once(kgdb: Kgdb) -> None:
    """The second comes before the first one's step has ended: both must be told from gdb's."""
    kgdb.hook("spy")
    kgdb.hook("other", address=HERE + 0x100)
    kgdb.simulates = False
    assert kgdb.hit(HERE)[1]
    assert kgdb.hit(HERE + 0x100, b"2")[1]
    assert kgdb.planted == set(), "the first is still there, where it must not trap again"
    assert kgdb.server.arrive(kgdb.stop(HERE + 3, flags=TRAP_FLAG), 0.0)
    assert kgdb.planted == {HERE}
    assert kgdb.server.arrive(kgdb.stop(HERE + 0x103, thread=b"2", flags=TRAP_FLAG), 0.0)
    assert kgdb.planted == {HERE, HERE + 0x100}
    assert not kgdb.server.arrive(kgdb.stop(HERE + 9, flags=TRAP_FLAG), 0.0), "nobody's but gdb's"


def test_a_breakpoint_of_gdbs_is_told_after_the_hook(kgdb: Kgdb) -> None:
    kgdb.hook("spy")
    kgdb.server.plants.insert(HERE)
    context, served = kgdb.hit(HERE)
    assert not served
    assert kgdb.server.passed == HERE == context.registers["ip"]
    # gdb steps over its breakpoint, and goes on
    kgdb.server.plants.wanted.discard(HERE)
    assert kgdb.server.resume(b"s", context)
    kgdb.server.plants.insert(HERE)
    assert not kgdb.server.resume(b"c", context)
    assert kgdb.calls == ["spy"]
    assert kgdb.told == [b"Z0,%x,1" % HERE, b"c"]


def test_going_on_where_gdb_has_no_breakpoint_any_more(kgdb: Kgdb) -> None:
    kgdb.hook("spy")
    kgdb.server.plants.insert(HERE)
    context, _ = kgdb.hit(HERE)
    kgdb.server.plants.wanted.discard(HERE)
    assert not kgdb.server.resume(b"c", context)
    assert context.registers["ip"] == HERE + 1, "it would be counted again"
    assert kgdb.told[-1] == b"c"


def test_a_step_onto_and_over_a_hook_is_a_call(kgdb: Kgdb) -> None:
    kgdb.hook("spy")
    context = kgdb.stop(HERE, flags=TRAP_FLAG)
    assert not kgdb.server.arrive(context, 0.0)
    assert kgdb.server.resume(b"s", context)
    assert kgdb.calls == ["spy"]


def test_a_forced_return(kgdb: Kgdb) -> None:
    kgdb.hook("older", Return(5))
    kgdb.hook("newer", Return(7))
    context, served = kgdb.hit(HERE)
    assert served
    assert kgdb.calls == ["newer", "older late"]
    registers = context.registers
    assert (registers["ax"], registers["ip"], registers["sp"]) == (7, CALLER, 0x1008)


def test_a_forced_return_under_a_breakpoint_comes_at_the_resume(kgdb: Kgdb) -> None:
    for word in (b"c", b"s"):
        kgdb.hook("override", Return(7))
        kgdb.server.plants.insert(HERE)
        context, served = kgdb.hit(HERE)
        assert not served
        assert context.registers["ip"] == HERE
        assert kgdb.server.resume(word, context) == (word == b"s")
        assert (context.registers["ax"], context.registers["ip"]) == (7, CALLER)


def test_a_hook_may_stop_the_kernel(kgdb: Kgdb) -> None:
    kgdb.hook("teller", TELL)
    assert not kgdb.hit(HERE)[1]


def test_what_a_hook_raises_stops_the_kernel(kgdb: Kgdb) -> None:
    def stumble(event: Event) -> Action:
        raise ValueError(f"at {event.address:#x}")

    kgdb.server.plants.hook(HERE, stumble)
    assert not kgdb.hit(HERE)[1]
    assert isinstance(kgdb.server.trouble, ValueError)


def test_a_hook_that_was_taken_out_while_the_kernel_ran(kgdb: Kgdb) -> None:
    kgdb.hook("spy")
    kgdb.server.plants.unhook(HERE, kgdb.server.plants.hooks[HERE][0])
    assert kgdb.server.busy
    context, served = kgdb.hit(HERE)
    assert served
    assert kgdb.calls == []
    assert context.registers["ip"] == HERE
    assert kgdb.planted == set()
    assert kgdb.told[-1] == b"c"
    assert not kgdb.server.busy


def test_a_refusal_of_kgdbs(kgdb: Kgdb) -> None:
    server = HookServer(lambda _payload: b"E22", kgdb.told.append)
    assert server.plants.hook(HERE, lambda _event: PASS) == b"E22"
    assert not server.plants.hooks


def test_what_a_step_plants_is_for_the_task_that_is_stepped(kgdb: Kgdb) -> None:
    """gdb steps over a call, and other tasks return to the same place first."""
    server = kgdb.server
    server.plants.insert(HERE)
    server.followed.begin(b"1", server.plants.wanted)
    server.plants.insert(HERE + 0x40)  # where the call returns to
    context, served = kgdb.hit(HERE + 0x40, b"2")
    assert served
    assert context.registers["ip"] == HERE + 0x41, "it goes on behind its first instruction"
    assert kgdb.told[-1] == b"c"
    kgdb.simulates = False
    assert kgdb.hit(HERE + 0x40, b"3")[1]
    assert kgdb.told[-2:] == [b"z0,%x,1" % (HERE + 0x40), b"s"]
    assert server.arrive(kgdb.stop(HERE + 0x44, thread=b"3", flags=TRAP_FLAG), 0.0)
    assert kgdb.planted == {HERE, HERE + 0x40}
    assert not kgdb.hit(HERE + 0x40, b"1")[1], "its own task has come"
    assert not kgdb.hit(HERE, b"2")[1], "a breakpoint of the user's stops any task"
    server.followed.end()
    assert not kgdb.hit(HERE + 0x40, b"2")[1], "what is planted otherwise, too"


def test_a_step_that_gdb_has_given_up_is_not_told(kgdb: Kgdb) -> None:
    """Another task stops at a breakpoint of the user's before a single step has ended."""
    server = kgdb.server
    server.plants.insert(HERE)
    server.followed.begin(b"1", server.plants.wanted)
    kgdb.simulates = False
    assert not server.resume(b"s", kgdb.stop(HERE + 0x10))
    assert not kgdb.hit(HERE, b"2")[1]
    server.followed.end()
    assert not server.resume(b"c", kgdb.stop(HERE, thread=b"2"))
    assert server.arrive(kgdb.stop(HERE + 0x13, flags=TRAP_FLAG), 0.0)
    assert kgdb.told[-1] == b"c"
    assert not server.resume(b"s", kgdb.stop(HERE + 0x20))
    assert not server.arrive(kgdb.stop(HERE + 0x23, flags=TRAP_FLAG), 0.0), "this one it wants"


def test_a_step_outlasts_what_others_do_meanwhile(kgdb: Kgdb) -> None:
    server = kgdb.server
    server.followed.begin(b"1", ())
    server.plants.insert(HERE + 0x40)
    kgdb.simulates = False
    assert not server.resume(b"s", kgdb.stop(HERE + 0x10))
    assert kgdb.hit(HERE + 0x40, b"2")[1]
    assert not server.arrive(kgdb.stop(HERE + 0x13, flags=TRAP_FLAG), 0.0)
