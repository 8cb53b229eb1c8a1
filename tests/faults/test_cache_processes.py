"""The cache between processes, some of which die."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_kgdb.cache import Cache
from pytest_kgdb.errors import CacheError
from pytest_kgdb.progress import Silent

SOON = 30.0  # seconds: far more than it takes, even on a busy machine

PRELUDE = """
import os, signal, sys, threading, time
from pathlib import Path
from pytest_kgdb.cache import Cache
from pytest_kgdb.errors import *
from pytest_kgdb.process import run
from pytest_kgdb.progress import Progress

root = Path(sys.argv[1])
scene = root.parent
cache = Cache(root, progress=Progress())

def say(*words):
    print(*words, flush=True)

def pause():
    sys.stdin.readline()
"""


class Other:
    """Another process that uses the cache."""

    def __init__(self, root: Path, script: str, stack: ExitStack, wrapper: tuple[str, ...]) -> None:
        code = PRELUDE + textwrap.dedent(script)
        self.popen = stack.enter_context(
            subprocess.Popen(
                [*wrapper, sys.executable, "-c", code, str(root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        stack.callback(self.popen.kill)
        self.pid = self.popen.pid

    def until(self, word: str) -> str:
        """What it says up to the line that contains a word."""
        assert self.popen.stdout is not None
        output = ""
        while line := self.popen.stdout.readline():
            output += line
            if word in line:
                return output
        raise AssertionError(f"it never said {word!r}, but:\n{output}")

    def go(self) -> None:
        """Let it go on behind `pause()`."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def end(self) -> str:
        """What else it says until it ends well."""
        assert self.popen.stdout is not None
        output = self.popen.stdout.read()
        assert self.popen.wait(SOON) == 0, output
        return output

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(SOON)


Start = Callable[..., Other]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda script, *wrapper: Other(root, script, stack, wrapper)


def drafts(root: Path) -> list[Path]:
    return list((root / "v1/tmp").iterdir())


# Half a build, told apart from a whole one.
BUILD = """
def build(path):
    (path / "a").write_text("first half")
    (path / "by").write_text(str(os.getpid()))
    say("building")
    pause()
    (path / "a").write_text("all of it")

def make():
    entry = cache.make("kernel", "k", build, label="Linux 6.1")
    say("made:", (entry.path / "a").read_text(), (entry.path / "by").read_text())
"""


def test_everything_is_built_once_and_by_one_at_a_time(start: Start, tmp_path: Path) -> None:
    # The detector knows nothing of locks: a file that only one can create, and a log.
    script = """
        import random
        random.seed(os.getpid())
        def builder(number):
            def build(path):
                inside = os.open(scene / f"inside-{number}", os.O_CREAT | os.O_EXCL)
                (path / "a").write_text(f"{number} {os.getpid()}")
                time.sleep(random.uniform(0, 0.01))
                with (scene / "log").open("a") as log:
                    log.write(f"{number}\\n")
                os.unlink(scene / f"inside-{number}")
                os.close(inside)
            return build
        pause()
        for number in range(15):
            entry = cache.make("kernel", f"k{number}", builder(number), label=f"kernel {number}")
            say("got", number, (entry.path / "a").read_text())
    """
    others = [start(script) for _ in range(6)]
    for other in others:
        other.go()
    answers = [
        [line for line in other.end().splitlines() if line.startswith("got")] for other in others
    ]
    assert len(answers[0]) == 15
    assert all(answer == answers[0] for answer in answers)
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(15))


def test_locks_exclude(start: Start, tmp_path: Path) -> None:
    script = """
        pause()
        for _ in range(25):
            with cache.lock("tree", label="it"):
                os.close(os.open(scene / "inside", os.O_CREAT | os.O_EXCL))
                count = scene / "count"
                count.write_text(str(int(count.read_text()) + 1))
                os.unlink(scene / "inside")
    """
    (tmp_path / "count").write_text("0")
    others = [start(script) for _ in range(4)]
    for other in others:
        other.go()
    for other in others:
        other.end()
    assert (tmp_path / "count").read_text() == "100"


def test_the_second_waits_and_says_for_whom(start: Start) -> None:
    first = start(BUILD + "make()")
    first.until("building")
    second = start(BUILD + "make()")
    output = second.until("waiting for")
    assert re.search(
        rf"Linux 6.1: waiting for process {first.pid} \(-c /.*\), at it since \d\d:\d\d:\d\d …$",
        output.strip(),
    )
    first.go()
    assert second.end() == f"made: all of it {first.pid}\n"
    assert first.end() == f"made: all of it {first.pid}\n"


