"""Readers of what others wrote, given what nobody would write: any text, and good text damaged.

`make fuzz` tries fifty times as much, at random, and has atheris look for inputs that lead through
other lines. What it finds becomes an `example` here, or a file in `corpus/`.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fuzz_targets
import pytest
from fake_guest import BUILD_ID, Image, note
from fuzz_targets import CORPUS
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from test_kernel_patch import DIFF, REAL, link, mail
from test_klog_splats import SPLATS

from pytest_kgdb.dwarf import LineTables
from pytest_kgdb.elf import ElfFile
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.rsp._packets import Decoder, encode
from pytest_kgdb.settings._values import PARSERS


def pieces(*texts: str) -> st.SearchStrategy[str]:
    """Texts that are put together of lines and words of some good ones, and of anything."""
    parts = {part for text in texts for part in re.findall(r"\s+|[\w./]+|.", text)}
    lines = {line for text in texts for line in text.splitlines(keepends=True)}
    one = st.one_of(
        st.sampled_from(sorted(lines)), st.sampled_from(sorted(parts)), st.text(max_size=5)
    )
    return st.lists(one, max_size=30).map("".join)


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """A file in which some bytes are others, or which is cut off."""
    numbers = st.one_of(
        st.binary(min_size=1, max_size=8),
        st.sampled_from([b"\0", b"\xff", b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x80" * 300]),
    )

    def damage(edits: list[tuple[int, bytes]], end: int) -> bytes:
        result = bytearray(data)
        for at, value in edits:
            result[at : at + len(value)] = value
        return bytes(result[:end])

    edit = st.tuples(st.integers(0, len(data) - 1), numbers)
    ends = st.one_of(st.just(len(data)), st.integers(0, len(data)))
    return st.builds(damage, st.lists(edit, min_size=1, max_size=6), ends)


# What gdb writes

MI = """\
12^done,bkpt={number="1",type="breakpoint",script={"silent","print 1"},addr="<MULTIPLE>"}
*stopped,reason="breakpoint-hit",frame={args=[{name="x",value="1"}],line="3"},thread-id="1"
=thread-group-added,id="i1"
~"text\\n"
&"No symbol \\"x\\".\\n"
@"target"
1^error,msg="Command aborted."
1^running
*running,thread-id="all"
(gdb)\x20
"""


@given(st.one_of(pieces(MI).map(str.encode), st.binary(max_size=200)), st.integers(1, 100))
@example(b'=x,a=[{b="c"\n', 100)
@example(b'1^done,a="b\\\n', 3)
def test_what_gdb_writes(data: bytes, size: int) -> None:
    fuzz_targets.gdb(data, size)


# What comes over the serial line


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
@example(b"$x*\x00#a2", [])
@example(b"$$$#00#", [1, 2])
def test_packets_come_in_any_parts(data: bytes, cuts: list[int]) -> None:
    whole = list(Decoder().feed(data))
    decoder, cuts = Decoder(), [0, *sorted(cuts), len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(cuts)]
    assert [item for part in parts for item in decoder.feed(part)] == whole


@given(
    st.binary(max_size=100),
    st.lists(st.binary(max_size=50).filter(lambda data: not re.search(rb"[$#*]", data))),
)
def test_packets_behind_garbage(garbage: bytes, payloads: list[bytes]) -> None:
    decoder = Decoder()
    list(decoder.feed(garbage + b"#00"))
    data = b"+".join(map(encode, payloads))
    read = [item for item in decoder.feed(data) if item[0] in ("packet", "bad")]
    # The end of the garbage may take the first one's beginning for its own.
    assert read[1:] == [("packet", payload) for payload in payloads][1:]


def test_a_packet_without_an_end_is_given_up() -> None:
    decoder = Decoder()
    for _ in range(400):
        assert list(decoder.feed(b"$" + b"x" * (1 << 16))) == []
    assert len(decoder._pending) < 2 << 20
    assert list(decoder.feed(b"#00" + encode(b"OK")))[-1] == ("packet", b"OK")


# What the kernel prints

LOG = [f"[    1.234567] {line}\n" for _, _, lines in SPLATS for line in lines]
KTAP = """\
KTAP version 1
1..2
    KTAP version 1
    # Subtest: suite
    1..1
    # case: EXPECTATION FAILED at lib/x.c:12
    not ok 1 case # SKIP why
