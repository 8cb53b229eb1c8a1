"""The cache in one process."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_kgdb.cache import Cache
from pytest_kgdb.cache._garbage import EntryInfo, GarbageCollector
from pytest_kgdb.cache._locks import NamedLocks
from pytest_kgdb.errors import BuildError, CacheError, ConfigError, TimeoutError
from pytest_kgdb.process import run
from pytest_kgdb.progress import Silent

Build = Callable[[Path], None]


@pytest.fixture
def progress() -> Silent:
    return Silent()


@pytest.fixture
def cache(tmp_path: Path, progress: Silent) -> Cache:
    return Cache(tmp_path / "cache", progress=progress)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def again(cache: Cache, progress: Silent | None = None) -> Cache:
    """The same cache as another process would see it."""
    return Cache(cache.root, progress=progress or Silent())


def files(**contents: str) -> Build:
    def build(path: Path) -> None:
        for name, content in contents.items():
            (path / name).write_text(content)

    return build


def never(path: Path) -> None:
    raise AssertionError("it was built again")


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("linked", ["home", "cache", "v1"])
def test_a_cache_behind_a_link_is_the_same(
    cache: Cache, tmp_path: Path, progress: Silent, linked: str
) -> None:
    """Its paths, which builds have in their options, too."""
    entry = cache.make("kernel", "k", files(a="1"), label="k")
    work = cache.workdir("tree", "t")
    path = tmp_path / "link"
    if linked == "home":
        path.symlink_to(tmp_path)
        path /= "cache"
    elif linked == "cache":
        path.symlink_to(cache.root)
    else:
        path.mkdir()
        (path / "v1").symlink_to(cache.root / "v1")
    other = Cache(path, progress=progress)
    assert other.make("kernel", "k", never, label="k").path == entry.path
    assert other.workdir("tree", "t") == other.workdir_path("tree", "t") == work


def test_nothing_is_touched_before_something_is_made(cache: Cache) -> None:
    assert cache.get("kernel", "k") is None
    assert cache.entries() == []
    assert cache.verify() == []
    assert cache.prune(older_than=0).entries == []
    assert not cache.root.exists()


def test_what_was_made_is_there(cache: Cache) -> None:
    entry = cache.make("kernel", "k1", files(a="hello"), label="a kernel", about={"release": "6.1"})
    assert (entry.path / "a").read_text() == "hello"
    assert (entry.kind, entry.key, entry.about) == ("kernel", "k1", {"release": "6.1"})
    assert cache.get("kernel", "k1") == entry
    assert again(cache).get("kernel", "k1") == entry
    assert again(cache).make("kernel", "k1", never, label="a kernel") == entry
    assert again(cache).get("kernel", "k2") is None
    assert again(cache).get("initrd", "k1") is None


def test_an_entry_keeps_what_a_directory_has(cache: Cache) -> None:
    def build(path: Path) -> None:
        (path / "empty" / "inner").mkdir(parents=True)
        (path / "program").write_text("#!/bin/sh\n")
        (path / "program").chmod(0o755)
        (path / "to a file").symlink_to("program")
        (path / "to nowhere").symlink_to("/no/such/place")
        (path / "to a directory").symlink_to("empty")

    entry = cache.make("kernel", "k", build, label="it")
    assert tree(entry.path) == [
        "empty", "empty/inner", "program", "to a directory", "to a file", "to nowhere"
    ]  # fmt: skip
    assert stat.S_IMODE((entry.path / "program").stat().st_mode) == 0o755
    assert again(cache).get("kernel", "k") == entry
    assert cache.verify() == []


def test_what_cannot_be_kept_is_refused(cache: Cache) -> None:
    with pytest.raises(CacheError, match="it cannot be stored: fifo is neither a file nor a link"):
        cache.make("kernel", "k", lambda path: os.mkfifo(path / "fifo"), label="it")
    assert list((cache.root / "v1/tmp").iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a\0b", "-option", "x" * 200])
def test_names_that_are_no_file_names(cache: Cache, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name"):
        cache.get("kernel", name)
    with pytest.raises(ConfigError, match="cannot be the name"):
        cache.workdir("build", name)


@pytest.mark.parametrize("kind", ["work", "tmp", "locks", "quarantine", "memo"])
def test_kinds_that_the_cache_uses_itself(cache: Cache, kind: str) -> None:
    with pytest.raises(ConfigError, match="uses the name"):
        cache.make(kind, "k", never, label="it")


@pytest.mark.parametrize(
    "error", [BuildError("no"), KeyboardInterrupt(), SystemExit(1), OSError(2, "no")]
)
def test_a_build_that_fails_leaves_nothing(cache: Cache, error: BaseException) -> None:
    def build(path: Path) -> None:
        (path / "half").write_text("made")
        raise error

    with pytest.raises(type(error)):
        cache.make("kernel", "k", build, label="it")
    assert list((cache.root / "v1/tmp").iterdir()) == []
    assert cache.get("kernel", "k") is None
    # And in no one's way.
    assert again(cache).make("kernel", "k", files(a="1"), label="it").path.exists()


def alter(path: Path) -> None:
    before = (path / "files/a").stat().st_mtime_ns
    while (path / "files/a").stat().st_mtime_ns == before:  # time goes by in ticks there
        (path / "files/a").write_text("HELLO")


def truncate(path: Path) -> None:
    os.truncate(path / "files/a", 3)


def remove(path: Path) -> None:
    (path / "files/a").unlink()


def no_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def half_a_manifest(path: Path) -> None:
    os.truncate(path / "manifest.json", 100)


def empty_manifest(path: Path) -> None:
    os.truncate(path / "manifest.json", 0)


def other_manifest(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["key"] = "another"
    (path / "manifest.json").write_text(json.dumps(manifest))


def no_lock(path: Path) -> None:
    (path / "use").unlink()


OF_FILES = [
    (alter, "a has another content"),
    (truncate, "a has 3 bytes instead of 5"),
    (remove, "a is missing"),
    (no_lock, ""),
]
OF_THE_MANIFEST = [
    (no_manifest, "its manifest is missing"),
    (half_a_manifest, "its manifest is broken"),
    (empty_manifest, "its manifest is broken"),
    (other_manifest, "its manifest is broken: it was altered"),
]


def is_set_aside(cache: Cache, progress: Silent, reason: str) -> None:
    assert cache.get("kernel", "k") is None
    (aside,) = (cache.root / "v1/quarantine").iterdir()
    (line,) = progress.lines
    assert line.startswith(f"the cached kernel k is broken ({reason}")
    assert line.endswith(f"); it was moved to {aside}")
    assert cache.get("kernel", "k") is None
    assert len(progress.lines) == 1
    entry = cache.make("kernel", "k", files(a="again"), label="it")
    assert (entry.path / "a").read_text() == "again"


@pytest.mark.parametrize(("damage", "reason"), OF_FILES + OF_THE_MANIFEST)
def test_a_broken_entry_is_set_aside(
    cache: Cache, damage: Callable[[Path], None], reason: str
) -> None:
    cache.make("kernel", "k", files(a="hello"), label="it")
    damage(cache.root / "v1/kernel/k")
    progress = Silent()
    is_set_aside(again(cache, progress), progress, reason)


@pytest.mark.parametrize(("damage", "reason"), OF_FILES)
def test_an_entry_that_breaks_while_held_is_set_aside(
    cache: Cache, progress: Silent, damage: Callable[[Path], None], reason: str
) -> None:
    cache.make("kernel", "k", files(a="hello"), label="it")
    damage(cache.root / "v1/kernel/k")
    is_set_aside(cache, progress, reason)


def test_other_times_alone_break_nothing(cache: Cache) -> None:
    # As of a cache that a CI system packed away and brought back.
    entry = cache.make("kernel", "k", files(a="hello", b="world"), label="it", about={"x": 1})
    for name in "ab":
        os.utime(entry.path / name, (1, 1))
    progress = Silent()
    other = again(cache, progress)
    assert other.get("kernel", "k") == entry
    assert cache.get("kernel", "k") == entry
    assert progress.lines == []
    # They were read once: the new times are known now.
    third = again(cache)
    third._layout._read_again = never  # type: ignore[method-assign,assignment]
    assert third.get("kernel", "k") == entry
    assert sorted(path.name for path in entry.path.parent.iterdir()) == [
        "files", "manifest.json", "use"
    ]  # fmt: skip


def test_an_entry_can_be_found_to_be_of_no_use(cache: Cache, progress: Silent) -> None:
    cache.make("snapshot", "k", files(a="hello"), label="it")
    cache.discard("snapshot", "k", "QEMU refuses it")
    assert "broken (QEMU refuses it); it was moved to" in progress.lines[0]
    assert cache.get("snapshot", "k") is None
    cache.discard("snapshot", "k", "QEMU refuses it")  # somebody else was faster
    assert len(progress.lines) == 1


def test_what_is_no_json_is_refused_before_it_is_built(cache: Cache) -> None:
    with pytest.raises(TypeError):
        cache.make("kernel", "k", never, label="it", about={"path": cache.root})


def test_an_entry_from_elsewhere_is_not_believed(cache: Cache) -> None:
    cache.make("kernel", "k1", files(a="1"), label="it")
    (cache.root / "v1/kernel/k1").rename(cache.root / "v1/kernel/k2")
    progress = Silent()
    assert again(cache, progress).get("kernel", "k2") is None
    assert "it is kernel/k1" in progress.lines[0]


def test_something_in_the_place_of_an_entry(cache: Cache, progress: Silent) -> None:
    (cache.root / "v1/kernel/k").mkdir(parents=True)
    (cache.root / "v1/quarantine").mkdir()
    assert cache.get("kernel", "k") is None
    assert "broken" in progress.lines[0]
    (cache.root / "v1/kernel/f").write_text("")
    assert cache.get("kernel", "f") is None
    assert (cache.make("kernel", "f", files(a="1"), label="it").path / "a").read_text() == "1"


def test_one_process_holds_an_entry_once(cache: Cache) -> None:
    cache.make("kernel", "k", files(a="1"), label="it")
    before = len(list(Path("/proc/self/fd").iterdir()))
    other = again(cache)
    for _ in range(50):
        assert other.get("kernel", "k") is not None
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1


def test_threads_make_one_entry(cache: Cache) -> None:
    built = []

    def build(path: Path) -> None:
        built.append(1)
        time.sleep(0.05)

    threads = [
        threading.Thread(target=cache.make, args=("kernel", "k", build), kwargs={"label": "it"})
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [1]


def test_a_lock_is_held_again_by_who_holds_it(cache: Cache) -> None:
    with cache.lock("tree", label="outer"), cache.lock("tree", label="inner"):
        assert "outer" in (cache.root / "v1/locks/tree.holder").read_text()
    assert not (cache.root / "v1/locks/tree.holder").exists()


def test_a_wait_says_for_whom_and_has_an_end(cache: Cache) -> None:
    def attempt() -> None:
        with again(cache).lock("tree", label="the second", timeout=0.3):
            pass

    with cache.lock("tree", label="the first"), ThreadPoolExecutor(1) as pool:
        error = pool.submit(attempt).exception()
    assert isinstance(error, TimeoutError)
    assert f"the second: waited 0.3 s for process {os.getpid()} (" in str(error)
    assert "busy with the first since" in str(error)


def test_a_wait_names_a_module_that_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python -m pytest` is, whose sys.argv has the path of a `__main__.py`."""
    main = SimpleNamespace(__spec__=SimpleNamespace(parent="pytest"))
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["/site-packages/pytest/__main__.py", "-q"])
    locks = NamedLocks(tmp_path, Silent())
    with locks.lock("a", "a tree", 1.0):
        holder = locks.holder("a")
    assert holder is not None
    assert holder.command == "python -m pytest -q"


