"""Functions as hooks need them: their copies, their arguments, and what cannot be read there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fake_gdb import FakeGdb, Parts
from fake_hooks import ENTRY, Memory, compiled

from pytest_kgdb.debugger import GdbError, cpu_expression
from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp import Event
from pytest_kgdb.trace._definitions import of_one_definition
from pytest_kgdb.trace._functions import (
    _CONTEXT,
    Collected,
    Function,
    Returns,
    find_function,
)
from pytest_kgdb.trace._pointers import String, Text, read_string, text_at

SRC = "/home/me/linux"  # the kernel's tree
INT = {"type": "ssize_t", "kind": "int", "size": 8, "signed": True}
INT_RETURNS = Returns("ssize_t", "int", 8, True)


def copy(name: str = "vfs_read", address: int = ENTRY, **fields: Any) -> dict[str, Any]:
    """What the agent says of one copy of a function."""
    return {
        "name": name,
        "address": address,
        "inlined": False,
        "file": f"{SRC}/fs/read_write.c",
        "line": 454,
        "returns": INT,
        "arguments": [["count", compiled("reg 3")]],
        "expressions": [],
        **fields,
    }


@pytest.fixture
def find(parts: Parts, gdb: FakeGdb) -> Any:
    def find(*copies: dict[str, Any], expressions: tuple[str, ...] = (), **codes: Any) -> Function:
        def function(
            location: str, expressions: list[str], conditions: int, cpu: str
        ) -> dict[str, Any]:
            assert location == "vfs_read"
            assert cpu == cpu_expression(parts.debugger), "of which `current` is"
            known = [codes.get(text, compiled("const8 7")) for text in expressions]
            return {"places": [{**one, "expressions": known} for one in copies]}

        gdb.agent["function"] = function
        source: Any = SimpleNamespace(name=lambda file: file.removeprefix(f"{SRC}/"))
        return find_function(
            parts.debugger, parts.locations, source, "vfs_read", expressions, "spy"
        )

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
    assert entry.read_task(event()) == [7, 7, 7]


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


def defined(file: str, line: int, address: int, **fields: Any) -> dict[str, Any]:
    return copy(address=address, definition=[file, line], **fields)


def test_copies_of_one_definition(find: Any) -> None:
    header = f"{SRC}/include/linux/fs.h"
    function = find(
        defined(header, 5, ENTRY),
        defined(header, 5, ENTRY + 64, copy="vfs_read.isra.0", kinds=["isra"], kept=True),
        copy(address=ENTRY + 96, definition=None),
        defined(header, 5, ENTRY + 128, name="ksys_read", inlined=True),
        defined(f"{SRC}/fs/other.c", 5, ENTRY + 160, name="elsewhere", inlined=True),
    )
    assert [entry.address for entry in function.entries] == [ENTRY, ENTRY + 64, ENTRY + 96]
    assert function.inlined_in == ("ksys_read (fs/read_write.c:454)",)
    assert function.definition == (header, 5)


@pytest.mark.parametrize(
    ("places", "shown", "hint"),
    [
        (
            [(f"{SRC}/fs/open.c", 7), (f"{SRC}/net/a.c", 9)],
            "fs/open.c:7, net/a.c:9",
            "'fs/open.c:vfs_read' or 'net/a.c:vfs_read'",
        ),
        (
            [("/home/me/one/main.c", 7), ("/home/me/two/main.c", 7)],
            "one/main.c:7, two/main.c:7",
            "'one/main.c:vfs_read' or 'two/main.c:vfs_read'",
        ),
        (
            [("/home/me/src/main.c", 7), (f"{SRC}/fs/open.c", 7)],
            "fs/open.c:7, main.c:7",
            "'fs/open.c:vfs_read' or 'main.c:vfs_read'",
        ),
        (
            [("fs/open.c", 7), ("fs/open.c", 9)],
            "fs/open.c:7, fs/open.c:9",
            f"'*{ENTRY:#x}' or '*{ENTRY + 16:#x}'",
        ),
    ],
)
def test_several_functions_of_a_name(
    find: Any, places: list[tuple[str, int]], shown: str, hint: str
) -> None:
    with pytest.raises(KgdbError) as error:
        find(*(defined(*place, ENTRY + 16 * number) for number, place in enumerate(places)))
    assert error.value.message == f"no spy on vfs_read: several functions have the name: {shown}"
    assert error.value.hint == f"say which: {hint}"


def test_what_is_left_of_a_weak_function(find: Any) -> None:
    function = find(
        defined("kernel/fork.c", 971, ENTRY, linked=False),
        defined("arch/x86/kernel/process.c", 88, ENTRY + 64, linked=True),
    )
    assert [entry.address for entry in function.entries] == [ENTRY + 64]
    assert function.definition == ("arch/x86/kernel/process.c", 88)


def test_many_functions_of_a_name(find: Any) -> None:
    with pytest.raises(KgdbError, match=r"file11.c:3 and 8 more"):
        find(*(defined(f"fs/file{number:02}.c", 3, ENTRY + number) for number in range(20)))


def test_which_of_several_functions() -> None:
    records = [
        defined("/home/me/one/main.c", 7, ENTRY),
        defined("/home/me/one/helper.h", 3, ENTRY + 16),
        defined("/home/me/one/main.c", 7, ENTRY + 32, inlined=True),
        defined("/home/me/two/main.c", 7, ENTRY + 48),
    ]

    def addresses(name: str, *among: int) -> list[int]:
        meant = of_one_definition(name, records, "spy", among, named=str)
        return [one["address"] for one in meant]

    assert addresses("one/main.c:f") == [ENTRY, ENTRY + 32]
    assert addresses("helper.h:f") == [ENTRY + 16]
    assert addresses("f", ENTRY + 48) == [ENTRY + 48]
    for name in ("main.c:f", "f"):
        with pytest.raises(KgdbError, match="several functions"):
            addresses(name)


def test_one_that_was_inlined_everywhere(find: Any) -> None:
    callers = [copy(f"caller{number}", ENTRY + number, inlined=True) for number in range(6)]
    with pytest.raises(KgdbError) as error:
        find(*callers)
    assert error.value.message == (
        "no spy on vfs_read: gcc inlined it everywhere, in "
        + ", ".join(f"caller{number} (fs/read_write.c:454)" for number in range(4))
        + " and more"
    )


def test_a_part_is_not_counted_beside_the_function(find: Any) -> None:
    part = copy(address=ENTRY + 64, copy="vfs_read.part.0", kinds=["part"], kept=True)
    function = find(copy(copy="vfs_read", kinds=[]), part, copy("ksys_read", inlined=True))
    assert [entry.copy for entry in function.entries] == ["vfs_read"]
    assert not function.is_split
    assert function.unseen == "vfs_read is inlined into ksys_read: calls there are not seen"


def test_a_function_of_which_there_is_only_a_part(find: Any) -> None:
    part = copy(copy="vfs_read.part.0.isra.0", kinds=["isra", "part"], kept=None)
    callers = [copy(f"caller{number % 6}", inlined=True, line=number) for number in range(9)]
    function = find(part, *callers)
    assert function.is_split
    assert function.unseen == (
        "vfs_read is inlined into caller0, caller1, caller2, caller3 and more: calls there are "
        "seen only where they get to vfs_read.part.0.isra.0"
    )
    (entry,) = function.entries
    assert (entry.copy, entry.is_part, entry.keeps_result) == (part["copy"], True, False)
    assert "into its callers" in find(part).unseen


def test_copies_that_are_not_parts(find: Any) -> None:
    function = find(
        copy(copy="vfs_read.constprop.0", kinds=["constprop"]),
        copy(address=ENTRY + 64, copy="vfs_read.isra.0", kinds=["isra"], kept=True),
        copy(address=ENTRY + 96),
    )
    assert [(entry.copy, entry.is_part, entry.keeps_result) for entry in function.entries] == [
        ("vfs_read.constprop.0", False, True),
        ("vfs_read.isra.0", False, True),
        ("vfs_read", False, True),
    ]


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


def test_what_the_agent_advises_is_advised(find: Any) -> None:
    broken = {"error": "it is a function", "hint": "name its address"}
    with pytest.raises(GdbError, match="'path' cannot be read at its entry: it is a fun") as error:
        find(copy(), expressions=("path",), path=broken)
    assert error.value.hint == "name its address"


U32 = {"kind": "int", "size": 4, "signed": False}
QSTR = {
    "kind": "struct",
    "size": 16,
    "signed": False,
    "members": [
        ["flag", 0, 1, {"kind": "bool", "size": 1, "signed": False}],
        ["level", 1, 3, {"kind": "int", "size": 4, "signed": True}],
        ["len", 32, 0, U32],
        ["name", 64, 0, {"kind": "chars", "size": 4, "signed": True}],
        ["pair", 96, 0, {"kind": "array", "size": 4, "count": 2, "element": U32 | {"size": 2}}],
    ],
}
QSTR_BYTES = bytes([0b1101, 0, 0, 0, 7, 0, 0, 0]) + b"ab\0c" + bytes([1, 0, 2, 0])
QSTR_VALUE = {"flag": True, "level": -2, "len": 7, "name": "ab", "pair": [1, 2]}


def test_a_structure_has_members(find: Any) -> None:
    in_memory = compiled("reg 5", kind="struct", layout=QSTR)
    parts = [[compiled(f"reg {number}")["code"], 8] for number in (5, 4)]
    in_registers = {"kind": "struct", "signed": False, "parts": parts, "layout": QSTR}
    function = find(
        copy(), expressions=("*path", "path"), **{"*path": in_memory, "path": in_registers}
    )
    memory = Memory()
    memory.put(0x5000, QSTR_BYTES)
    (entry,) = function.entries
    words = [int.from_bytes(QSTR_BYTES[start : start + 8], "little") for start in (0, 8)]
    values = entry.read_expressions(event(memory, di=0x5000))
    assert values["*path"] == QSTR_VALUE
    values = entry.read_expressions(event(memory, di=words[0], si=words[1]))
    assert values["path"] == QSTR_VALUE
    assert isinstance(values["*path"], KgdbError)


def test_a_structure_that_is_returned() -> None:
    memory = Memory()
    memory.put(0x5000, QSTR_BYTES + bytes(8))
    words = [int.from_bytes(QSTR_BYTES[start : start + 8], "little") for start in (0, 8)]
    in_registers = Returns("struct qstr", "struct", 16, False, QSTR)
    assert in_registers.read(event(ax=words[0], dx=words[1])) == QSTR_VALUE
    for size in (16, 24):  # 16 bytes with an unaligned member
        layout = QSTR | {"size": size}
        in_memory = Returns("struct qstr", "struct", size, False, layout, in_memory=True)
        assert in_memory.read(event(memory, ax=0x5000)) == QSTR_VALUE
    unread = Returns("long double", "float", 16, False)
    with pytest.raises(KgdbError, match="it returned a long double, which is not read"):
        unread.read(event(ax=0, dx=0))
    assert INT_RETURNS.read(event(ax=(1 << 64) - 5)) == -5


def test_constants(find: Any) -> None:
    expressions = {
        "-5": compiled("const64 18446744073709551611", signed=True),
        "count": compiled("reg 3"),
        "*path": compiled("reg 5", kind="struct", layout=QSTR),
    }
    (entry,) = find(copy(), expressions=tuple(expressions), **expressions).entries
    constants = [reader.constant for reader in entry.expressions[: len(expressions)]]
    assert constants == [-5, None, None]


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
    ],
)
def test_kinds(find: Any, code: dict[str, Any], register: int, value: object) -> None:
    memory = Memory()
    memory.put(0x1000, b"ext4\0" + bytes(300))
    (entry,) = find(copy(arguments=[["x", code]])).entries
    read = entry.read_arguments(event(memory, dx=register))["x"]
    assert read == value
    assert isinstance(read, type(value) | Text)


def test_an_array_of_characters_that_is_not_there(find: Any) -> None:
    (entry,) = find(copy(arguments=[["x", compiled("reg 3", kind="chars", size=3)]])).entries
    read = entry.read_arguments(event(dx=0x9000))["x"]
    assert isinstance(read, KgdbError)
    assert read.message == "there is no memory at 0x9000"


# Strings


def test_a_text_of_a_call() -> None:
    text = Text(0x1000, String(b"ext4"))
    assert text == "ext4"
    assert text == b"ext4"
    assert text == 0x1000
    assert text != "ext"
    assert (text.string(), str(text), repr(text)) == ("ext4", "ext4", "0x1000 'ext4'")
    assert {text: 1}[Text(0x1000, None)] == 1
    assert repr(Text(0x1000, String(b"x" * 201))) == f"0x1000 {'x' * 200!r}..."
    assert Text(0x1000, String(b"\xff")) == "\N{REPLACEMENT CHARACTER}"


def test_a_text_that_was_not_mapped() -> None:
    unread = Text(0x1000, None)
    assert (str(unread), repr(unread)) == ("0x1000", "0x1000")
    for look in (unread.string, lambda: unread == "ext4", lambda: unread != b"ext4"):
        with pytest.raises(
            KgdbError, match="0x1000 pointed at nothing that was mapped at the call"
        ):
            look()
    assert unread != "-ENOMEM"
    assert unread == 0x1000
    for nowhere in (0, (1 << 64) - 12):
        assert Text(nowhere, None) != "ext4"
    assert Text((1 << 64) - 12, None) == "-ENOMEM"


def test_a_text_that_was_cut() -> None:
    text = Text(0x1000, String("ä".encode() * 3 + b"\xc3", "goes on"))
    for look in (
        text.string,
        lambda: text == "äää",
        lambda: text != "äääb",
        lambda: text == "äääö",
    ):
        with pytest.raises(KgdbError, match=r"text at 0x1000 .*goes on"):
            look()
    for other in ("", "ää", "ääb", "äbä", b"x"):
        assert text != other
    assert text == 0x1000
    assert (str(text), repr(text)) == ("äää...", "0x1000 'äää'...")


def test_a_string_is_read_up_to_what_is_mapped() -> None:
    memory = Memory()
    memory.put(0x1FFC, b"abcd")  # up to a page's end; the next page is not there
    unmapped = String(b"abcd", "goes on at 0x2000, where nothing was mapped at the call")
    assert read_string(memory.read, 0x1FFC) == unmapped
    assert read_string(memory.read, 0x2000) is None
    memory.put(0x2000, b"ef\0" + bytes(4093))
    assert read_string(memory.read, 0x1FFC) == String(b"abcdef")
    cut = String(b"abcde", "is longer than the 5 bytes that are read at a call")
    assert read_string(memory.read, 0x1FFC, 5) == cut
    memory.put(0x8000, b"x" * 4000 + bytes(96))
    assert read_string(memory.read, 0x8000) == String(b"x" * 4000)
    memory.put(0x8000, b"x" * 8192)
    cut = String(b"x" * 4096, "is longer than the 4096 bytes that are read at a call")
    assert read_string(memory.read, 0x8010) == cut


def test_a_short_string_is_one_read_of_few_bytes() -> None:
    reads: list[int] = []

    def read(address: int, size: int) -> bytes:
        reads.append(size)
        return b"short\0".ljust(size, b"x")

    assert text_at(read, 0x1000) == "short"
    for nowhere in (0, (1 << 64) - 12):
        assert text_at(read, nowhere) == nowhere
    assert reads == [256]
