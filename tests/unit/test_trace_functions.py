"""Functions as hooks need them: their copies, their arguments, and what cannot be read there."""

from __future__ import annotations

from typing import Any

import pytest
from fake_gdb import FakeGdb, Parts
from fake_hooks import ENTRY, Memory, compiled

from pytest_kgdb.debugger import GdbError
from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp import Event
from pytest_kgdb.trace._functions import (
    _CONTEXT,
    Collected,
    Function,
    Returns,
    Text,
    find_function,
    read_string,
)

INT = {"type": "ssize_t", "kind": "int", "size": 8, "signed": True}


def copy(name: str = "vfs_read", address: int = ENTRY, **fields: Any) -> dict[str, Any]:
    """What the agent says of one copy of a function."""
    return {
        "name": name,
        "address": address,
        "inlined": False,
        "file": "/build/src/fs/read_write.c",
        "line": 454,
        "returns": INT,
        "arguments": [["count", compiled("reg 3")]],
        "expressions": [],
        **fields,
    }


@pytest.fixture
def find(parts: Parts, gdb: FakeGdb) -> Any:
    def find(*copies: dict[str, Any], expressions: tuple[str, ...] = (), **codes: Any) -> Function:
        def function(location: str, expressions: list[str]) -> dict[str, Any]:
            assert location == "vfs_read"
            known = [codes.get(text, compiled("const8 7")) for text in expressions]
            return {"places": [{**one, "expressions": known} for one in copies]}

        gdb.agent["function"] = function
        return find_function(parts.debugger, parts.locations, "vfs_read", expressions, "spy")

    return find


def event(memory: Memory | None = None, **registers: int) -> Event:
    return Event(ENTRY, registers, (memory or Memory()).read, 0.0)


# Functions


def test_a_function(find: Any) -> None:
    function = find(copy())
    (entry,) = function.entries
    assert (function.name, function.argument_names, function.inlined_in) == (
        "vfs_read",
        ("count",),
        (),
    )
    assert (entry.address, entry.returns) == (ENTRY, Returns("ssize_t", "int", 8, True))
    assert entry.read_arguments(event(dx=17)) == {"count": 17}
    assert entry.read_context(event()) == dict.fromkeys(_CONTEXT, 7)
    assert entry.read_task(event()) == 7


def test_copies_and_where_gcc_inlined_it(find: Any) -> None:
    function = find(
        copy(),
        copy(address=ENTRY + 64),
        copy("ksys_read", ENTRY + 128, inlined=True, line=613),
        copy("ksys_read", ENTRY + 140, inlined=True, line=613),
        copy("nowhere", ENTRY + 160, inlined=True, file=None),
    )
    assert [entry.address for entry in function.entries] == [ENTRY, ENTRY + 64]
    assert function.inlined_in == ("ksys_read (fs/read_write.c:613)", "nowhere (?:454)")


def test_one_that_was_inlined_everywhere(find: Any) -> None:
    callers = [copy(f"caller{number}", ENTRY + number, inlined=True) for number in range(6)]
    with pytest.raises(KgdbError) as error:
        find(*callers)
    assert error.value.message == (
        "no spy on vfs_read: gcc inlined it everywhere, in "
        + ", ".join(f"caller{number} (fs/read_write.c:454)" for number in range(4))
        + " and more"
    )


def test_one_that_must_not_be_probed(find: Any, gdb: FakeGdb) -> None:
    gdb.symbols["__noinstr_text_start"] = ENTRY - 16
    gdb.symbols["__noinstr_text_end"] = ENTRY + 16
    with pytest.raises(
        KgdbError, match=r"^no spy on vfs_read \(0xffffffff811b25a0\): it is noinstr"
    ):
        find(copy())


def test_one_of_which_nothing_is_known(find: Any) -> None:
    (entry,) = find(copy(returns=None, arguments=[])).entries
    assert entry.returns is None


# Expressions


def test_expressions(find: Any) -> None:
    function = find(
        copy(),
        expressions=("count * 2", "file->f_flags"),
        **{"count * 2": compiled("reg 3", "const8 2", "mul"),
           "file->f_flags": compiled("reg 5", "ref32")},
    )  # fmt: skip
    memory = Memory()
    memory.put(0x5000, b"\x01\x80\0\0")
    (entry,) = function.entries
    values = entry.read_expressions(event(memory, dx=17, di=0x5000))
    assert values == {"count * 2": 34, "file->f_flags": 0x8001}
    values = entry.read_expressions(event(memory, dx=17, di=0x6000))
    assert values["count * 2"] == 34
    assert isinstance(values["file->f_flags"], KgdbError)