def test_a_note_of_a_process_that_is_gone_is_not_believed(cache: Cache, progress: Silent) -> None:
    with cache.lock("tree", label="it"):
        pass
    dead = run(["sh", "-c", "echo $$"], timeout=10).output.strip()
    note = {"pid": int(dead), "command": "x", "since": 0, "host": os.uname().nodename, "label": "x"}
    (cache.root / "v1/locks/tree.holder").write_text(json.dumps(note))
    assert cache._locks.holder("tree") is None
    (cache.root / "v1/locks/tree.holder").write_text("{")
    assert cache._locks.holder("tree") is None


def test_a_work_directory_stays(cache: Cache) -> None:
    with cache.lock("tree", label="it"):
        (cache.workdir("build", "tree") / "a.o").write_text("object")
        assert (again(cache).workdir("build", "tree") / "a.o").read_text() == "object"


def test_a_memo_is_computed_once(cache: Cache) -> None:
    assert cache.memo("hash", "some/path 1 2", lambda: "abc") == "abc"
    assert again(cache).memo("hash", "some/path 1 2", lambda: "other") == "abc"
    assert cache.memo("hash", "some/path 1 3", lambda: "def") == "def"
    assert cache.memo("size", "some/path 1 2", lambda: "ghi") == "ghi"


