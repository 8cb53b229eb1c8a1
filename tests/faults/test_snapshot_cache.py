"""What goes wrong with cached snapshots: each time a clear line, a new one, and a good machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inner_run import ROOT

from pytest_kgdb import Kgdb
from pytest_kgdb.cache import Cache
from pytest_kgdb.errors import KgdbError, MachineDied
from pytest_kgdb.initrd import Initrd
from pytest_kgdb.kernel import Kernel
from pytest_kgdb.machine import Machine
from pytest_kgdb.progress import Silent
from pytest_kgdb.session import Session
from pytest_kgdb.session._vm import Vm
from pytest_kgdb.settings import Settings, from_pytest


class Bench:
    """A cache of its own, in which only the kernel and the initrd are not."""

    def __init__(self, root: Path, kernel: Kernel, initrd: Initrd, settings: Settings) -> None:
        self.root = root
        self.settings = replace(settings, cache_dir=root)
        self.reported = Silent()
        self._parts = kernel, initrd

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Open what a run of pytest opens."""
        cache = Cache(self.root, progress=self.reported)
        kernel, initrd = self._parts
        with Session(
            self.settings, kernel, initrd, None, cache=cache, progress=self.reported
        ) as session:
            yield session
        cache.close()

    def works(self) -> Kgdb:
        """See that a session gets a machine, and twice."""
        with self.session() as session:
            for _ in range(2):
                kgdb = self.acquire(session)
                assert kgdb.run("echo fine").output == "fine\n"
                assert kgdb.evaluate("panic_on_oops") == 0
                kgdb.assign("panic_on_oops", 1)
        return kgdb

    def acquire(self, session: Session) -> Kgdb:
        return session.acquire(self.settings.for_marker({}, "the test"))

    def put(self, files: Mapping[str, bytes], key: str) -> None:
        """Have the cache hold these as the entry of a key, instead of what it has."""

        def build(directory: Path) -> None:
            for name, data in files.items():
                (directory / name).write_bytes(data)

        cache = Cache(self.root, progress=self.reported)
        assert cache.get("snapshot", key)
        cache.discard("snapshot", key, "the test")
        cache.make("snapshot", key, build, label="the test's")
        cache.close()
        self.reported.lines.clear()

    @property
    def entries(self) -> list[Path]:
        return sorted((self.root / "v1/snapshot").glob("*"))

    @property
    def files(self) -> Path:
        (entry,) = self.entries
        return entry / "files"

    @property
    def quarantine(self) -> list[Path]:
        return sorted((self.root / "v1/quarantine").glob("*"))


@pytest.fixture
def bench(
    tmp_path: Path, kgdb_kernel: Kernel, kgdb_initrd: Initrd, pytestconfig: pytest.Config
) -> Bench:
    bench = Bench(tmp_path / "cache", kgdb_kernel, kgdb_initrd, from_pytest(pytestconfig))
    bench.works()
    assert len(bench.entries) == 1
    return bench


def unnoticed(path: Path, change: Callable[[bytearray], None]) -> None:
    """Change a file so that neither its size nor its time tells."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    change(data)
    assert len(data) == status.st_size
    mode = status.st_mode
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip(data: bytearray) -> None:
    data[len(data) // 2] ^= 1


@pytest.mark.parametrize("name", ["storage.qcow2", "ready.ram"])
def test_an_altered_one(bench: Bench, name: str) -> None:
    unnoticed(bench.files / name, flip)
    bench.works()
    (line,) = [line for line in bench.reported.lines if "is broken" in line]
    assert name in line
    assert len(bench.entries) == len(bench.quarantine) == 1


@pytest.mark.parametrize("name", ["storage.qcow2", "ready.ram"])
def test_a_truncated_one(bench: Bench, name: str) -> None:
    path = bench.files / name
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size // 2)
    bench.works()
    (line,) = [line for line in bench.reported.lines if "is broken" in line]
    assert name in line
    assert len(bench.entries) == len(bench.quarantine) == 1


@pytest.mark.slow
def test_memory_that_is_no_memory(bench: Bench) -> None:
    """Not even looked at before it was read in full: the table of its runs leads nowhere."""

    def change(data: bytearray) -> None:
        data[24:40] = b"\xff" * 16

    unnoticed(bench.files / "ready.ram", change)
    bench.works()
    (line,) = [line for line in bench.reported.lines if "is broken" in line]
    assert "ready.ram" in line


@pytest.mark.slow
def test_an_altered_note(bench: Bench) -> None:
    note = bench.files / "snapshot.json"
    reply = json.loads(note.read_text())["stop_replies"]["ready"].encode()

    def change(data: bytearray) -> None:
        at = data.index(reply)
        data[at : at + len(reply)] = b"1" * len(reply)

    unnoticed(note, change)
    bench.works()
    assert any("snapshot.json" in line for line in bench.reported.lines)


@pytest.mark.slow
def test_one_that_this_qemu_does_not_load(bench: Bench) -> None:
    """As one of another version's would be that had the same number: QEMU has the last word."""
    key = bench.files.parent.name
    with bench.session() as session:
        session.acquire(bench.settings.for_marker({"smp": 2}, "the test"))
    other = next(item for item in bench.entries if item.name != key) / "files"
    bench.put({item.name: item.read_bytes() for item in other.iterdir()}, key)
    bench.works()
    (line,) = [line for line in bench.reported.lines if "is broken" in line]
    assert "QEMU could not loadvm" in line


