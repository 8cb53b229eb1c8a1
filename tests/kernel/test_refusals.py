"""What would cost the machine is refused, and the kernel is usable afterwards."""

from __future__ import annotations

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.handle import attachment_of

# Nothing is there: user space, a hole between the kernel's image and its modules, no address.
NOWHERE = [0, 0x44, 0x400000, 0x7FFF_FFFF_F000, 0xFFFFFFFFBF000000, 0xDEAD000000000100]


def assert_usable(kgdb) -> None:
    assert kgdb.stopped
    assert kgdb.run("echo alive").output == "alive\n"
    assert not kgdb.splats


@pytest.fixture(params=["guest memory is ours", "kgdb is asked"])
def either(kgdb, request):
    relay = attachment_of(kgdb).relay
    memory, layout = relay.guest_memory_used
    if request.param == "kgdb is asked":
        relay.use_guest_memory(None, None)
    yield kgdb
    relay.use_guest_memory(memory, layout)


@pytest.mark.parametrize("address", NOWHERE)
def test_a_write_to_nowhere(either, address):
    with pytest.raises(KgdbError, match="mapped"):
        either.write(address, b"xxxx")
    with pytest.raises(KgdbError, match="mapped"):
        either.assign(f"*(char *){address:#x}", 1)
    for command in ("set var *(long *)", "print *(int *)", "set {int}"):
        with pytest.raises(KgdbError):
            either.execute(f"{command}{address:#x} = 1")
    assert_usable(either)


def test_a_write_that_begins_where_memory_is(kgdb):
    """The range crosses into what is not mapped: nothing of it reaches kgdb as a fault."""
    end = int(kgdb.evaluate("(long)&_end"))
    hole = next(at for at in range(-(-end // (1 << 21)) << 21, end + (1 << 28), 1 << 21)
                if not readable(kgdb, at))  # fmt: skip
    with pytest.raises(KgdbError, match="mapped"):
        kgdb.write(hole - 2, b"xxxx")
    assert_usable(kgdb)


def readable(kgdb, address: int) -> bool:
    try:
        kgdb.read(address, 1)
    except KgdbError:
        return False
    return True


def test_a_breakpoint_is_known_either_way(either):
    with either.breakpoint("vfs_read") as read:
        either.type("cat /proc/version")
        stop = either.cont()
        assert (stop.breakpoint, stop.reason) == (read, "breakpoint")
        assert stop.frame.address == read.address
    assert_usable(either)


@pytest.mark.parametrize("lvalue", ["init_task.mm->flags", "((struct file *)0)->f_flags"])
def test_an_assignment_through_null(either, lvalue):
    with pytest.raises(KgdbError, match="mapped"):
        either.assign(lvalue, 1)
    assert_usable(either)