def test_a_broken_memo_is_computed_again(cache: Cache) -> None:
    cache.memo("hash", "key", lambda: "abc")
    (path,) = (cache.root / "v1/memo/hash").iterdir()
    for content in (
        "",
        "[]",
        "{",
        '{"key": "another", "value": "x"}',
        '{"key": "key", "value": 3}',
    ):
        path.write_text(content)
        assert cache.memo("hash", "key", lambda: "abc") == "abc"


def test_the_listing(cache: Cache) -> None:
    cache.make("kernel", "k1", files(a="x" * 10_000), label="it", about={"release": "6.1"})
    cache.make("initrd", "i1", files(a="x"), label="it")
    cache.close()
    os.utime(cache.root / "v1/kernel/k1/use", (1000, 1000))
    cache.get("initrd", "i1")
    with cache.lock("tree", label="it"):
        (cache.workdir("build", "tree") / "a.o").write_bytes(bytes(50_000))
        infos = {info.key: info for info in again(cache).entries()}
    assert list(infos)[-1] == "k1"  # the last used is the last
    kernel, initrd, work = infos["k1"], infos["i1"], infos["tree"]
    assert (kernel.state, kernel.kind, kernel.about) == ("entry", "kernel", {"release": "6.1"})
    assert kernel.last_used == 1000
    assert 10_000 <= kernel.size < 50_000 <= work.size < 100_000
    assert (kernel.in_use, kernel.kept.split(" of ")[0]) == (False, "the cache is within its bound")
    assert (initrd.in_use, initrd.kept) == (True, "in use by this process")
    assert (work.state, work.kind, work.in_use) == ("work", "build", True)
    assert f"in use by process {os.getpid()}" in work.kept


