"""File locks: shared and exclusive ones, on files and directories."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pytest_kgdb.process import FileLock, run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "lock").touch()
    return tmp_path / "lock"


def free(path: Path) -> bool:
    try:
        FileLock.exclusive(path).release()
    except BlockingIOError:
        return False
    return True


def test_shared_locks_exclude_exclusive_ones(path: Path) -> None:
    first, second = FileLock.shared(path), FileLock.shared(path)
    assert not free(path)
    first.release()
    assert not free(path)
    second.release()
    second.release()
    assert free(path)


def test_an_exclusive_lock_can_be_shared_later(path: Path) -> None:
    lock = FileLock.exclusive(path)
    with pytest.raises(BlockingIOError):
        FileLock.shared(path)
    lock.share()
    FileLock.shared(path).release()
    assert not free(path)


def test_waiting(path: Path) -> None:
    lock = FileLock.exclusive(path)
    threading.Timer(0.1, lock.release).start()
    FileLock.shared(path, 10.0).release()
    lock = FileLock.exclusive(path)
    begin = time.monotonic()
    with pytest.raises(BlockingIOError):
        FileLock.exclusive(path, 0.1)
    assert 0.1 <= time.monotonic() - begin < 5
    lock.release()


def test_which_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock.exclusive(tmp_path / "new")
    lock = FileLock.exclusive(tmp_path / "new", create=True)
    assert lock.is_on(tmp_path / "new")
    (tmp_path / "new").rename(tmp_path / "moved")
    assert not lock.is_on(tmp_path / "new")
    assert lock.is_on(tmp_path / "moved")
    assert not free(tmp_path / "moved")
    (tmp_path / "link").symlink_to("moved")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock.shared(tmp_path / "link")
    directory = FileLock.exclusive(tmp_path)
    assert not free(tmp_path)
    directory.release()


def test_a_program_does_not_inherit_it(path: Path) -> None:
    lock = FileLock.exclusive(path)
    assert (
        run(["sh", "-c", 'ls -l /proc/$$/fd | grep -c "$0"', path], timeout=10, check=False).output
        == "0\n"
    )
    lock.release()
