"""What a spy makes of the arrivals that it is told of."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp import Event
from pytest_kgdb.target import Spy
from pytest_kgdb.target._functions import _CONTEXT, Function, Place, Returns

ENTRY, CALLER, STACK = 0x1000, 0x2000, 0x7000


class Relay:
    """Takes hooks, and brings CPUs to them."""

    def __init__(self) -> None:
        self.hooks: dict[int, Any] = {}

    def add_hook(self, address: int, hook: Any) -> None:
        self.hooks[address] = hook

    def try_add_hook(self, address: int, hook: Any) -> bool:
        self.add_hook(address, hook)
        return True

    def remove_hook(self, address: int, hook: Any) -> None:
        del self.hooks[address]

    def arrive(self, address: int, *, gap: float, took: float, **registers: int) -> None:
        event = Event(address, registers, lambda at, size: CALLER.to_bytes(size, "little"), gap)
        self.hooks[address](event)
        if event.took is not None:
            event.took(took)


def spy(relay: Relay, *, returns: bool) -> Spy:
    unknown = tuple((name, KgdbError("not read")) for name in _CONTEXT)
    place = Place(ENTRY, Returns("int", "int", 4, True), (), (), unknown)
    made: Any = relay
    return Spy(made, Function("f", (place,), ()), returns=returns, keep=10, barred=())


@pytest.mark.parametrize(("returns", "here", "trap"), [(False, 0.1, 0.01), (True, 0.3, 0.03)])
def test_the_cost_of_a_call_is_that_of_all_its_traps(
    returns: bool, here: float, trap: float
) -> None:
    relay = Relay()
    with spy(relay, returns=returns) as calls:
        assert calls.cost.per_call == 0
        for value in range(3):
            relay.arrive(ENTRY, gap=0.01, took=0.1, sp=STACK)
            assert (CALLER in relay.hooks) is returns
            if returns:
                relay.arrive(CALLER, gap=0.02, took=0.2, sp=STACK + 8, ax=value)
    assert (calls.cost.calls, calls.cost.here, calls.cost.trap) == (
        3,
        pytest.approx(here),
        pytest.approx(trap),
    )
    if returns:
        assert [call.return_value for call in calls.calls] == [0, 1, 2]
    assert not relay.hooks