def make_some(cache: Cache, count: int, size: int = 100_000) -> None:
    """So many entries, the first the least recently used, nobody holding them."""
    for number in range(count):
        cache.make("kernel", f"k{number}", files(a="x" * size), label="it")
        os.utime(cache.root / f"v1/kernel/k{number}/use", (1000 + number, 1000 + number))
    cache.close()


def keys(cache: Cache) -> set[str]:
    return {info.key for info in cache.entries()}


def test_prune_by_age(cache: Cache) -> None:
    make_some(cache, 3)
    os.utime(cache.root / "v1/kernel/k2/use")
    removed = cache.prune(older_than=3600)
    assert [info.key for info in removed.entries] == ["k0", "k1"]
    assert removed.size_before > removed.size_after > 0
    assert keys(cache) == {"k2"}
    assert list((cache.root / "v1/tmp").iterdir()) == []


def test_prune_by_size_takes_the_least_recently_used(cache: Cache) -> None:
    make_some(cache, 5)
    assert cache.get("kernel", "k0") is not None  # used just now, and in use
    removed = again(cache).prune(max_size=250_000)
    assert [info.key for info in removed.entries] == ["k1", "k2", "k3"]
    assert keys(cache) == {"k0", "k4"}


def test_prune_never_takes_what_is_in_use(cache: Cache) -> None:
    make_some(cache, 2)
    entry = cache.get("kernel", "k0")
    work = cache.workdir("build", "tree")
    assert [info.key for info in again(cache).prune(older_than=0, max_size=0).entries] == ["k1"]
    assert entry is not None
    assert (entry.path / "a").exists()
    assert work.is_dir()
    cache.close()
    with cache.lock("tree", label="it"):
        assert [info.key for info in again(cache).prune(older_than=0).entries] == ["k0"]
    assert work.is_dir()
    assert [info.key for info in again(cache).prune(older_than=0).entries] == ["tree"]
    assert list((cache.root / "v1/work/build").iterdir()) == []
    assert cache.workdir("build", "tree").is_dir()


def test_without_a_word_prune_keeps_the_bound(cache: Cache) -> None:
    make_some(cache, 4)
    other = Cache(cache.root, progress=Silent(), limit=250_000)
    assert [info.key for info in other.prune().entries] == ["k0", "k1"]


