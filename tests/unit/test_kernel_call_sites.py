"""The calls in lines of a source file, against what gcc made of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_kgdb.elf import ElfFile
from pytest_kgdb.kernel import CallSite, SourceFile, call_sites
from pytest_kgdb.kernel._source_lines import _Image

SOURCE = """\
#include "part.h"
extern void *get(int n);
extern int put(void *thing);
extern int (*said)(int n);
int tail(int n)
{
    return put(get(n));
}
static int inner(int n)
{
    return put(0) + n;
}
int outer(int n)
{
    char *thing = get(n);
    if ((unsigned long)thing >= -4095UL)
        return -1;
    n += inner(n);
    n += part(n);
    n += said(n);
    n += put(thing);
    return n + 1;
}
"""
HEADER = """\
extern int deep(int n);
static inline int part(int n)
{
    return deep(n) + deep(n + 1) + 1;
}
"""
OTHERS = """\
void *get(int n) { return 0; }
int put(void *thing) { return 0; }
int deep(int n) { return n; }
int (*said)(int n) = deep;
"""


def line_of(text: str) -> int:
    (number,) = [number for number, line in enumerate(SOURCE.splitlines(), 1) if text in line]
    return number


@pytest.fixture(params=["-gdwarf-5", "-gdwarf-4"])
def program(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    (tmp_path / "main.c").write_text(SOURCE)
    (tmp_path / "part.h").write_text(HEADER)
    (tmp_path / "others.c").write_text(OTHERS)
    options = ["-O2", "-nostdlib", "-no-pie", "-Wl,-e,outer", "-ffreestanding"]
    argv = ["gcc", request.param, *options, "-o", "out", "main.c", "others.c"]
    subprocess.run(argv, cwd=tmp_path, check=True, timeout=60)
    return tmp_path / "out"


def sites_in(path: Path, name: str, *lines: int, module: str = "") -> list[CallSite]:
    (code,) = (
        _Image(module, path).code(lambda file: f"/{file}".endswith(f"/{name}"), {name}).values()
    )
    places = {line: tuple(sorted(addresses)) for line, addresses in code.items()}
    file = SourceFile(name, places, frozenset(lines))
    return call_sites([(module, path)], [file])


def called(sites: list[CallSite]) -> list[tuple[str, str]]:
    return sorted((site.caller, site.callee) for site in sites)


def test_calls_of_lines(program: Path) -> None:
    (site,) = sites_in(program, "main.c", line_of("put(thing);"), line_of("return n + 1"))
    assert (site.caller, site.callee, site.is_jump) == ("outer", "put", False)
    assert site.place == f"main.c:{line_of('put(thing);')}"
    with ElfFile(program) as elf:
        put = elf.need("put")
        opcode, *operand = elf.contents(site.after.offset - 5, 5)
    distance = int.from_bytes(bytes(operand), "little", signed=True)
    assert (opcode, site.after.offset + distance) == (0xE8, put)


def test_a_call_that_is_a_jump(program: Path) -> None:
    sites = sites_in(program, "main.c", line_of("put(get(n))"))
    assert [(site.callee, site.is_jump) for site in sites] == [("get", False), ("put", True)]
    with ElfFile(program) as elf:
        assert elf.contents(sites[1].after.offset - 5, 1) == b"\xe9"


def test_what_is_inlined_into_a_line_is_the_lines(program: Path) -> None:
    assert called(sites_in(program, "main.c", line_of("inner(n);"))) == [("outer", "put")]
    assert called(sites_in(program, "main.c", line_of("put(0)"))) == [("outer", "put")]
    assert called(sites_in(program, "main.c", line_of("part(n)"))) == [("outer", "deep")] * 2
    assert called(sites_in(program, "part.h", 4)) == [("outer", "deep")] * 2


def test_what_a_pointer_says(program: Path) -> None:
    (site,) = sites_in(program, "main.c", line_of("said(n);"))
    assert (site.caller, site.callee) == ("outer", "")


def test_whether_an_error_pointer_is_looked_for(program: Path) -> None:
    (checked,) = sites_in(program, "main.c", line_of("= get(n)"))
    (other, *_) = sites_in(program, "main.c", line_of("put(get(n))"))
    assert (checked.callee, checked.checks_error) == ("get", True)
    assert (other.callee, other.checks_error) == ("get", False)


def test_lines_without_a_call(program: Path) -> None:
    assert sites_in(program, "main.c", line_of("return -1"), 1) == []


def test_a_module(program: Path) -> None:
    source = SOURCE.replace("int outer", '__attribute__((section(".init.text"))) int outer')
    (program.parent / "main.c").write_text(source)
    path = program.with_name("mod.ko")
    argv = ["gcc", "-gdwarf-5", "-O2", "-c", "-o", str(path), "main.c"]
    subprocess.run(argv, cwd=program.parent, check=True, timeout=60)
    (site,) = sites_in(path, "main.c", line_of("put(thing);"), module="mod")
    assert (site.callee, site.after.module, site.after.section) == ("put", "mod", ".init.text")
    first, _ = sites_in(path, "main.c", line_of("put(get(n))"), module="mod")
    assert (first.callee, first.after.section) == ("get", ".text")
