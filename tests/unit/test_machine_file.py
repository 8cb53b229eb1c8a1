"""Saved machines as files: written whole, and opened only if they are."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pytest_kgdb.arch import X86_64
from pytest_kgdb.cache import Cache
from pytest_kgdb.disk import check_untrusted
from pytest_kgdb.errors import CacheError, ConfigError, KgdbError
from pytest_kgdb.kernel import SourceArchive, StopLayout
from pytest_kgdb.progress import Silent
from pytest_kgdb.session import SavedSession, qemu_version
from pytest_kgdb.session import _saved_session as saved_session
from pytest_kgdb.session._machine_file import MachineFile, pack, write_machine_file
from pytest_kgdb.session._saved_record import FORMAT, SavedRecord
from pytest_kgdb.settings import make_settings

MEMORY = b"some memory" * 5000
OPEN = 1 << 20  # bytes of the guest's memory


def write(path: Path, record: dict[str, Any] | None = None, **parts: bytes) -> Path:
    scratch = path.with_suffix(".parts")
    scratch.mkdir(exist_ok=True)
    packed = [pack(name.replace("__", "/"), data, scratch) for name, data in parts.items()]
    write_machine_file(path, record or {}, packed)
    return path


def unpack(path: Path, target: Path) -> None:
    target.mkdir()
    with MachineFile(path) as file:
        file.unpack(target, memory_bytes=OPEN)


def rewrite(path: Path, change: Any, *, digest: bool = True) -> Path:
    """Write the same members after a change, with a hash that is right."""
    with tarfile.open(path) as archive:
        members = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    members.pop("sha256")
    members = change(members) or members
    output = io.BytesIO()
    for name, data in members.items():
        info = tarfile.TarInfo(name)
        info.size = len(data)
        output.write(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
    line = f"{hashlib.sha256(output.getvalue()).hexdigest()}\n".encode()
    info = tarfile.TarInfo("sha256")
    info.size = len(line)
    if digest:
        output.write(info.tobuf(tarfile.GNU_FORMAT) + line.ljust(512, b"\0"))
    output.write(bytes(-output.tell() % 10240 or 10240))
    other = path.with_name("other.kgdb")
    other.write_bytes(output.getvalue())
    return other


# -- the archive ----------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.kgdb", {"a": 1}, memory=MEMORY, modules__demo__file=b"x", empty=b"")
    with MachineFile(path) as file:
        assert file.record["a"] == 1
        assert file.has("memory")
        assert not file.has("vmlinux")
        assert file.names("modules") == ["modules/demo/file"]
    unpack(path, tmp_path / "parts")
    assert (tmp_path / "parts/memory").read_bytes() == MEMORY
    assert (tmp_path / "parts/modules/demo/file").read_bytes() == b"x"
    assert (tmp_path / "parts/empty").read_bytes() == b""
    assert [p.name for p in tmp_path.glob(".*")] == [], "nothing is left beside it"


def test_it_can_be_read_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path / "m.kgdb", memory=MEMORY)
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["machine.json", "memory.zst", "sha256"]
        packed = archive.extractfile("memory.zst")
        assert packed is not None
        data = zstandard.ZstdDecompressor().decompressobj().decompress(packed.read())
    assert data == MEMORY


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off(tmp_path: Path, part: float) -> None:
    path = write(tmp_path / "m.kgdb", memory=random.Random(1).randbytes(50000))
    os.truncate(path, int(path.stat().st_size * part))
    with pytest.raises((CacheError, ConfigError), match=r"damaged|not a saved machine"):
        unpack(path, tmp_path / "parts")


def test_a_file_with_another_byte_anywhere(tmp_path: Path) -> None:
    path = write(tmp_path / "m.kgdb", {"x": "y" * 100}, memory=random.Random(2).randbytes(3000))
    whole = path.read_bytes()
    for offset in range(0, len(whole), 37):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :])
        with pytest.raises((CacheError, ConfigError), match=r"damaged|not a saved machine"):
            unpack(path, tmp_path / f"parts-{offset}")


@pytest.mark.parametrize("content", [b"", b"text", bytes(20000), b"\x7fELF" + bytes(2000)])
def test_what_is_no_saved_machine(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.kgdb"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"m.kgdb is not a saved machine"):
        MachineFile(path)
    with pytest.raises(ConfigError, match="No such file"):
        MachineFile(tmp_path / "none")


@pytest.mark.parametrize("name", ["../up.zst", "/etc/up.zst", "a/../b.zst", ".up.zst", "a\nb.zst"])
def test_a_name_that_leads_elsewhere(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "m.kgdb", memory=MEMORY)
    with pytest.raises(CacheError, match="no place for"):
        MachineFile(rewrite(path, lambda members: {**members, name: b""}))


def test_members_that_are_no_files(tmp_path: Path) -> None:
    path = write(tmp_path / "m.kgdb", memory=MEMORY)
    data = bytearray(path.read_bytes())
    second = data.index(b"memory.zst")
    info = tarfile.TarInfo.frombuf(bytes(data[second : second + 512]), "ascii", "strict")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    data[second : second + 512] = info.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(data)
    with pytest.raises(CacheError, match=r"no place for 'memory.zst'"):
        MachineFile(path)


def test_a_part_that_grows(tmp_path: Path) -> None:
    """Kilobytes that stand for gigabytes."""
    path = write(tmp_path / "m.kgdb", memory=bytes(OPEN))
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    grown = rewrite(path, lambda members: {**members, "memory.zst": bomb})
    with pytest.raises(CacheError, match=f"memory has more than {OPEN} bytes"):
        unpack(grown, tmp_path / "parts")
    assert (tmp_path / "parts/memory").stat().st_size <= OPEN

    def honest(members: dict[str, bytes]) -> dict[str, bytes]:
        record = {**json.loads(members["machine.json"]), "sizes": {"memory": 64 << 20}}
        return {**members, "memory.zst": bomb, "machine.json": json.dumps(record).encode()}

    with pytest.raises(CacheError, match="memory would have 64 MiB"):
        unpack(rewrite(path, honest), tmp_path / "parts-2")


def test_parts_that_are_not_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "m.kgdb", memory=MEMORY)
    with pytest.raises(CacheError, match=r"its parts are not those of machine.json"):
        MachineFile(rewrite(path, lambda members: {**members, "vmlinux.zst": b""}))
    with pytest.raises(CacheError, match="ends too early"):
        MachineFile(rewrite(path, lambda members: members, digest=False))


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(KgdbError, match="No such file or directory"):
        write_machine_file(tmp_path / "no/m.kgdb", {}, [])


# -- machine.json ---------------------------------------------------------------------------------

PATCHED: dict[str, Any] = {
    "text": 0xFFFF_FFFF_8100_0000,
    "text_end": 0xFFFF_FFFF_8180_0000,
    "tables": [{"start": 1, "end": 33, "stride": 16, "module_start": 8, "module_count": 16}],
    "modules": 3,
    "module_list": 8,
}
LAYOUT = StopLayout(current_task=1, task_mm=2, task_pid=3, task_comm=4, mm_pgd=5).dump()

RECORD: dict[str, Any] = {
    "format": FORMAT,
    "saved": "2026-11-28 12:00:00 UTC",
    "where": "breakpoint 1 in vfs_read at fs/read_write.c:450",
    "qemu": "7.2.22",
    "cpu": "",
    "arch": "x86",
    "smp": 2,
    "memory": 256,
    "append": "quiet",
    "qemu_arg": [],
    "accel": "tcg",
    "root": "/dev/vda",
    "stub": "kgdb",
    "forwards": ["tcp:22"],
    "has_image": True,
    "disk": None,
    "kernel": {
        "spec": "distro:6.1",
        "name": "distro:6.1",
        "release": "6.1.192",
        "build_id": "ab12",
        "compiler": "gcc",
        "debug_source": "/src/linux",
        "source_prefixes": [],
        "layout": None,
    },
    "reason": "breakpoint",
    "stop_reply": "T05thread:01;",
    "pci": None,
    "modules": {"demo": "demo.ko"},
    "missing": [],
}


def _with_tables(*tables: Any) -> list[dict[str, Any]]:
    return [{**PATCHED, "tables": table} for table in tables]


def load(**changes: Any) -> SavedRecord:
    return SavedRecord.load({**RECORD, **changes}, CacheError)


@pytest.mark.parametrize("layout", [None, LAYOUT, {**LAYOUT, "patched": PATCHED}])
def test_a_record_is_what_it_was(layout: dict[str, Any] | None) -> None:
    kernel = {**RECORD["kernel"], "debug_source": "/home/josé/linux", "layout": layout}
    record = load(message="BUG: kernel NULL pointer dereference", kernel=kernel)
    assert record.message == "BUG: kernel NULL pointer dereference"
    assert load().message == "", "of an older file"
    assert record.kernel.debug_source == "/home/josé/linux"
    assert StopLayout.load(record.kernel.layout) == StopLayout.load(layout)
    assert SavedRecord.load(json.loads(json.dumps(record.dump())), CacheError) == record
    spec = record.machine(image=Path("/image"), disk=None)
    assert (spec.smp, spec.memory, spec.append, spec.arch) == (2, 256, "quiet", X86_64)
    assert spec.forwards == ("tcp:127.0.0.1:0-:22",)


@pytest.mark.parametrize(
    "changes",
    [
        {"smp": 0},
        {"smp": True},
        {"smp": "2"},
        {"memory": 1 << 40},
        {"arch": "../x86"},
        {"accel": "tcg,thread=multi"},
        {"stub": "gdbserver"},
        {"root": "a\nb"},
        {"qemu": "7.2 --evil"},
        {"forwards": ["tcp:22,guestfwd=tcp:10.0.2.9:1-cmd:id"]},
        {"qemu_arg": "-s"},
        {"reason": "shell"},
        {"where": "turned \u202e round"},
        {"message": "an\x1bescape"},
        {"has_image": 1},
        {"stop_reply": "T05thread:01;$OK#9a"},
        {"stop_reply": "O4141"},
        {"pci": {"02.0": [1]}},
        {"pci": {"zz": [0] * 64}},
        {"modules": {"../demo": "demo.ko"}},
        {"modules": {"demo": "../demo.ko"}},
        {"disk": {"name": "disk.qcow2", "size": -1, "sha256": "00"}},
        {"kernel": None},
        {"kernel": {**RECORD["kernel"], "debug_source": '/x"\nshell id'}},
        {"kernel": {**RECORD["kernel"], "source_prefixes": ["relative"]}},
        {"kernel": {**RECORD["kernel"], "layout": {"kgdb_active": 1}}},
        {"kernel": {**RECORD["kernel"], "layout": {"kgdb_active": "x"}}},
        *(
            {"kernel": {**RECORD["kernel"], "layout": {**LAYOUT, "patched": patched}}}
            for patched in (
                *(1, [], {}, {**PATCHED, "text": "x"}, {**PATCHED, "more": 1}),
                *_with_tables(None, 1, {"start": 1}, [1], [{}]),
                {**PATCHED, "tables": PATCHED["tables"] * 100},
            )
        ),
    ],
)
def test_values_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(CacheError, match=r"machine.json: \w+ cannot be|nothing of the kernel"):
        load(**changes)
    without = {name: value for name, value in RECORD.items() if name not in changes}
    if None not in changes.values() and not changes.keys() & {"disk", "pci", "message"}:
        with pytest.raises(CacheError):
            SavedRecord.load(without, CacheError)


# -- what is refused before anything is started ---------------------------------------------------


def opened(path: Path, tmp_path: Path, **options: Any) -> None:
    cache = Cache(tmp_path / "cache", progress=Silent())
    with SavedSession(
        path, make_settings(**options), kernel=lambda: None, cache=cache, progress=Silent()
    ):
        pytest.fail("it was opened")


def saved(tmp_path: Path, **changes: Any) -> Path:
    here = qemu_version("qemu-system-x86_64")
    record = {**RECORD, "qemu": here, "modules": {}, "has_image": False, **changes}
    return write(
        tmp_path / "m.kgdb",
        record,
        memory=MEMORY,
        **{"storage.qcow2": b"QFI\xfb", "console.log": b"", "config": b""},
    )


@pytest.fixture
def unstarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_session, "Launch", None)


@pytest.mark.usefixtures("unstarted")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qemu": "8.1.0"}, r"was saved by QEMU 8.1.0, and this host has QEMU \d"),
        ({"format": FORMAT + 1}, f"is of format {FORMAT + 1}; this pytest-kgdb reads up to"),
        ({"accel": "kvm", "cpu": "Other CPU"}, "was saved under KVM on 'Other CPU'"),
        ({"qemu_arg": ["-device", "edu"]}, r"--kgdb-qemu-arg='-device' --kgdb-qemu-arg='edu'"),
        ({"modules": {"demo": "demo.ko"}}, "it has no modules/demo/demo.ko"),
        ({}, "it is no qcow2 image"),
    ],
)
def test_a_machine_that_is_not_for_this_host(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, CacheError), match=message):
        opened(saved(tmp_path, **changes), tmp_path)


def test_qemu_arguments_that_the_user_agrees_with(tmp_path: Path) -> None:
    path = saved(tmp_path, qemu_arg=["-device", "edu"])
    with pytest.raises(CacheError, match="qcow2"):  # which comes next
        opened(path, tmp_path, qemu_arg=("-device edu",))


# -- its image and its sources --------------------------------------------------------------------


def qcow2(version: int = 3, backing: int = 0, encryption: int = 0, features: int = 0) -> bytes:
    return struct.pack(
        ">4sIQIIQIIQQIIQQ",
        *(b"QFI\xfb", version, backing, 4, 16, 1 << 20, encryption),
        *(1, 0, 0, 1, 0, 0, features),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no qcow2"),
        (b"\0" * 200, "no qcow2"),
        (qcow2(version=2), "version 2"),
        (qcow2(backing=104), "needs another file"),
        (qcow2(encryption=2), "needs another file"),
        (qcow2(features=4), "needs another file"),  # an external data file
    ],
)
def test_an_image_that_names_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "storage.qcow2"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        check_untrusted(path)
    path.write_bytes(qcow2())
    check_untrusted(path)


@pytest.mark.parametrize(
    "name", ["../evil.c", "a/../../evil.c", "/../evil.c", 'a".c', "a\nb.c", "a\\b.c", "a$b.c"]
)
def test_a_source_file_that_leads_elsewhere(tmp_path: Path, name: str) -> None:
    SourceArchive.write({"fs/namei.c": b"int x;", "/abs/a b.h": b"", name: b"evil"}, tmp_path)
    with pytest.raises(ValueError, match="no name of a source file"):
        SourceArchive.check(tmp_path)
    SourceArchive.write({"fs/namei.c": b"int x;", "/abs/a b.h": b""}, tmp_path)
    SourceArchive.check(tmp_path)
    archive = SourceArchive(tmp_path, "it", tmp_path / "src")
    archive.unpack_only(["fs/namei.c", "fs/none.c"])
    assert (tmp_path / "src/fs/namei.c").read_bytes() == b"int x;"
    assert not (tmp_path / "src/abs").exists()
    archive.unpack()
    assert (tmp_path / "src/abs/a b.h").exists()


def test_a_source_file_that_is_elsewhere_in_the_archive(tmp_path: Path) -> None:
    SourceArchive.write({"a.c": b"int x;"}, tmp_path)
    index = json.loads((tmp_path / "sources.json").read_text())
    index["files"]["a.c"][1] = -5
    (tmp_path / "sources.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="is nowhere"):
        SourceArchive.check(tmp_path)
