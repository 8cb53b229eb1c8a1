"""The compiler of a build: the one that is installed, or the one that make's variables choose."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from pytest_kgdb.cache import Cache
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel._toolchain import Toolchain, environment, toolchain
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import make_variable


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", progress=Silent())


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in names:
        (programs / name).write_text(f"#!/bin/sh\necho {name} version 1\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")


def test_keys_without_variables_are_versions(cache: Cache) -> None:
    tools = toolchain(cache)
    assert tools.key == tools.version
    assert tools.compiler == "gcc"


def test_llvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Cache) -> None:
    install(tmp_path, monkeypatch, "clang-15", "ld.lld-15", "ccache")
    tools = toolchain(cache, ["LLVM=-15"])
    assert tools.version == "clang-15 version 1; ld.lld-15 version 1"
    compiler, variable = tools.variables(cache)
    assert re.fullmatch(rf"CC={cache.root}/\S+/ccache/cc clang-15", compiler)
    assert variable == "LLVM=-15"
    assert tools.key != tools.version


def test_compiler_that_is_missing(cache: Cache) -> None:
    with pytest.raises(ConfigError, match="gcc-99"):
        toolchain(cache, ["CC=gcc-99"])


def test_flags_are_added_to_ours(cache: Cache) -> None:
    tools = Toolchain("1", None, "gcc", ("KCFLAGS=-O1", "DEBUG=1"))
    assert tools.variables(cache, "KCFLAGS=-fmap", "KAFLAGS=-fmap") == [
        "KCFLAGS=-fmap -O1",
        "KAFLAGS=-fmap",
        "DEBUG=1",
    ]


def test_ccache_that_was_named(cache: Cache) -> None:
    tools = Toolchain("1", "/usr/bin/ccache", "ccache gcc-12", ("CC=ccache gcc-12",))
    assert tools.variables(cache) == ["CC=ccache gcc-12"]


@pytest.mark.parametrize("depend", [False, True])
@pytest.mark.parametrize("name", ["it.S", "it.c"])
def test_what_the_assembler_includes_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Cache, name: str, depend: bool
) -> None:
    if depend:  # as the user has it, or had it
        monkeypatch.setenv("CCACHE_DEPEND", "1")
    line = '.incbin "data"'
    (tmp_path / name).write_text(line + "\n" if name == "it.S" else f"asm({json.dumps(line)});\n")
    if depend:
        compiled(tmp_path, monkeypatch, cache, name, "old", compiler="ccache gcc")
    objects = [compiled(tmp_path, monkeypatch, cache, name, data) for data in ("one", "two")]
    assert [b"one" in objects[0], b"two" in objects[1]] == [True, True]


def test_other_files_come_from_ccache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Cache
) -> None:
    (tmp_path / "it.c").write_text("int it;\n")
    for data in ("one", "two"):
        compiled(tmp_path, monkeypatch, cache, "it.c", data)
    counts = subprocess.run(["ccache", "--print-stats"], capture_output=True, text=True).stdout
    assert "\ndirect_cache_hit\t1\n" in counts
    assert "\npreprocessed_cache_hit\t0\n" in counts


def compiled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: Cache,
    name: str,
    data: str,
    compiler: str = "",
) -> bytes:
    """Compile a file as kbuild does, beside one with that data."""
    monkeypatch.setenv("CCACHE_DIR", str(tmp_path / "ccache"))
    (tmp_path / "data").write_text(data)
    (variable,) = toolchain(cache).variables(cache)
    argv = [
        *(compiler or variable.removeprefix("CC=")).split(),
        "-Wp,-MMD,.it.d",
        "-c",
        "-o",
        "it.o",
        name,
    ]
    subprocess.run(argv, cwd=tmp_path, env=environment(), check=True)
    return (tmp_path / "it.o").read_bytes()


@pytest.mark.parametrize("variable", ["LLVM", "=1", "a b=1", "M=/tmp", "ARCH=arm64", "O=x"])
def test_refused(variable: str) -> None:
    with pytest.raises(ValueError, match=r"NAME=VALUE|the build itself"):
        make_variable(variable)