def test_what_a_worker_waits_for_has_a_name(start: Start) -> None:
    worker = """
        import execnet
        os.environ["PYTEST_XDIST_WORKER"] = "gw1"
        sys.argv[:] = ["-c"]
        with cache.lock("tree", label="the first"):
            say("locked")
            pause()
    """
    first = start(worker)
    first.until("locked")
    second = start("with cache.lock('tree', label='the second'): print('done')")
    output = second.until("waiting for")
    assert re.search(
        rf"the second: waiting for process {first.pid} \(worker gw1 of process {os.getpid()}: "
        r".+\), busy with the first since \d\d:\d\d:\d\d …$",
        output.strip(),
    )
    first.go()
    assert second.end() == "done\n"
    first.end()


def test_the_second_takes_over_from_a_killed_first(start: Start, root: Path) -> None:
    first = start(BUILD + "make()")
    first.until("building")
    second = start(BUILD + "make()")
    second.until(f"waiting for process {first.pid}")
    third = start(BUILD + "make()")
    third.until(f"waiting for process {first.pid}")
    first.kill()
    # Who comes next is anybody's guess; it clears up, builds, and the last waits for it.
    for other in (second, third):
        other.go()
    answers = {other.end().splitlines()[-1] for other in (second, third)}
    assert answers in ({f"made: all of it {second.pid}"}, {f"made: all of it {third.pid}"})
    assert drafts(root) == []


def test_a_builder_is_killed_and_nobody_waits(start: Start, root: Path) -> None:
    first = start(BUILD + "make()")
    first.until("building")
    first.kill()
    assert Cache(root, progress=Silent()).get("kernel", "k") is None
    assert len(drafts(root)) == 1
    # The next to build anything clears up, but not what is still being built.
    second = start(BUILD + "make()")
    second.until("building")
    Cache(root, progress=Silent()).make("initrd", "i", lambda path: None, label="an initrd")
    (draft,) = drafts(root)
    assert (draft / "files/by").read_text() == str(second.pid)
    second.go()
    second.end()


