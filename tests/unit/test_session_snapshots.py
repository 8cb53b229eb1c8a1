"""Snapshots: the order in which a machine is saved and restored, and what there is of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.errors import CacheError, KgdbError, MachineDied
from pytest_kgdb.handle._snapshots import SnapshotsOfTest
from pytest_kgdb.session._snapshot import Snapshot
from pytest_kgdb.session._snapshot_store import SnapshotStore

PCI = {"02.0": [0x11E81234, 0x10] + [0] * 62}


class FakeShell:
    is_there = True

    def set(self, is_there: bool) -> None:
        self.is_there = is_there


class World:
    """A machine, its relay and its handle, which write down what they are asked for."""

    def __init__(self, *, edu: bool = False) -> None:
        self.events: list[str] = []
        self.typed: list[bytes] = []
        self.alive = True
        self.stop_reply = b"T05thread:1;"
        self.loads = True
        self.gdb_serves_another_test = True
        self.waits = WaitLimit(7.0)
        self.spec = SimpleNamespace(qemu_arg=("-device edu",) if edu else ())
        self.monitor = SimpleNamespace(human=self.human)
        self.vcpus = SimpleNamespace(stop=lambda seconds: self.note(f"pause vcpus {seconds:g}"))
        self.console = SimpleNamespace(
            disconnect=lambda: self.note("disconnect console"),
            reconnect=lambda: self.note("reconnect console"),
            input=SimpleNamespace(kept=b"", keep=lambda data: self.typed.append(data)),
        )
        self.settles = True
        self.shell: Any = FakeShell()
        self.run_control = SimpleNamespace(
            record_again=lambda stop: self.note(f"at {stop}"), gdb_is_stopped=lambda: False
        )
        parts: Any = self
        self.store = SnapshotStore(
            parts,
            parts,
            parts,
            waits=self.waits,
            on_reconnect=lambda: self.note("on reconnect"),
            saved={"kgdbwait": b"S05"},
            connect_gdb=lambda: self.note("connect gdb"),
            shell=self.shell,
            pci={},
        )

    def note(self, what: str) -> None:
        self.events.append(what)

    # The machine

    def save(self, name: str) -> None:
        self.note(f"save {name}")

    def load(self, name: str) -> None:
        if not self.loads:
            raise MachineDied("QEMU ended")
        self.note(f"load {name}")

    def drop(self, name: str) -> None:
        self.note(f"drop {name}")

    def human(self, command: str) -> str:
        return "portl[0xcfc] = 0xffffffff"

    # The relay

    def let_go_of_gdb(self) -> None:
        self.note("let go of gdb")

    def detach(self, gdb_stopped: Any, *, keeps_gdb: bool) -> bool:
        assert gdb_stopped() is False
        self.note("detach, keep gdb" if keeps_gdb else "detach")
        return self.settles

    def reattach(self, stop_reply: bytes, *, paused: bool = False) -> None:
        assert paused
        self.note(f"reattach {stop_reply.decode()}")

    @contextlib.contextmanager
    def quiesced(self, timeout: float) -> Iterator[None]:
        self.note(f"quiesced {timeout:g}")
        yield
        self.note("as before")

    # The handle

    def require(self) -> Any:
        return self

    @contextlib.contextmanager
    def replacing_gdb(self, reason: str, connect: Any) -> Iterator[None]:
        self.note(f"{reason}, another gdb")
        yield
        connect()

    @contextlib.contextmanager
    def restoring(self, reason: str, *, keep_breakpoints: bool) -> Iterator[None]:
        self.note(f"{reason}, {'keep' if keep_breakpoints else 'delete'} breakpoints")
        yield
        self.note("restored")


@pytest.fixture
def world() -> World:
    return World()


def restored(name: str, reply: str) -> list[str]:
    return [
        "pause vcpus 7",
        "disconnect console",
        f"load {name}",
        "reconnect console",
        "on reconnect",
        f"reattach {reply}",
        "restored",
    ]


def test_the_sessions_own(world: World) -> None:
    world.store.save("ready")
    assert world.events == ["quiesced 7", "save ready", "as before"], "nothing of gdb's is saved"
    assert world.store.saved == {"kgdbwait": b"S05", "ready": world.stop_reply}
    del world.events[:]
    world.store.restore("ready", "interrupt")
    assert world.events == [
        "detach",
        "interrupt, delete breakpoints",
        *restored("ready", "T05thread:1;"),
    ]
    assert world.store.current == "ready"


def test_a_tests_own(world: World) -> None:
    stop: Any = SimpleNamespace(reason="breakpoint")
    world.store.save_named("ready", stop)
    assert world.events == ["quiesced 7", "save test-ready", "as before"]
    assert world.store.names == ["ready"]
    assert "ready" not in world.store.saved, "it is none of the session's"
    world.stop_reply = b"another"
    del world.events[:]
    world.store.restore_named("ready")
    assert world.events == [
        "detach, keep gdb",
        "breakpoint, keep breakpoints",
        *restored("test-ready", "T05thread:1;"),
        f"at {stop}",
    ]
    assert world.store.current is None


def test_what_was_typed_and_waits(world: World) -> None:
    stop: Any = SimpleNamespace(reason="breakpoint")
    world.console.input.kept = b"cat /proc/version\n"
    world.store.save_named("typed", stop)
    world.console.input.kept = b""
    world.store.save_named("read", stop)
    for name in ("typed", "read", "typed"):
        world.store.restore_named(name)
    assert world.typed == [b"cat /proc/version\n", b"", b"cat /proc/version\n"]


def test_whether_there_is_a_shell(world: World) -> None:
    stop: Any = SimpleNamespace(reason="breakpoint")
    world.store.restore("kgdbwait", "int3")
    assert not world.shell.is_there
    world.store.save_named("early", stop)
    world.store.save("ready")
    world.store.restore("ready", "interrupt")
    assert world.shell.is_there
    world.store.save_named("late", stop)
    for name in ("early", "late", "early"):
        world.store.restore_named(name)
        assert world.shell.is_there == (name == "late")


def test_another_gdb_after_a_test_that_left_none_for_another(world: World) -> None:
    world.gdb_serves_another_test = False
    world.store.save("ready")
    world.store.save_named("its own", SimpleNamespace(reason="breakpoint"))  # type: ignore[arg-type]
    del world.events[:]
    world.store.restore_named("its own")
    assert "breakpoint, keep breakpoints" in world.events
    assert "connect gdb" not in world.events, "a test keeps what it did"
    del world.events[:]
    world.store.restore("ready", "interrupt")
    assert world.events[:3] == ["let go of gdb", "detach", "interrupt, another gdb"]
    assert world.events[-2:] == ["reattach T05thread:1;", "connect gdb"]


def test_a_gdb_that_steps_for_ever(world: World) -> None:
    """It would die of the stop of the restored kernel, if that is of another thread."""
    world.settles = False
    world.store.save("ready")
    world.store.save_named("its own", SimpleNamespace(reason="breakpoint"))  # type: ignore[arg-type]
    del world.events[:]
    world.store.restore_named("its own")
    assert world.events[:2] == ["detach, keep gdb", "breakpoint, keep breakpoints"], (
        "a test keeps it"
    )
    del world.events[:]
    world.store.restore("ready", "interrupt")
    assert world.events[:3] == ["detach", "let go of gdb", "interrupt, another gdb"]


def test_the_next_test_does_not_find_them(world: World) -> None:
    stop: Any = SimpleNamespace(reason="breakpoint")
    for name in ("a", "b", "a"):
        world.store.save_named(name, stop)
    assert world.store.names == ["a", "b"]
    del world.events[:]
    world.store.drop_named()
    assert world.events == ["drop test-b", "drop test-a"]
    assert world.store.names == []
    world.store.save_named("c", stop)
    world.alive = False
    world.store.drop_named()
    assert "drop test-c" not in world.events, "they end with QEMU"


def test_a_restore_that_fails(world: World) -> None:
    world.loads = False
    with pytest.raises(MachineDied):
        world.store.restore("kgdbwait", "int3")
    assert world.events[-1] == "disconnect console"
    assert world.store.current is None


def test_devices_that_qemu_does_not_save() -> None:
    world = World(edu=True)
    world.store.save("ready")
    assert world.store.pci == {"ready": {}}
    world.store.pci["ready"] = PCI
    lines: list[str] = []
    world.store._pci._human = lambda line: lines.append(line) or "= 0xffffffff"  # type: ignore[union-attr]
    world.store.restore("ready", "interrupt")
    assert lines, "they are written to when the machine is loaded"
    assert world.events[-4:] == [
        "reconnect console", "on reconnect", "reattach T05thread:1;", "restored",
    ]  # fmt: skip


# In files


def test_a_snapshot_in_the_cache(tmp_path: Path) -> None:
    source, entry = tmp_path / "run", tmp_path / "entry"
    source.mkdir()
    entry.mkdir()
    for name in ("storage", "kgdbwait", "ready", "console"):
        (source / name).write_text(f"the {name}")
    snapshot = Snapshot(
        source / "storage",
        {"kgdbwait": source / "kgdbwait", "ready": source / "ready"},
        source / "console",
        {"kgdbwait": b"S05", "ready": b"T05thread:1;"},
        {"ready": PCI},
    )
    snapshot.put_into(entry)
    read = Snapshot.from_entry(entry)
    assert read.storage.read_text() == "the storage"
    assert read.console.read_text() == "the console"
    assert {name: path.read_text() for name, path in read.memory.items()} == {
        "kgdbwait": "the kgdbwait",
        "ready": "the ready",
    }
    assert (read.stop_replies, read.pci) == (snapshot.stop_replies, snapshot.pci)


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", '{"stop_replies": 3}', '{"stop_replies": {"a": 1}}']
)
def test_one_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "snapshot.json").write_text(text)
    with pytest.raises(CacheError, match="cannot be read"):
        Snapshot.from_entry(tmp_path)


# What a test asks for


class Store:
    def __init__(self) -> None:
        self.names = ["first"]
        self.calls: list[str] = []

    def save_named(self, name: str, stop: object) -> None:
        self.calls.append(f"save {name} at {stop}")

    def restore_named(self, name: str) -> None:
        self.calls.append(f"restore {name}")


@pytest.fixture
def snapshots() -> SnapshotsOfTest:
    store: Any = Store()

    @contextlib.contextmanager
    def around(name: str) -> Iterator[None]:
        store.calls.append(f"{name} begins")
        yield
        store.calls.append(f"{name} ends")

    control: Any = SimpleNamespace(kept_stopped=lambda: around("stopped"), stop="a stop")
    splats: Any = SimpleNamespace(restoring=lambda: around("splats"))
    causes: Any = SimpleNamespace(named=contextlib.nullcontext)
    return SnapshotsOfTest(store, control, splats, causes)


def test_a_snapshot_is_of_a_stopped_kernel(snapshots: SnapshotsOfTest) -> None:
    snapshots.take("mine")
    store: Any = snapshots._store
    assert store.calls == ["stopped begins", "save mine at a stop", "stopped ends"]


@pytest.mark.parametrize("name", ["", "a b", "-a", "x" * 101, "a/b", "a\n"])
def test_what_cannot_name_one(snapshots: SnapshotsOfTest, name: str) -> None:
    with pytest.raises(KgdbError, match="cannot name a snapshot"):
        snapshots.take(name)


def test_splats_are_judged_before_a_restore(snapshots: SnapshotsOfTest) -> None:
    snapshots.restore("first")
    store: Any = snapshots._store
    assert store.calls == ["splats begins", "restore first", "splats ends"]
    with pytest.raises(KgdbError, match="there is no snapshot 'other' of this test") as error:
        snapshots.restore("other")
    assert error.value.hint == "there are first"
    store.names = []
    with pytest.raises(KgdbError) as error:
        snapshots.restore("other")
    assert error.value.hint == "snapshot('other') makes one"