def test_making_keeps_the_bound_and_says_so(tmp_path: Path, progress: Silent) -> None:
    cache = Cache(tmp_path, progress=progress, limit=350_000)
    make_some(cache, 3)
    assert progress.lines == []
    cache.make("kernel", "new", files(a="x" * 100_000), label="it")
    (line,) = progress.lines
    assert line.startswith("the cache was larger than its bound of 350 kB: removed the 1 least")
    assert keys(cache) == {"k1", "k2", "new"}


def test_the_size_is_not_surveyed_each_time_while_there_is_much_room(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    surveys: list[int] = []
    survey = type(cache._garbage)._survey

    def counted(collector: GarbageCollector) -> Iterator[EntryInfo]:
        surveys.append(1)
        return survey(collector)

    monkeypatch.setattr(type(cache._garbage), "_survey", counted)
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, 100 * 10**9))
    make_some(cache, 3)
    assert len(surveys) == 1
    cache._garbage.enforce_bound()
    assert len(surveys) == 1
    # Of another process, too; but not for long.
    again(cache)._garbage.enforce_bound()
    assert len(surveys) == 1
    later = time.time() + 61
    monkeypatch.setattr("time.time", lambda: later)
    cache._garbage.enforce_bound()
    assert len(surveys) == 2
    monkeypatch.setattr("time.time", lambda: later - 3600)  # the clock was set back
    cache._garbage.enforce_bound()
    assert len(surveys) == 3
    # Where it may be full after the next entry, each time.
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, 10 * 10**9))
    (cache.root / "v1/room.json").unlink()
    for _ in range(2):
        cache._garbage.enforce_bound()
    assert len(surveys) == 5
    # With another bound than that of the last survey.
    other = Cache(cache.root, progress=Silent(), limit=10**12)
    other._garbage.enforce_bound()
    assert len(surveys) == 6
    (cache.root / "v1/room.json").write_text("nonsense")
    other._garbage.enforce_bound()
    assert len(surveys) == 7


def test_a_large_work_directory_is_not_walked_at_each_use(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 1000, 2))  # each walk takes two seconds

    def use(size: int) -> int:
        with cache.lock("tree", label="it"):
            (cache.workdir("tree", "tree") / "file").write_bytes(bytes(size))
        with monkeypatch.context() as patch:
            patch.setattr("time.monotonic", lambda: next(ticks))
            (info,) = [one for one in cache.entries() if one.state == "work"]
        return info.size

    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    first = use(10_000)
    assert first >= 10_000
    assert use(50_000) == first
    monkeypatch.setattr("time.time", lambda: now + 201)
    assert use(50_000) >= 50_000


def test_a_bound_that_cannot_be_kept_is_said(tmp_path: Path, progress: Silent) -> None:
    cache = Cache(tmp_path, progress=progress, limit=50_000)
    entry = cache.make("kernel", "k", files(a="x" * 100_000), label="it")
    assert entry.path.exists()
    (line,) = progress.lines
    assert line.endswith("more than its bound of 50 kB: the rest is in use")


def test_the_default_bound(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    make_some(cache, 1)
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, 1000 * 10**9))
    assert cache._garbage.bound(0) == 50 * 10**9
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, 10 * 10**9))
    assert cache._garbage.bound(2 * 10**9) == 6 * 10**9


def test_the_size_of_a_work_directory_is_measured_anew_after_use(cache: Cache) -> None:
    def size() -> int:
        (info,) = cache.entries()
        return info.size

    for expected in (100_000, 300_000):
        with cache.lock("tree", label="it"):
            (cache.workdir("build", "tree") / "a.o").write_bytes(bytes(expected))
        assert expected <= size() < expected + 50_000
    # Not otherwise: reading a kernel tree takes a second.
    (cache.workdir("build", "tree") / "a.o").write_bytes(b"")
    assert size() >= 300_000


def test_what_broke_is_kept_for_a_while_but_goes_first(cache: Cache) -> None:
    make_some(cache, 2)
    (cache.root / "v1/kernel/k1/files/a").write_text("y" * 100_001)
    assert cache.get("kernel", "k1") is None
    (broken,) = (info for info in cache.entries() if info.state == "broken")
    assert broken.kept == "in the quarantine for 7 days"
    assert cache.prune(max_size=10**9).entries == []
    assert [info.state for info in cache.prune(max_size=150_000).entries] == ["broken"]
    assert keys(cache) == {"k0"}