def test_what_a_killed_builder_had_started_goes_too(start: Start, root: Path) -> None:
    first = start("""
        def build(path):
            run(["sh", "-c", "echo $$ > pid.new; mv pid.new pid; while :; do date > a; done"],
                cwd=path, timeout=600)
        cache.make("kernel", "k", build, label="it")
    """)
    deadline = time.monotonic() + SOON
    while not (pids := list((root / "v1").glob("tmp/*/files/pid"))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    make = os.pidfd_open(int(pids[0].read_text()))
    first.kill()
    try:
        poller = select.poll()
        poller.register(make, select.POLLIN)
        assert poller.poll(SOON * 1000)
    finally:
        os.close(make)
    Cache(root, progress=Silent()).make("kernel", "k", lambda path: None, label="it")
    assert drafts(root) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_builder(start: Start, root: Path, number: int) -> None:
    first = start(BUILD + "make()")
    first.until("building")
    first.popen.send_signal(number)
    assert first.popen.wait(SOON) == -number
    # Ctrl-C clears up at once; what SIGTERM leaves is cleared up by the next.
    assert len(drafts(root)) == (0 if number == signal.SIGINT else 1)
    second = start(BUILD + "make()")
    second.until("building")
    second.go()
    assert second.end() == f"made: all of it {second.pid}\n"
    assert drafts(root) == []


def test_an_interrupted_waiter(start: Start) -> None:
    first = start(BUILD + "make()")
    first.until("building")
    second = start(BUILD + "make()")
    second.until("waiting for")
    second.popen.send_signal(signal.SIGINT)
    assert second.popen.wait(SOON) == -signal.SIGINT
    first.go()
    assert first.end() == f"made: all of it {first.pid}\n"


def test_a_suspended_builder_is_not_waited_for_for_ever(start: Start) -> None:
    first = start(BUILD + "make()")
    first.until("building")
    os.kill(first.pid, signal.SIGSTOP)
    second = start("""
        try:
            cache.make("kernel", "k", None, label="Linux 6.1", timeout=0.5)
        except TimeoutError as error:
            say(error)
    """)
    assert f"Linux 6.1: waited 0.5 s for process {first.pid} (" in second.end()


def test_a_builder_that_is_killed_while_it_publishes(start: Start, root: Path) -> None:
    # At every step between the end of the build and the entry.
    steps = [
        "_store.make_manifest",
        "_store_layout.write_synced",
        "_store_layout.sync_directory",
        "Path.rename",
    ]
    for step in steps:
        target, name = step.split(".")
        other = start(f"""
            from pytest_kgdb.cache import _store, _store_layout
            def build(path):
                (path / "a").write_text("x")
            def strike(*_, **__):
                os.kill(os.getpid(), signal.SIGKILL)
            {target}.{name} = strike
            cache.make("kernel", "k", build, label="it")
        """)
        assert other.popen.wait(SOON) == -signal.SIGKILL, step
        cache = Cache(root, progress=Silent())
        assert cache.get("kernel", "k") is None
        assert len(drafts(root)) == 1, step
        assert cache.entries() == []
        assert cache.verify() == []


def test_what_another_process_uses_is_not_pruned(start: Start, root: Path) -> None:
    user = start("""
        entry = cache.make("kernel", "k", lambda path: (path / "a").write_text("x"), label="it")
        say("holding")
        pause()
        say((entry.path / "a").read_text())
    """)
    user.until("holding")
    cache = Cache(root, progress=Silent())
    (info,) = cache.entries()
    assert info.in_use
    assert re.match(rf"in use by process {user.pid} \(.*-c ", info.kept)
    assert cache.prune(older_than=0, max_size=0).entries == []
    user.go()
    assert user.end() == "x\n"
    assert len(cache.prune(older_than=0).entries) == 1


def test_a_work_directory_that_another_process_asked_for_is_not_pruned(
    start: Start, root: Path
) -> None:
    user = start("""
        with cache.lock("tree", label="it"):
            (cache.workdir("build", "tree") / "main.c").write_text("source")
        say("holding")
        pause()
        say((root / "v1/work/build/tree/main.c").read_text())
    """)
    user.until("holding")
    cache = Cache(root, progress=Silent())
    (info,) = cache.entries()
    assert re.match(rf"in use by process {user.pid} \(", info.kept)
    assert cache.prune(older_than=0, max_size=0).entries == []
    user.go()
    assert user.end() == "source\n"
    assert len(cache.prune(older_than=0).entries) == 1


def test_what_a_killed_process_used_is_free(start: Start, root: Path) -> None:
    user = start("""
        cache.make("kernel", "k", lambda path: None, label="it")
        with cache.lock("tree", label="it"):
            cache.workdir("build", "tree")
            say("holding")
            pause()
    """)
    user.until("holding")
    cache = Cache(root, progress=Silent())
    assert [info.in_use for info in cache.entries()] == [True, True]
    user.kill()
    assert [info.in_use for info in cache.entries()] == [False, False]
    assert len(cache.prune(older_than=0).entries) == 2


def test_pruners_and_users_at_once(start: Start, root: Path) -> None:
    # Whatever the pruners do, what a user got is there until it lets go of it.
    user_script = """
        import random
        random.seed(os.getpid())
        def build(path):
            for name in "abcdef":
                (path / name).write_text(name * 1000)
        def whole(entry):
            return all((entry.path / name).read_text() == name * 1000 for name in "abcdef")
        pause()
        end = time.monotonic() + 1
        rounds = 0
        while time.monotonic() < end:
            key = f"k{random.randrange(3)}"
            entry = cache.get("kernel", key) or cache.make("kernel", key, build, label=key)
            assert whole(entry)
            time.sleep(random.uniform(0, 0.005))
            assert whole(entry), "it was taken away"
            cache.close()
            rounds += 1
        say("rounds", rounds)
    """
    pruner_script = """
        pause()
        end = time.monotonic() + 1
        removed = 0
        while time.monotonic() < end:
            removed += len(cache.prune(older_than=0).entries)
            assert not cache.verify()
        say("removed", removed)
    """
    others = [start(user_script) for _ in range(3)] + [start(pruner_script) for _ in range(2)]
    for other in others:
        other.go()
    outputs = [other.end() for other in others]
    assert all("rounds" in line for line in outputs[:3])
    assert sum(int(line.split()[-1]) for line in outputs[3:]) > 0
    assert "broken" not in "".join(outputs)
    cache = Cache(root, progress=Silent())
    cache.prune(older_than=0)
    assert cache.entries() == []
    assert drafts(root) == []


def test_a_killed_pruner(start: Start, root: Path) -> None:
    cache = Cache(root, progress=Silent())
    cache.make("kernel", "k", lambda path: (path / "a").write_text("x"), label="it")
    cache.close()
    pruner = start("""
        import pytest_kgdb.cache._store_layout as _store_layout
        def strike(path):
            os.unlink(path / "files/a")
            os.kill(os.getpid(), signal.SIGKILL)
        _store_layout.remove_tree = strike
        cache.prune(older_than=0)
    """)
    assert pruner.popen.wait(SOON) == -signal.SIGKILL
    assert cache.get("kernel", "k") is None
    assert len(drafts(root)) == 1
    cache.make("kernel", "k", lambda path: None, label="it")
    assert drafts(root) == []


FULL = """
def build(path):
    with (path / "image").open("wb") as image:
        for _ in range(64):
            image.write(bytes(1 << 20))

small = cache.make("kernel", "small", lambda path: (path / "a").write_text("x"), label="small")
try:
    cache.make("kernel", "large", build, label="the disk image")
except CacheError as error:
    say(error)
say("left", list((root / "v1/tmp").iterdir()))
assert cache.get("kernel", "small") == small
assert cache.get("kernel", "large") is None
cache.make("kernel", "another", lambda path: (path / "a").write_text("x"), label="another")
"""


def test_a_limit_on_file_sizes(start: Start) -> None:
    output = start(
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n" + FULL
    ).end()
    assert "the disk image could not be made in " in output
    assert "File too large\nhint: make room (pytest-kgdb cache prune), or choose" in output
    assert output.endswith("left []\n")


def test_a_full_disk(start: Start, root: Path) -> None:
    root.mkdir()
    mount = f'mount -t tmpfs -o size=16m none "{root}" && exec "$@"'
    wrapper = ("unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh")
    if subprocess.run([*wrapper, "true"], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs user namespaces")
    output = start(FULL, *wrapper).end()
    assert "the disk image could not be made in " in output
    assert "No space left on device\nhint: make room (pytest-kgdb cache prune)" in output
    assert output.endswith("left []\n")


# Without its capabilities root, too, is bound to permissions.
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")


def test_a_cache_that_cannot_be_written_to_can_be_read(start: Start, root: Path) -> None:
    cache = Cache(root, progress=Silent())
    cache.make("kernel", "k", lambda path: (path / "a").write_text("x"), label="it")
    cache.memo("hash", "key", lambda: "known")
    directories = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for directory in directories:
        directory.chmod(0o555)
    wrapper = POWERLESS if os.getuid() == 0 else ()
    try:
        output = start(
            """
            say((cache.get("kernel", "k").path / "a").read_text())
            say(cache.memo("hash", "key", lambda: "not known"))
            say(cache.memo("hash", "another", lambda: "new"))
            for attempt in (lambda: cache.make("kernel", "new", None, label="it"),
                            lambda: cache.workdir("build", "tree"),
                            lambda: cache.prune(older_than=0)):
                try:
                    attempt()
                except CacheError as error:
                    say(error)
            say(len(cache.entries()), cache.verify())
        """,
            *wrapper,
        ).end()
    finally:
        for directory in directories:
            directory.chmod(0o755)
    lines = output.splitlines()
    assert lines[:3] == ["x", "known", "new"]
    refusal = [
        f"cannot use the cache directory {root}: it is not writable",
        "hint: choose another directory with --kgdb-cache-dir",
    ]
    assert lines[3:9] == refusal * 3
    assert lines[9:] == ["pytest-kgdb: verifying the cache …", "1 []"]


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache", progress=Silent())
    assert cache.get("kernel", "k") is None
    with pytest.raises(CacheError, match=r"cannot use the cache directory .*: Not a directory"):
        cache.make("kernel", "k", lambda path: None, label="it")


def test_a_note_says_who_holds_a_lock(start: Start, root: Path) -> None:
    other = start("""
        with cache.lock("tree", label="the tree"):
            say("holding")
            pause()
    """)
    other.until("holding")
    note = json.loads((root / "v1/locks/tree.holder").read_text())
    assert (note["pid"], note["label"]) == (other.pid, "the tree")
    other.go()
    other.end()
    assert not (root / "v1/locks/tree.holder").exists()
