"""Files into the guest and out of it: the buffer between, archives that nobody trusts."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_guest_shell import FakeShell, StopState

from pytest_kgdb.console import Result
from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.errors import ConfigError, GuestCommandError, TimeoutError
from pytest_kgdb.guest import FileTransfer
from pytest_kgdb.guest import _transfer as transfer_module
from pytest_kgdb.guest._bounce_buffer import BLOCK, BounceBuffer
from pytest_kgdb.guest._transfer import _pack, _target, _unpack

# Archives of the guest's


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    file.seek(0)
    return file


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def test_there_and_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_text("content")
    (source / "deep" / "file").chmod(0o4751)
    (source / "deep").chmod(0o500)
    (source / "link").symlink_to("deep/file")
    packed = io.BytesIO()
    _pack(source, packed)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as tar:
        assert {(info.uid, info.uname) for info in tar} == {(0, "root")}
    packed.seek(0)
    _unpack(packed, tmp_path / "target")
    target = tmp_path / "target"
    assert (target / "deep" / "file").read_text() == "content"
    assert stat.S_IMODE((target / "deep" / "file").stat().st_mode) == 0o751, "no setuid program"
    assert stat.S_IMODE((target / "deep").stat().st_mode) == 0o500
    assert (target / "link").readlink() == Path("deep/file")
    for path in (source, target):
        (path / "deep").chmod(0o700)


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "a/../../outside"])
def test_a_member_that_leads_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(GuestCommandError, match="the guest's archive has a member"):
        _unpack(archive((member(name), b"evil")), tmp_path / "target")
    assert not (tmp_path / "outside").exists()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    packed = archive(
        (member("d", tarfile.SYMTYPE, linkname=str(outside)), b""),
        (member("d/file"), b"evil"),
    )
    with contextlib.suppress(GuestCommandError, OSError):
        _unpack(packed, tmp_path / "target")
    assert list(outside.iterdir()) == []


def test_hard_links_and_devices(tmp_path: Path) -> None:
    packed = archive(
        (member("file"), b"content"),
        (member("same", tarfile.LNKTYPE, linkname="file", mode=0o644), b""),
        (member("null", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
    )
    _unpack(packed, tmp_path / "target")
    assert (tmp_path / "target" / "same").read_text() == "content"
    assert not (tmp_path / "target" / "null").exists(), "a device is left out"


def test_holes(tmp_path: Path) -> None:
    data = bytearray(512)
    # tar(5), "GNU tar archives", "Sparse files": one block of 512 bytes at the end of a terabyte.
    data[:5] = b"holes"
    data[100:108], data[108:116], data[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    data[124:136], data[136:148] = b"00000001000\0", b"00000000000\0"
    data[156:157], data[257:265] = b"S", b"ustar  \0"
    data[386:398], data[398:410] = b"17777777777\0"[:12], b"00000001000\0"
    data[483:495] = b"20000001000\0"
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data)
    archive = io.BytesIO(bytes(data) + bytes(512) + bytes(1024))
    with pytest.raises(GuestCommandError, match="has holes in 'holes'"):
        _unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out/holes").exists()


def test_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(GuestCommandError, match="cannot be unpacked"):
        _unpack(io.BytesIO(b"tar: not found\n" * 100), tmp_path / "target")


def test_where_something_goes_to() -> None:
    assert _target("/tmp/", "a b") == "t=/tmp/; [ ! -d \"$t\" ] || t='/tmp/a b'"


# The buffer


class World:
    """A guest with a shell, and memory in which the buffer's pages are."""

    def __init__(self) -> None:
        self.shell = FakeShell()
        self.control = StopState()
        self.ram = bytearray(64 * 4096)
        self.physical = self
        self.program = None
        self.shell.answers["mkdir"] = "before\nkgdb-buffer /run/pytest-kgdb-1 77 -76\nafter\n"

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.ram[address : address + size])

    def write(self, address: int, data: bytes) -> None:
        self.ram[address : address + len(data)] = data

    def buffer(self) -> BounceBuffer:
        parts: Any = self
        return BounceBuffer(parts.shell, parts.control, parts, "n=1", "then", timeout=5, hint="")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    # Pages 3 and 4 are neighbours; the third is elsewhere.
    pages = [3 * 4096, 4 * 4096, 9 * 4096]
    monkeypatch.setattr(BounceBuffer, "_pages", lambda self, count: pages[:count])
    return World()


def test_a_buffer_is_read_and_written_by_its_pages(world: World) -> None:
    with world.buffer() as buffer:
        assert (buffer.directory, buffer.output) == ("/run/pytest-kgdb-1", ("before\n", "after\n"))
        data = bytes(range(256)) * 34
        buffer.write(data)
        assert world.ram[3 * 4096 : 5 * 4096] == data[:8192]
        assert world.ram[9 * 4096 : 9 * 4096 + 512] == data[8192:]
        assert buffer.read(len(data)) == data
        assert buffer._extents(len(data)) == [(3 * 4096, 8192), (9 * 4096, 512)]
        assert buffer.read(0) == b""
    assert world.shell.commands[-1] == "kill 77 -76; rm -r /run/pytest-kgdb-1"


