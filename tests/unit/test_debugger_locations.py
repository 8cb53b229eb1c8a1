"""Where a breakpoint may be, and what is said where it may not."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_gdb import FakeGdb, Parts

from pytest_kgdb.debugger import Locations, NoSuchLocation
from pytest_kgdb.debugger._linespec import linespec
from pytest_kgdb.errors import KgdbError

# gdb's agent gives addresses as signed numbers, as in Linux 6.1: _sinittext is -2112131072.
SYMBOLS: dict[str, int | list[int]] = {
    "_sinittext": 0xFFFFFFFF82000000,
    "init_only": 0xFFFFFFFF82000100,
    "_einittext": 0xFFFFFFFF82001000,
    "__noinstr_text_start": 0xFFFFFFFF81600000,
    "noinstr_code": 0xFFFFFFFF81600010,
    "__noinstr_text_end": 0xFFFFFFFF81601000,
    "__entry_text_start": 0xFFFFFFFF81700000,
    "entry_SYSCALL_64": 0xFFFFFFFF81700040,
    "__entry_text_end": 0xFFFFFFFF81701000,
    "__kprobes_text_start": 0xFFFFFFFF81800000,
    "kprobe_int3_handler": 0xFFFFFFFF81800020,
    "__kprobes_text_end": 0xFFFFFFFF81801000,
    "__start_kprobe_blacklist": 0xFFFFFFFF82100000,
    "__stop_kprobe_blacklist": 0xFFFFFFFF82100018,
    "do_int3": 0xFFFFFFFF81100000,
    "before_do_int3": 0xFFFFFFFF810FFF00,
    "after_do_int3": 0xFFFFFFFF81100100,
    "vfs_read": 0xFFFFFFFF811B25A0,
    "_printk": 0xFFFFFFFF81500000,
    "two_places": [0xFFFFFFFF811B2600, 0xFFFFFFFF81600800],
    "demo_init": 0xFFFFFFFFA0005014,
}


class Elf:
    """A vmlinux with a blocklist of do_int3 and something that its section ends with."""

    def contents(self, address: int, size: int) -> bytes:
        assert (address, size) == (0xFFFFFFFF82100000, 24)
        return struct.pack("<QQQ", 0xFFFFFFFF81F00000, 0xFFFFFFFF81100000, 0)

    def functions(self) -> Iterator[str]:
        yield from ("vfs_read", "vfs_write", "do_int3")


class Signed(FakeGdb):
    def _symbol(self, name: str) -> dict[str, object]:
        answer = super()._symbol(name)
        if "address" in answer:
            answer["address"] -= 1 << 64
        return answer


def make(parts: Parts, symbols: Path | None = None) -> Locations:
    elf: Any = Elf()
    return Locations(
        parts.debugger,
        elf,
        symbols,
        refusal=lambda address: "its memory is freed" if address >= 0xFFFFFFFFA0005000 else None,
        functions=lambda: ("demo_init", "demo_exit"),
    )


@pytest.fixture
def gdb() -> FakeGdb:
    gdb = Signed(SYMBOLS)
    gdb.numbers["(int)system_state"] = 1
    return gdb


@pytest.fixture
def locations(parts: Parts) -> Locations:
    return make(parts)


def refusal(locations: Locations, location: str) -> str:
    with pytest.raises(KgdbError) as error:
        locations.resolve(location)
    assert error.value.message.startswith(f"no breakpoint at {location} (0xffffffff")
    assert error.value.hint == "take a caller, or a function that it calls"
    return error.value.message


def test_what_may_be_probed(locations: Locations) -> None:
    for location in ("vfs_read", "*0xffffffff811b25a0", "before_do_int3", "after_do_int3"):
        assert locations.resolve(location) == location


def test_an_address_within_an_instruction(locations: Locations, gdb: FakeGdb) -> None:
    decode = gdb.agent["locations"]
    gdb.agent["locations"] = lambda location: {
        **decode(location),
        "within": [[0xFFFFFFFF811B25A0, "push %r14"] if location.endswith("1") else None],
    }
    place = "*0xffffffff811b25a1"
    for refuse in (
        locations.resolve,
        lambda place: locations.refuse_within_instruction(place, "x"),
    ):
        with pytest.raises(
            KgdbError,
            match=r": 0xffffffff811b25a1 is within an instruction, 'push %r14', which begins at "
            r"0xffffffff811b25a0; a breakpoint there would change it",
        ):
            refuse(place)
    place = place[:-1] + "2"
    assert locations.resolve(place) == place
    locations.refuse_within_instruction(place, "x")


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("noinstr_code", r"section \.noinstr\.text"),
        ("__noinstr_text_start", r"section \.noinstr\.text"),
        ("*0xffffffff81600fff", r"section \.noinstr\.text"),
        ("entry_SYSCALL_64", r"section \.entry\.text"),
        ("kprobe_int3_handler", r"blocklist \(section \.kprobes\.text\)"),
        ("do_int3", r"blocklist \(NOKPROBE_SYMBOL\)"),
        ("*0xffffffff811000fe", r"blocklist \(NOKPROBE_SYMBOL\)"),
        ("two_places", r"0xffffffff81600800.*section \.noinstr\.text"),
        ("demo_init", "its memory is freed"),
    ],
)
def test_forbidden_ranges(locations: Locations, location: str, reason: str) -> None:
    assert re.search(reason, refusal(locations, location))


def test_the_end_of_a_range_is_not_in_it(locations: Locations) -> None:
    for end in ("noinstr_text", "entry_text", "kprobes_text"):
        assert locations.resolve(f"__{end}_end")


def test_init_text_is_free_to_use_until_it_is_freed(locations: Locations, gdb: FakeGdb) -> None:
    assert locations.resolve("init_only")
    for state in (2, 3):  # include/linux/kernel.h: SYSTEM_FREEING_INITMEM, SYSTEM_RUNNING
        gdb.numbers["(int)system_state"] = state
        assert "is in .init.text, whose memory the kernel has freed" in refusal(
            locations, "init_only"
        )


def test_qemus_stub_may_stop_anywhere_but_in_freed_memory(tmp_path: Path) -> None:
    gdb = Signed(SYMBOLS)
    gdb.numbers["(int)system_state"] = 3
    parts = Parts(tmp_path, gdb, door="qemu")
    locations = make(parts)
    assert locations.resolve("entry_SYSCALL_64")
    assert locations.resolve("do_int3")
    refusal(locations, "init_only")
    parts.close()


def test_qemus_stub_may_not_stop_in_freed_memory_of_a_module(tmp_path: Path) -> None:
    parts = Parts(tmp_path, Signed({**SYMBOLS, "demo_init": 0xFFFFFFFFA0005000}), door="qemu")
    assert "its memory is freed" in refusal(make(parts), "demo_init")
    parts.close()


def test_a_kernel_without_such_sections(tmp_path: Path) -> None:
    parts = Parts(tmp_path, FakeGdb({"vfs_read": 0xFFFFFFFF811B25A0}))
    locations = make(parts)
    assert locations.resolve("vfs_read") == "vfs_read"
    assert locations.forbidden_ranges() == []
    parts.close()


def test_ranges_for_the_returns_of_calls(locations: Locations) -> None:
    assert (0xFFFFFFFF81600000, 0xFFFFFFFF81601000) in locations.forbidden_ranges()
    assert len(locations.forbidden_ranges()) == 3


def test_names_of_addresses_are_asked_for_once(locations: Locations, gdb: FakeGdb) -> None:
    for _ in range(3):
        locations.resolve("vfs_read")
    names = [request["name"] for request in gdb.requests("symbol")]
    assert len(names) == len(set(names))


# Names


def test_what_allocates_is_a_macro_over_a_function(locations: Locations, gdb: FakeGdb) -> None:
    gdb.symbols["kmemdup_noprof"] = 0xFFFFFFFF81500100  # since 6.10
    assert locations.resolve("kmemdup") == "kmemdup_noprof"
    assert locations.behind("kmemdup", "spy") == "kmemdup_noprof"
    with pytest.raises(NoSuchLocation, match="no spy on kmemdup2"):
        locations.behind("kmemdup2", "spy")


def test_printk_is_a_macro_over_a_function(locations: Locations, gdb: FakeGdb) -> None:
    assert locations.resolve("printk") == "_printk"
    assert locations.behind("printk", "spy") == "_printk"
    gdb.symbols["printk"] = gdb.symbols.pop("_printk")  # before 5.15
    assert locations.resolve("printk") == "printk"
    assert locations.behind("printk", "spy") == "printk"
    del gdb.symbols["printk"]
    with pytest.raises(NoSuchLocation, match='no breakpoint at printk: Function "printk"'):
        locations.resolve("printk")


@pytest.mark.parametrize(
    ("location", "near"),
    [("vfs_raed", "vfs_read"), ("demo_intit", "demo_init"), ("do_int", "do_int3")],
)
def test_near_names(locations: Locations, location: str, near: str) -> None:
    for resolve, what in (
        (locations.resolve, "breakpoint at"),
        (lambda name: locations.behind(name, "override"), "override on"),
    ):
        with pytest.raises(NoSuchLocation) as error:
            resolve(location)
        assert error.value.message == (f'no {what} {location}: Function "{location}" not defined')
        assert error.value.by_test, "it says nothing of the kernel"
        assert error.value.hint is not None
        assert re.match(rf"did you mean .*\b{near}\b", error.value.hint)


def test_no_name_is_near(locations: Locations) -> None:
    with pytest.raises(NoSuchLocation) as error:
        locations.resolve("nothing_at_all_like_it")
    assert "gcc inlined everywhere" in (error.value.hint or "")


def test_names_of_the_system_map(parts: Parts, tmp_path: Path) -> None:
    symbols = tmp_path / "System.map"
    symbols.write_text("ffffffff81000000 T only_in_the_map\nffffffff82000000 D only_in_the_data\n")
    locations = make(parts, symbols)
    with pytest.raises(NoSuchLocation) as error:
        locations.resolve("only_in_the_mop")
    assert error.value.hint == "did you mean only_in_the_map?"
    with pytest.raises(NoSuchLocation) as error:
        locations.resolve("only_in_the_dato")
    assert "only_in_the_data" not in (error.value.hint or "")


def test_what_modules_explain(parts: Parts) -> None:
    elf: Any = Elf()
    locations = Locations(
        parts.debugger,
        elf,
        None,
        refusal=lambda _: None,
        functions=lambda: ("later_init",),
        explain=lambda name: ("it is not loaded", "load it") if name == "later_init" else None,
    )
    with pytest.raises(NoSuchLocation, match="no spy on later_init: it is not loaded") as error:
        locations.behind("later_init", "spy")
    assert error.value.hint == "load it"
    with pytest.raises(NoSuchLocation, match="no breakpoint at later_intit: Function"):
        locations.resolve("later_intit")


@pytest.mark.parametrize(
    ("location", "place", "condition"),
    [
        ("vfs_read if count == 17", "vfs_read", "count == 17"),
        ("nosuch if(count == 17)", "nosuch", "(count == 17)"),
        ("fs/read_write.c:450 if count", "fs/read_write.c:450", "count"),
        ("*vfs_read + 4 if", "*vfs_read + 4", ""),
    ],
)
def test_a_condition_is_no_part_of_a_location(
    locations: Locations, location: str, place: str, condition: str
) -> None:
    with pytest.raises(KgdbError, match="a condition is not part of the location") as error:
        locations.resolve(location)
    assert error.value.hint == f'breakpoint("{place}", condition="{condition}")'
    with pytest.raises(KgdbError, match=r"no spy on .*a condition is not part of the function"):
        locations.behind(location, "spy")


@pytest.mark.parametrize(
    ("explicit", "expected"),
    [
        ("-function f", "f"),
        ("-func f", "f"),
        ("-qualified f", "f"),
        ("-q -function f", "f"),
        ("-source fs/a.c -function f", "fs/a.c:f"),
        ("-function f -label out", "f:out"),
        ("-s fs/a.c -f f -la out", "fs/a.c:f:out"),
        ("-line 5", "5"),
        (" -line +5", "+5"),
        ("-line -5", "-5"),
        ('-source "a b.c" -li 5', "a b.c:5"),
        ("-5", "-5"),
        ("f", "f"),
        ("*0x10", "*0x10"),
    ],
)
def test_explicit_locations(explicit: str, expected: str) -> None:
    assert linespec(explicit) == expected


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("-p", "'-p' is no part"),
        ("-p vfs_read", "'-p' is no part"),
        ("-pfoo", "'-pfoo' is no part"),
        ("-probe-stap x", "'-probe-stap' is no part"),
        ("-", "'-' is no part"),
        ("--function f", "'--function' is no part"),
        ("-function", "-function names nothing"),
        ("-function -label out", "-function names nothing"),
        ("-function -5", "-function names nothing"),
        ("-source a.c -line f", "-line needs a number"),
        ("-line", "-line needs a number"),
        ("-function f if x", "'if' is no part"),
        ("-function f -line 5", "a line is one of a file's"),
        ("-label out", "a label is one of a function's"),
        ("-source a.c", "names no function"),
        ("-qualified", "names no function"),
        ("-function 'f", "a quote has no end"),
    ],
)
def test_other_locations_with_a_dash(location: str, why: str) -> None:
    with pytest.raises(KgdbError, match=f"^no breakpoint at {re.escape(location)}: .*{why}"):
        linespec(location)