ok 1 suite
# Totals: pass:1 fail:0 skip:0 total:1
"""


@given(pieces("".join(LOG), KTAP, "Kernel panic - not syncing: x\n", "\x1b[2J\x06\x1e\x1f\r\n"))
def test_what_the_kernel_prints(text: str) -> None:
    fuzz_targets.kernel(text.encode())


# What the user writes


@pytest.mark.parametrize("name", sorted(PARSERS))
@settings(max_examples=10)
@given(
    value=st.one_of(
        st.text(max_size=30),
        pieces(
            "distro:6.1 release:6.1.0-1-amd64 package:linux-image ~/linux@v6.1 tcp:0:22 256M 1G "
            "serial:/dev/ttyS0,115200 rfc2217://h:1 CONFIG_X=y M=n patch:a.c:1-2 function:f 0x1 "
            "1-4 'a \\b\" "
        ),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.lists(st.text(max_size=3), max_size=2),
        st.none(),
    )
)
def test_options(name: str, value: object) -> None:
    fuzz_targets.option(name, value)


@given(pieces(DIFF, REAL, link(), mail("[PATCH] x"), "--- a/../x\n+++ b//x\nrename to ../x\n"))
@example("--- a/x\n+++ b/x\n@@ -1 +1 @@\n\n\n\n")
def test_patches(text: str) -> None:
    fuzz_targets.patches(text.encode())


# What is shown of the guest's

HOSTILE = (
    "::error::x\n##[error]x ##vso[x]\x1b[2J\x1b]0;x\x07\x9b31m\rsection_start:1:x\r\n"
    "`` ` |<b>&\u202e"
)


@given(st.one_of(pieces(HOSTILE), st.text()))
@example("#\x1b[m#[error]")
@example(":\x00:error::x")
@example("\x1b\x1b[m[2J")
@example("sec\x07tion_start:")
def test_guest_text(text: str) -> None:
    fuzz_targets.guest(text.encode(errors="surrogatepass"))


# What atheris has been through, and begins with


@pytest.mark.parametrize(
    "path",
    [path for name in fuzz_targets.TARGETS for path in sorted((CORPUS / name).iterdir())],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_the_corpus(path: Path) -> None:
    fuzz_targets.TARGETS[path.parent.name](path.read_bytes())


# ELF files, and their line number tables


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("program")
    source, target = directory / "x.c", directory / "x.o"
    source.write_text("int answer = 42;\nint twice(int x)\n{\n\treturn 2 * x;\n}\n")
    argv: list[str | Path] = ["gcc", "-g", "-gdwarf-5", "-c", "-o", target, source]
    subprocess.run(argv, check=True, timeout=60)
    return target.read_bytes()


def read_all(elf: ElfFile) -> Iterator[object]:
    """What is read of a kernel and of modules, part by part."""
    tables = LineTables(elf)
    yield lambda: elf.machine
    yield lambda: elf.build_id
    yield lambda: (elf.is_dynamic, elf.is_relocatable)
    yield lambda: (elf.sections, elf.section_names, elf.section_sizes())
    yield lambda: elf.section_bytes(".text")
    yield lambda: elf.symbol("twice")
    yield lambda: list(elf.functions())
    yield lambda: list(elf.function_symbols())
    yield lambda: [elf.string_at(each.section, each.value) for each in elf.relocations(".text")]
    yield lambda: elf.contents(0x1000, 8)
    yield elf.without_section_addresses
    yield lambda: [list(tables.rows(unit)) for unit in tables.units()]
    yield lambda: [tables.code(unit, {0, 1}) for unit in tables.units(["x.c"])]


def check_elf(data: bytes) -> None:
    """Read a file in memory, as modules are, and one that is mapped, as a kernel is."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        for elf in (ElfFile(Path("x"), data), ElfFile(Path(file.name))):
            for part in read_all(elf):
                with contextlib.suppress(ConfigError):
                    part()  # type: ignore[operator]
            elf.close()


@given(st.data())
def test_a_damaged_object_file(program: bytes, data: st.DataObject) -> None:
    check_elf(data.draw(damaged(program)))


@given(st.data())
def test_a_damaged_line_number_table(program: bytes, data: st.DataObject) -> None:
    section = ElfFile(Path("x"), program).sections[".debug_line"]
    table = program[section.offset : section.offset + section.size]
    other = data.draw(damaged(table)).ljust(len(table), b"\0")
    assume(other != table)
    check_elf(program[: section.offset] + other + program[section.offset + section.size :])


@given(st.data())
def test_a_damaged_small_file(tmp_path: Path, data: st.DataObject) -> None:
    image = Image()
    image.section(".note.gnu.build-id", note(3, b"GNU\0", BUILD_ID), kind=7)
    image.symbol("twice", 0x1000)
    check_elf(data.draw(damaged(image.write(tmp_path / "file").read_bytes())))


def test_section_headers_of_no_size(tmp_path: Path) -> None:
    """2^60 of them would fit into any file."""
    path = Image().write(tmp_path / "file")
    data = bytearray(path.read_bytes())
    headers = struct.unpack_from("<Q", data, 40)[0]
    struct.pack_into("<HH", data, 58, 0, 0)  # e_shentsize, e_shnum
    struct.pack_into("<Q", data, headers + 32, 1 << 60)  # sh_size of the first
    with pytest.raises(ConfigError, match="section headers have 0 bytes"):
        _ = ElfFile(Path("x"), bytes(data)).sections