def test_one_that_is_removed_with_other_commands_is_removed_once(world: World) -> None:
    with world.buffer() as buffer:
        world.shell.run(f"chmod 600 file; {buffer.end()}")
    assert len([one for one in world.shell.commands if "kill 77" in one]) == 1


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (Result(66, ""), "no room for 8 MiB in any of /run /dev/shm"),
        (Result(1, "sh: can't create /etc/x: Read-only file system\n"), "^sh: can't create"),
        (Result(1, ""), "^status 1"),
        (Result(0, "nothing of it"), "^nothing of it"),
    ],
)
def test_a_guest_that_has_no_place_for_it(world: World, result: Result, message: str) -> None:
    world.shell.answers["mkdir"] = result
    with pytest.raises(GuestCommandError, match=message):
        world.buffer()
    assert "rm -rf $w" in world.shell.commands[-1], "what there is of it is removed"


def test_a_kernel_that_stopped_elsewhere_runs_no_more_commands(world: World) -> None:
    def stopped() -> Result:
        world.control.stop = SimpleNamespace(reason="breakpoint")
        raise GuestCommandError("the kernel stopped meanwhile")

    world.shell.answers["mkdir"] = stopped
    with pytest.raises(GuestCommandError, match="stopped meanwhile"):
        world.buffer()
    assert len(world.shell.commands) == 1


# Transfers


class Buffer:
    """A buffer whose contents the guest's commands are told to take."""

    directory = "/run/buffer"
    log: list[tuple[str, bytes]]

    def __init__(self, output: tuple[str, str] = ("", ""), data: bytes = b"") -> None:
        self.output = output
        self.written: list[bytes] = []
        self.data = data

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def read(self, size: int) -> bytes:
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def end(self) -> str:
        return "remove it"


class Transfer:
    def __init__(self, buffer: Buffer) -> None:
        self.shell = FakeShell()
        self.buffer = buffer
        self.stopped: list[str] = []
        parts: Any = self
        self.files = FileTransfer(parts.shell, parts, parts, WaitLimit(5))
        self.files._buffer = lambda *_, **__: buffer  # type: ignore[assignment,method-assign]

    stop: Any = None

    @contextlib.contextmanager
    def kept_stopped(self, what: str) -> Iterator[None]:
        assert what == "copying"
        self.stopped.append("stop")
        yield
        self.stopped.append("go on")


def test_a_file_goes_in_by_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_module, "_SIZE", BLOCK)
    file = tmp_path / "file"
    file.write_bytes(b"x" * (BLOCK + 5))
    file.chmod(0o640)
    transfer = Transfer(Buffer())
    transfer.files.put(file, "/tmp/target")
    assert [len(piece) for piece in transfer.buffer.written] == [BLOCK, 5]
    first, last = transfer.shell.commands
    assert f"count={BLOCK} " in first
    assert "count=5 " in last
    assert "chmod 640" in last
    assert "remove it" in last
    assert transfer.stopped == ["stop", "go on"]


def test_the_guests_refusal_names_what_was_tried(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    transfer = Transfer(Buffer())
    transfer.shell.answers["dd"] = Result(1, "dd: No space left on device\n")
    with pytest.raises(GuestCommandError) as error:
        transfer.files.put(file, "/tmp/x")
    assert error.value.message == f"put('{file}', '/tmp/x'): dd: No space left on device"
    with pytest.raises(ConfigError, match="no such file or directory on the host"):
        transfer.files.put(tmp_path / "gone", "/tmp/x")


def test_what_a_host_cannot_read_or_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    transfer = Transfer(Buffer(("640\n", "4\n"), b"abcdefg"))
    with pytest.raises(ConfigError, match="that is no file, but a pipe or a socket"):
        transfer.files.put(pipe, "/tmp/x")
    file.touch()

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refused)
        with pytest.raises(ConfigError, match=r"put\(.*: on the host: .*Permission denied: "):
            transfer.files.put(file, "/tmp/x")
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "TemporaryDirectory", refused)
        with pytest.raises(ConfigError, match=r"get\(.*: on the host: .*Permission denied"):
            transfer.files.get("/etc/file", file)


def test_no_path_is_an_option() -> None:
    assert _target("-r", "x") == 't=./-r; [ ! -d "$t" ] || t=./-r/x'


def test_a_file_comes_out_by_pieces(tmp_path: Path) -> None:
    buffer = Buffer(("640\n", "4\n"), b"abcdefg")
    transfer = Transfer(buffer)
    transfer.shell.answers["cat /run/buffer/reply"] = "3 0\n"
    target = transfer.files.get("/etc/file", tmp_path)
    assert target == tmp_path / "file"
    assert target.read_bytes() == b"abcdefg"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert transfer.shell.commands[-1] == "remove it"
    with pytest.raises(ConfigError, match="there is no directory"):
        transfer.files.get("/etc/file", tmp_path / "gone" / "x")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("cat: read error\n", "it said 'cat: read error"),
        ("0 1\ncat: x: I/O error\n", "cat: x: I/O"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, output: str, message: str) -> None:
    transfer = Transfer(Buffer(("640\n", output)))
    with pytest.raises(GuestCommandError, match=message):
        transfer.files.get("/etc/file", tmp_path / "file")
    assert list(tmp_path.iterdir()) == [], "what came half is not left there"


def test_a_stop_between_two_commands_ends_it(tmp_path: Path) -> None:
    """The next command would resume the kernel from it."""
    file = tmp_path / "file"
    file.touch()
    transfer = Transfer(Buffer())
    transfer.stop = SimpleNamespace(reason="breakpoint")
    with pytest.raises(GuestCommandError, match=r"put\(.*stopped meanwhile, .*breakpoint"):
        transfer.files.put(file, "/tmp/x")
    assert transfer.shell.commands == []


def test_all_of_a_transfer_has_one_deadline(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(TimeoutError, match=r"put\(.*it was not done in 0 s"):
        Transfer(Buffer()).files.put(file, "/tmp/x", timeout=0)
