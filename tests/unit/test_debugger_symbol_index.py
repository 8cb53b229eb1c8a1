"""gdb's index of symbols is made once, by a gdb of its own, and is never a reason to fail."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.debugger import SymbolIndex, _symbol_index
from pytest_kgdb.elf import ElfFile


def built(directory: Path, *options: str) -> Any:
    """Compile a program, and return what an index is made of."""
    source, program = directory / "a.c", directory / "a.out"
    source.write_text("int start_kernel(void) { return 0; }\nint main(void) { return 0; }\n")
    subprocess.run(
        ["gcc", "-Wl,--build-id", *options, source, "-o", program], check=True, timeout=60
    )
    with ElfFile(program) as elf:
        return SimpleNamespace(vmlinux=program, build_id=elf.build_id)


def made(kernel: Any, directory: Path) -> bool:
    """Make an index; return whether a gdb was started for it."""
    index = SymbolIndex(kernel, directory)
    index.begin()
    index.begin()
    started = index._child is not None
    index.wait(60.0)
    assert index._child is None
    return started


def test_it_is_made_once(tmp_path: Path) -> None:
    kernel, directory = built(tmp_path, "-g"), tmp_path / "gdb-index"
    assert made(kernel, directory)
    assert [path.name for path in directory.iterdir()] == [f"{kernel.build_id}.gdb-index"]
    assert not made(kernel, directory)


def test_what_gdb_does_not_index_is_tried_once(tmp_path: Path) -> None:
    kernel, directory = built(tmp_path), tmp_path / "gdb-index"
    assert made(kernel, directory)
    assert [path.name for path in directory.iterdir()] == [f"{kernel.build_id}.tried"]
    assert not made(kernel, directory)


@pytest.mark.parametrize("section", [".gdb_index", ".debug_names"])
def test_one_that_is_in_the_file_is_enough(tmp_path: Path, section: str) -> None:
    kernel = built(tmp_path, "-g")
    (tmp_path / "empty").write_bytes(b"\0" * 16)
    argv = ["objcopy", "--add-section", f"{section}={tmp_path / 'empty'}", kernel.vmlinux]
    subprocess.run(argv, check=True, timeout=60)
    assert not made(kernel, tmp_path / "gdb-index")


@pytest.mark.parametrize("lacking", ["gdb", "build id", "vmlinux"])
def test_what_is_lacking_is_no_error_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    kernel = built(tmp_path, "-g")
    if lacking == "gdb":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif lacking == "build id":
        kernel.build_id = ""
    else:
        kernel.vmlinux.unlink()
    assert not made(kernel, tmp_path / "gdb-index")


def test_a_gdb_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = built(tmp_path, "-g")
    (tmp_path / "gdb").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "gdb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(_symbol_index, "_SECONDS", 0.2)
    assert made(kernel, tmp_path / "gdb-index")


def test_what_a_test_had_no_time_for_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, directory = built(tmp_path, "-g"), tmp_path / "gdb-index"
    path = os.environ["PATH"]
    (tmp_path / "gdb").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "gdb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    index = SymbolIndex(kernel, directory)
    index.begin()
    index.wait(0.2)
    assert list(directory.iterdir()) == []
    monkeypatch.setenv("PATH", path)
    assert made(kernel, directory)
    assert [file.name for file in directory.iterdir()] == [f"{kernel.build_id}.gdb-index"]