def test_old_memos_go(cache: Cache) -> None:
    make_some(cache, 1)
    cache.memo("hash", "old", lambda: "1")
    (old,) = (cache.root / "v1/memo/hash").iterdir()
    os.utime(old, (1000, 1000))
    cache.memo("hash", "new", lambda: "2")
    cache.prune(max_size=10**9)
    assert not old.exists()
    assert len(list((cache.root / "v1/memo/hash").iterdir())) == 1


def test_verify_reads_every_byte(cache: Cache) -> None:
    make_some(cache, 3)
    path = cache.root / "v1/kernel/k1/files/a"
    status = path.stat()
    path.write_text("y" * 100_000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.get("kernel", "k1") is not None  # a glance does not see it
    (problem,) = again(cache).verify()
    assert (problem.kind, problem.key) == ("kernel", "k1")
    assert problem.reason == "a has another content"
    assert problem.moved_to is not None
    assert problem.moved_to.is_dir()
    assert cache.get("kernel", "k1") is None
    assert again(cache).verify() == []


def test_verify_sees_what_does_not_belong(cache: Cache) -> None:
    make_some(cache, 2)
    (cache.root / "v1/kernel/k0/files/extra").write_text("")
    (cache.root / "v1/kernel/k1/files/link").symlink_to("a")
    reasons = {problem.reason for problem in cache.verify()}
    assert reasons == {"extra does not belong to it", "the link link points to a"}


def test_large_entries_are_hashed_alike(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(path: Path) -> None:
        for number in range(6):
            (path / f"f{number}").write_bytes(os.urandom(100_000 * number))

    monkeypatch.setattr("pytest_kgdb.cache._files._PARALLEL_BYTES", 0)
    cache.make("kernel", "k", build, label="it")
    monkeypatch.setattr("pytest_kgdb.cache._files._PARALLEL_BYTES", 1 << 30)
    assert cache.verify() == []


def test_an_entry_is_on_the_disk_before_it_has_its_name(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def note(descriptor: int) -> None:
        events.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    def rename(path: Path, target: Path) -> None:
        events.append("rename")
        os.rename(path, target)  # noqa: PTH104  (Path's is what is replaced)

    monkeypatch.setattr("os.fsync", note)
    monkeypatch.setattr("pathlib.Path.rename", rename)

    def build(path: Path) -> None:
        (path / "d").mkdir()
        (path / "d/b").write_text("b")
        (path / "a").write_text("a")

    cache.make("kernel", "k", build, label="it")
    draft = events[0].rpartition("/files/")[0]
    at = events.index("rename")
    assert {event.removeprefix(draft) for event in events[:at]} == {
        "/files/a", "/files/d/b", "/files/d", "/files", "/manifest.json", ""
    }  # fmt: skip
    assert events[at + 1 :] == [str(cache.root / "v1/kernel")]


def test_backup_programs_leave_the_cache_out(cache: Cache) -> None:
    make_some(cache, 1)
    assert (cache.root / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d17")


def test_the_import_is_light() -> None:
    code = (
        "import sys, pytest_kgdb.cache\n"
        "print([name for name in ('fsspec', 'tarfile', 'asyncio', 'rich',"
        " 'concurrent.futures', 'platformdirs') if name in sys.modules])"
    )
    assert run([sys.executable, "-c", code], timeout=30).output == "[]\n"


def test_files_with_several_names_are_counted_once(cache: Cache) -> None:
    with cache.lock("tree", label="a tree"):
        path = cache.workdir("build", "tree")
        (path / "one").write_bytes(b"x" * 1_000_000)
        (path / "two").hardlink_to(path / "one")
    (info,) = cache.entries()
    assert 1_000_000 <= info.size < 1_500_000


def test_a_work_directory_that_grew_without_its_lock(cache: Cache) -> None:
    with cache.lock("tree", label="a tree"):
        path = cache.workdir("build", "tree")
    (before,) = cache.entries()
    (path / "objects").write_bytes(b"x" * 1_000_000)
    cache.workdir_changed("build", "tree")
    (after,) = cache.entries()
    assert after.size >= before.size + 1_000_000
