"""A copy of a tree is kept in step, and every change in it is new to make."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel._fingerprint import FileState, state_of
from pytest_kgdb.kernel._mirror import Mirror
from pytest_kgdb.progress import Silent


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tree = tmp_path / "source"
    (tree / "fs").mkdir(parents=True)
    (tree / "fs/open.c").write_text("int open;\n")
    (tree / "fs/read.c").write_text("int read;\n")
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "link").symlink_to("fs/open.c")
    return tree


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    (tmp_path / "home").mkdir()
    return Mirror(tmp_path / "home")


def states(tree: Path) -> dict[str, FileState]:
    paths = [path for path in tree.rglob("*") if path.is_symlink() or path.is_file()]
    return {str(path.relative_to(tree)): state_of(path) for path in paths}


def sync(mirror: Mirror, tree: Path) -> int:
    files = states(tree)
    return mirror.sync(files, {name: tree / name for name in files}, Silent())


def test_copies_everything(mirror: Mirror, source: Path) -> None:
    assert sync(mirror, source) == 4
    assert states(mirror.root) == states(source)
    assert os.access(mirror.root / "run.sh", os.X_OK)
    assert (mirror.root / "link").readlink() == Path("fs/open.c")


def test_touches_only_what_changed(mirror: Mirror, source: Path) -> None:
    sync(mirror, source)
    before = (mirror.root / "fs/read.c").stat().st_mtime_ns
    (source / "fs/open.c").write_text("int open = 1;\n")
    assert sync(mirror, source) == 1
    assert (mirror.root / "fs/open.c").read_text() == "int open = 1;\n"
    assert (mirror.root / "fs/read.c").stat().st_mtime_ns == before
    assert sync(mirror, source) == 0


def test_an_older_file_is_new_to_make(mirror: Mirror, source: Path) -> None:
    sync(mirror, source)
    started = time.time()
    (source / "fs/open.c").write_text("int older;\n")
    os.utime(source / "fs/open.c", (1, 1))
    sync(mirror, source)
    # The file system's clock ticks slower than ours.
    assert (mirror.root / "fs/open.c").stat().st_mtime >= started - 0.1


def test_a_new_time_alone_changes_nothing(mirror: Mirror, source: Path) -> None:
    sync(mirror, source)
    before = (mirror.root / "fs/open.c").stat().st_mtime_ns
    os.utime(source / "fs/open.c")
    assert sync(mirror, source) == 0
    assert (mirror.root / "fs/open.c").stat().st_mtime_ns == before


def test_removes_what_is_gone_and_empty_directories(mirror: Mirror, source: Path) -> None:
    sync(mirror, source)
    for path in (source / "fs").iterdir():
        path.unlink()
    (source / "link").unlink()
    sync(mirror, source)
    assert sorted(path.name for path in mirror.root.iterdir()) == ["run.sh"]


def test_a_file_that_changes_meanwhile_is_refused(mirror: Mirror, source: Path) -> None:
    files = states(source)
    (source / "fs/open.c").write_text("changed\n")
    with pytest.raises(ConfigError, match="was changed while"):
        mirror.sync(files, {name: source / name for name in files}, Silent())
    sync(mirror, source)
    assert states(mirror.root) == states(source)


class Killed(BaseException):
    """What a test throws in to end a copy half-way."""


def test_after_an_interruption_nothing_is_left_over(
    mirror: Mirror, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(mirror, source)
    (source / "fs/read.c").unlink()
    (source / "fs/open.c").write_text("second\n")

    def killed(name: str) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(mirror, "_remove", killed)
        with pytest.raises(Killed):
            sync(mirror, source)
    # Back to what it was at first: the list must not be believed where it was in doubt.
    (source / "fs/open.c").write_text("int open;\n")
    sync(mirror, source)
    assert states(mirror.root) == states(source)


def test_a_lost_list_costs_time_only(mirror: Mirror, source: Path) -> None:
    sync(mirror, source)
    before = (mirror.root / "fs/read.c").stat().st_mtime_ns
    (mirror.root / "stray.c").write_text("who put that here?\n")
    (mirror.root.parent / "files.json").write_text(json.dumps("nonsense"))
    sync(mirror, source)
    assert states(mirror.root) == states(source)
    assert (mirror.root / "fs/read.c").stat().st_mtime_ns == before