def test_an_expression_that_gdb_cannot_compile(find: Any) -> None:
    broken = {"error": 'No symbol "nosuch" in current context.', "type": None}
    with pytest.raises(GdbError) as error:
        find(copy(), expressions=("nosuch",), nosuch=broken)
    assert error.value.message == (
        "no spy on vfs_read: 'nosuch' cannot be read at its entry: "
        'No symbol "nosuch" in current context.'
    )


def test_a_structure_has_members(find: Any) -> None:
    broken = {"error": "Value not scalar: cannot be an rvalue.", "type": "struct path"}
    with pytest.raises(KgdbError, match="it is a struct path") as error:
        find(copy(), expressions=("path",), path=broken)
    assert error.value.hint == "name a member of it"


def test_an_argument_that_cannot_be_read_is_missed_only_when_it_is_asked_for(find: Any) -> None:
    broken = {"error": "optimized out", "type": "int"}
    (entry,) = find(copy(arguments=[["count", compiled("reg 3")], ["gone", broken]])).entries
    arguments = Collected("vfs_read()", entry.read_arguments(event(dx=17)))
    assert arguments["count"] == 17
    assert repr(arguments) == "{count=17, gone=?}"
    assert list(arguments) == ["count", "gone"]
    with pytest.raises(KgdbError, match=r"'gone' could not be read at the call.*optimized out"):
        arguments["gone"]


@pytest.mark.parametrize(
    ("code", "register", "value"),
    [
        (compiled("reg 3"), (1 << 64) - 1, (1 << 64) - 1),
        (compiled("reg 3", signed=True), (1 << 64) - 1, -1),
        (compiled("reg 3", "zero_ext 32"), (1 << 64) - 1, (1 << 32) - 1),
        (compiled("reg 3", kind="bool"), 5, True),
        (compiled("reg 3", kind="bool"), 0, False),
        (compiled("reg 3", kind="ptr"), 0x1000, 0x1000),
        (compiled("reg 3", kind="string"), 0x1000, "ext4"),
        (compiled("reg 3", kind="string"), 0x1000, 0x1000),
        (compiled("reg 3", kind="string"), 0, 0),
        (compiled("reg 3", kind="chars", size=3), 0x1000, "ext"),
        (compiled("reg 3", kind="chars", size=0), 0x1000, "ext4"),
        (compiled("reg 3", kind="chars", size=3), 0x9000, ""),
    ],
)
def test_kinds(find: Any, code: dict[str, Any], register: int, value: object) -> None:
    memory = Memory()
    memory.put(0x1000, b"ext4\0" + bytes(300))
    (entry,) = find(copy(arguments=[["x", code]])).entries
    read = entry.read_arguments(event(memory, dx=register))["x"]
    assert read == value
    assert isinstance(read, type(value) | Text)


# Strings


def test_a_text_of_a_call() -> None:
    text = Text(0x1000, "ext4")
    assert text == "ext4"
    assert text == b"ext4"
    assert text == 0x1000
    assert text != "ext"
    assert (text.string(), str(text), repr(text)) == ("ext4", "ext4", "0x1000 'ext4'")
    assert {text: 1}[Text(0x1000, None)] == 1
    unread = Text(0x1000, None)
    assert unread != "ext4"
    assert (str(unread), repr(unread)) == ("0x1000", "0x1000")
    with pytest.raises(KgdbError, match="0x1000 pointed at nothing that the kernel had mapped"):
        unread.string()


def test_a_string_is_read_up_to_what_is_mapped() -> None:
    memory = Memory()
    memory.put(0x1FFC, b"abcd")  # up to a page's end; the next page is not there
    assert read_string(memory.read, 0x1FFC) == "abcd"
    assert read_string(memory.read, 0x2000) is None
    memory.put(0x2000, b"ef\0" + bytes(4093))
    assert read_string(memory.read, 0x1FFC) == "abcdef"
    assert read_string(memory.read, 0x1FFC, 5) == "abcde"
    memory.put(0x8000, b"x" * 4096)
    assert read_string(memory.read, 0x8000) == "x" * 256
    memory.put(0x9000, b"\xff\0")
    assert read_string(memory.read, 0x9000, 2) == "\N{REPLACEMENT CHARACTER}"