@pytest.mark.slow
def test_one_with_the_memory_of_another_machine(bench: Bench) -> None:
    kept = {item.name: item.read_bytes() for item in bench.files.iterdir()}
    key = bench.files.parent.name
    with bench.session() as session:
        session.acquire(bench.settings.for_marker({"memory": 512}, "the test"))
    other = next(item for item in bench.entries if item.name != key) / "files"
    bench.put({**kept, "ready.ram": (other / "ready.ram").read_bytes()}, key)
    bench.works()
    (line,) = [line for line in bench.reported.lines if "is broken" in line]
    assert "with 512 MiB, not 256" in line


@pytest.mark.slow
def test_one_without_a_state(bench: Bench, tmp_path: Path) -> None:
    kept = {item.name: item.read_bytes() for item in bench.files.iterdir()}
    empty = tmp_path / "storage.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", empty, "1M"], check=True)
    bench.put({**kept, "storage.qcow2": empty.read_bytes()}, bench.files.parent.name)
    bench.works()
    (line,) = [line for line in bench.reported.lines if "is broken" in line]
    assert "QEMU could not loadvm" in line


def killed_soon(machine: Machine) -> None:
    threading.Timer(0.01, os.kill, (machine.child.pid, signal.SIGKILL)).start()


@pytest.mark.slow
def test_qemu_killed_while_it_saves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench.root = tmp_path / "another"
    save = Machine.save

    def saving(machine: Machine, name: str) -> None:
        killed_soon(machine)
        save(machine, name)

    with monkeypatch.context() as patched, bench.session() as session:
        patched.setattr(Machine, "save", saving)
        with pytest.raises(MachineDied, match="SIGKILL"):
            bench.acquire(session)
    assert bench.entries == []
    bench.works()
    assert len(bench.entries) == 1


@pytest.mark.slow
def test_qemu_killed_while_it_restores(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Machine.load

    def loading(machine: Machine, name: str) -> None:
        human = machine.monitor.human

        def restoring(command: str, *, timeout: float | None = None) -> str:
            if command.startswith("loadvm"):
                os.kill(machine.child.pid, signal.SIGSTOP)  # or it would be done before its death
                killed_soon(machine)
            return human(command, timeout=timeout)

        patched.setattr(machine.monitor, "human", restoring)
        load(machine, name)

    with bench.session() as session:
        bench.acquire(session).resume()
        with monkeypatch.context() as patched:
            patched.setattr(Machine, "load", loading)
            kgdb = bench.acquire(session)
        assert kgdb.run("echo fine").output == "fine\n"
    (line,) = bench.reported.lines[-1:]
    assert "could not be restored" in line
    assert bench.quarantine == []  # the snapshot was not to blame


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "blamed"), [(1, False), (2, True)])
def test_qemu_killed_while_it_starts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kills: int, blamed: bool
) -> None:
    """Once says nothing about the snapshot, which other runs are using."""
    load, left = Machine._load, kills

    def loading(machine: Machine, name: str) -> None:
        nonlocal left
        if left:
            left -= 1
            os.kill(machine.child.pid, signal.SIGKILL)
        load(machine, name)

    monkeypatch.setattr(Machine, "_load", loading)
    bench.works()
    assert left == 0
    assert bool(bench.quarantine) == blamed
    assert len(bench.entries) == 1


