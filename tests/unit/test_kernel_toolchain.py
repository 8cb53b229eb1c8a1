"""The compiler of a build: the one that is installed, or the one that make's variables choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.cache import Cache
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel._toolchain import Toolchain, toolchain
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
    assert tools.variables() == ["CC=ccache clang-15", "LLVM=-15"]
    assert tools.key != tools.version


def test_compiler_that_is_missing(cache: Cache) -> None:
    with pytest.raises(ConfigError, match="gcc-99"):
        toolchain(cache, ["CC=gcc-99"])


def test_flags_are_added_to_ours() -> None:
    tools = Toolchain("1", None, "gcc", ("KCFLAGS=-O1", "DEBUG=1"))
    assert tools.variables("KCFLAGS=-fmap", "KAFLAGS=-fmap") == [
        "KCFLAGS=-fmap -O1",
        "KAFLAGS=-fmap",
        "DEBUG=1",
    ]


def test_ccache_that_was_named() -> None:
    tools = Toolchain("1", "/usr/bin/ccache", "ccache gcc-12", ("CC=ccache gcc-12",))
    assert tools.variables() == ["CC=ccache gcc-12"]


@pytest.mark.parametrize("variable", ["LLVM", "=1", "a b=1", "M=/tmp", "ARCH=arm64", "O=x"])
def test_refused(variable: str) -> None:
    with pytest.raises(ValueError, match=r"NAME=VALUE|the build itself"):
        make_variable(variable)
