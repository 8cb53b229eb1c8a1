"""Which files have a static of a name, in what gdb runs of ours."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

import pytest_kgdb

SOURCES = {
    "one.c": "static int major = 1; int *one(void) { return &major; }",
    "two.c": "static int major; static int other_major = 2;"
    " int *two(int n) { return n ? &major : &other_major; }",
    "three.c": "int major_of; static __attribute__((noinline)) void major(void) { major_of = 3; }"
    " void three(void) { major(); }",
    "four.c": "extern int major_of; int *four(void) { return &major_of; }",
}


@pytest.fixture(scope="module")
def gdb_elf() -> ModuleType:
    path = Path(pytest_kgdb.__file__).parent / "data" / "gdb_elf.py"
    spec = importlib.util.spec_from_file_location("gdb_elf", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_statics_by_file(tmp_path: Path, gdb_elf: ModuleType) -> None:
    for name, text in SOURCES.items():
        (tmp_path / name).write_text(text)
    argv = ["gcc", "-r", "-nostdlib", "-O0", "-o", "linked.o", *SOURCES]
    subprocess.run(argv, cwd=tmp_path, check=True)
    linked = tmp_path / "linked.o"
    assert sorted(gdb_elf.files_with(linked, "major")) == ["one.c", "three.c", "two.c"]
    assert gdb_elf.files_with(linked, "other_major") == ["two.c"]
    assert gdb_elf.files_with(linked, "major_of") == [], "it is global"
    assert gdb_elf.files_with(linked, "ajor") == [], "the end of another name"
    subprocess.run(["strip", linked], check=True)
    assert gdb_elf.files_with(linked, "major") == []