@pytest.mark.slow
def test_one_that_another_run_discards(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    key, make_vm = bench.files.parent.name, Session._make_vm
    discarded: list[str] = []

    def making(session: Session, *arguments: Any) -> Vm:
        if not discarded:
            discarded.append(key)
            with contextlib.closing(Cache(bench.root, progress=Silent())) as other:
                assert other.get("snapshot", key)
                other.discard("snapshot", key, "another run")
        return make_vm(session, *arguments)

    monkeypatch.setattr(Session, "_make_vm", making)
    bench.works()
    assert discarded == [key]
    assert len(bench.entries) == 1
    assert not [line for line in bench.reported.lines if "is broken" in line]


SCRIPT = """
import sys, tempfile
from pathlib import Path
from typing import Any
from pytest_kgdb.errors import KgdbError
from pytest_kgdb.plugin._artifacts import Artifacts
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import make_settings
from pytest_kgdb.cache import Cache
from pytest_kgdb.session import Session
from pytest_kgdb.session._vm import Vm
spec, main, root, temporary = sys.argv[1:]
settings = make_settings(kernel=(spec,), cache_dir=Path(main))
artifacts = Artifacts(settings, Silent())
kernel = artifacts.kernel(spec)
initrd = artifacts.initrd(kernel)
tempfile.tempdir = temporary
cache = Cache(Path(root), progress=Silent())
try:
    with Session(settings, kernel, initrd, None, cache=cache, progress=Silent()) as session:
        session.acquire(settings.for_marker({}, "the test"))
    print("it worked")
except KgdbError as error:
    print(f"{type(error).__name__}: {error}")
print("left", [info.kind for info in cache.entries()], list(Path(temporary).iterdir()))
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a path that sockets can have."""
    with tempfile.TemporaryDirectory(prefix="kf-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.mark.slow
@pytest.mark.parametrize("full", ["where the machine saves", "where it is kept"])
def test_a_full_disk(
    short: Path, kgdb_kernel: Kernel, pytestconfig: pytest.Config, full: str
) -> None:
    small, large = short / "small", short / "large"
    small.mkdir()
    large.mkdir()
    mount = f'mount -t tmpfs -o size=8m none "{small}" && exec "$@"'
    wrapper = ("unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh")
    if subprocess.run([*wrapper, "true"], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs user namespaces")
    root, temporary = (large, small) if "saves" in full else (small, large)
    done = subprocess.run(
        [
            *wrapper,
            *(sys.executable, "-c", SCRIPT, kgdb_kernel.spec),
            *map(str, (from_pytest(pytestconfig).cache_dir, root, temporary)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "No space left on device" in done.stdout, done.stdout + done.stderr
    assert "hint: make room" in done.stdout
    assert done.stdout.splitlines()[-1] == "left [] []"


PRUNER = """
import sys, time
from pathlib import Path
from typing import Any
from pytest_kgdb.cache import Cache
from pytest_kgdb.progress import Silent
cache = Cache(Path(sys.argv[1]), progress=Silent())
until = time.monotonic() + 60
print("begun", flush=True)
while time.monotonic() < until:
    cache.prune(older_than=0, max_size=0)
"""


@pytest.mark.slow
def test_two_prune_while_a_third_starts(bench: Bench) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            pruner = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", PRUNER, str(bench.root)],
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(pruner.kill)
            assert pruner.stdout is not None
            assert pruner.stdout.readline() == "begun\n"
        for _ in range(3):
            bench.works()
        assert pruner.poll() is None
    assert [line for line in bench.reported.lines if "broken" in line] == []


@pytest.mark.slow
def test_one_that_cannot_be_had(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No endless loop where every snapshot turns out to be bad."""
    monkeypatch.setattr(Cache, "examine", lambda *_: "it is bad")
    with bench.session() as session, pytest.raises(KgdbError, match="it is bad"):
        bench.acquire(session)
