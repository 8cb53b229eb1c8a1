"""Memory that the kernel frees while instruments are at work, seen by hooks."""

from __future__ import annotations

import pytest
from fake_hooks import (
    END,
    ENTRY,
    INIT,
    INIT_END,
    SYMBOLS,
    FreedModules,
    HookedRelay,
    freeing,
)

from pytest_kgdb.trace import FreedMemory

MODULE, STRUCT = 0xFFFFFFFFA0005011, 0xFFFFFFFFA0002040
OFFSETS = SYMBOLS["__per_cpu_offset"]


@pytest.fixture
def relay() -> HookedRelay:
    return HookedRelay()


def test_what_is_never_freed_costs_nothing(relay: HookedRelay) -> None:
    hooks = freeing(relay)
    hooks.prepare()
    assert hooks.add([ENTRY, END - 1, INIT - 1, INIT_END, 0xFFFFFFFFFF000000])
    assert not relay.hooks


def test_a_module_that_goes(relay: HookedRelay) -> None:
    modules = FreedModules()
    gone = modules.memory[STRUCT] = FreedMemory.of_module("demo", ((MODULE, MODULE + 1),))
    freed: list[FreedMemory] = []
    hooks = freeing(relay, modules)
    hooks.subscribe(freed.append)
    hooks.prepare()
    assert modules.prepared == 1
    assert hooks.add([MODULE])
    assert hooks.add([ENTRY, MODULE])
    assert [*relay.hooks] == [SYMBOLS["module_arch_freeing_init"]]
    assert [len(there) for there in relay.hooks.values()] == [1]
    relay.arrive(SYMBOLS["module_arch_freeing_init"], di=STRUCT)
    assert freed == [gone]
    assert (modules.prepared, gone.holds(MODULE), gone.holds(ENTRY)) == (1, True, False)
    hooks.remove()
    assert not relay.hooks
    assert hooks.add([MODULE])
    assert relay.hooks


def test_init_memory_that_goes(relay: HookedRelay) -> None:
    freed: list[FreedMemory] = []
    hooks = freeing(relay)
    hooks.subscribe(freed.append)
    assert hooks.add([INIT])
    relay.arrive(SYMBOLS["free_initmem"])
    (gone,) = freed
    assert [gone.holds(one) for one in (INIT - 1, INIT, INIT_END - 1, INIT_END)] == [
        *(False, True, True, False)
    ]
    assert gone.why == "the kernel has freed its init memory"


def test_per_cpu_variables_among_init_memory_are_none(relay: HookedRelay) -> None:
    """Linux 6.15 links them there."""
    start, end = INIT + 0x1000, INIT + 0x3000
    hooks = freeing(relay, symbols={**SYMBOLS, "__per_cpu_start": start, "__per_cpu_end": end})
    hooks.add([start, end - 1])
    assert not relay.hooks
    hooks.add([INIT, start - 1, end])
    assert relay.hooks


@pytest.mark.parametrize(
    ("numbers", "seen"),
    [
        ([ENTRY, 17, 0x24000, (1 << 64) - 12], ""),
        ([17, MODULE], "module_arch_freeing_init"),
        ([17, INIT], "free_initmem"),
        ([0x1000, OFFSETS], ""),
        ([0x24000, OFFSETS], "module_arch_freeing_init"),  # a module's, to each CPU's offset
    ],
)
def test_numbers_in_code(relay: HookedRelay, numbers: list[int], seen: str) -> None:
    assert freeing(relay).add(numbers)
    assert set(relay.hooks) == ({SYMBOLS[seen]} if seen else set())


def test_per_cpu_variables_of_a_module() -> None:
    gone = FreedMemory.of_module("demo", ((MODULE, MODULE + 16),), ((0x24000, 0x24008),))
    assert gone.is_read_by([5, MODULE + 15], OFFSETS)
    assert gone.is_read_by([0x24004, OFFSETS], OFFSETS)
    assert not gone.is_read_by([0x24004], OFFSETS), "a number like any other"
    assert not gone.is_read_by([0x24008, OFFSETS], OFFSETS)


@pytest.mark.parametrize("reason", ["no function", "no structure", "no breakpoint"])
def test_a_kernel_that_cannot_be_seen_to_free(relay: HookedRelay, reason: str) -> None:
    modules = FreedModules()
    modules.refuses = reason == "no structure"
    symbols = dict(SYMBOLS)
    if reason == "no function":
        del symbols["module_arch_freeing_init"]
    if reason == "no breakpoint":
        relay.refuses.add(SYMBOLS["module_arch_freeing_init"])
    hooks = freeing(relay, modules, symbols)
    assert not hooks.add([MODULE])
    assert hooks.add([INIT])


def test_a_kernel_without_the_function_has_two_others(relay: HookedRelay) -> None:
    symbols = {**SYMBOLS, "trim_init_extable": ENTRY + 64, "free_module": ENTRY + 128}
    del symbols["module_arch_freeing_init"]
    assert freeing(relay, symbols=symbols).add([MODULE])
    assert set(relay.hooks) == {ENTRY + 64, ENTRY + 128}
