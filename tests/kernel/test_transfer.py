"""Files into the guest and out of it, on a real kernel: the same bytes, or an error."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from pytest_kgdb.errors import ConfigError, GuestCommandError, TimeoutError

MIB = 1 << 20
BUFFER = 8 * MIB
NOTHING = "ls: /run/pytest-kgdb-*: No such file or directory\n"


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def left_over(kgdb) -> str:
    kgdb.run("sleep 0.2")  # for init to reap
    return kgdb.run("ls -d /run/pytest-kgdb-*; ps | grep '[s]leep 1000000'").output


@pytest.mark.parametrize(
    "size", [0, 1, 4095, 4096, 4097, 65536, BUFFER - 1, BUFFER, BUFFER + 1, 10 * MIB]
)
def test_there_and_back(kgdb, tmp_path, size):
    (tmp_path / "file").write_bytes(data := noise(size))
    kgdb.put(tmp_path / "file", "/root/copy")
    assert kgdb.stopped
    assert kgdb.run("sha256sum </root/copy").output.split()[0] == sha256(data)
    assert kgdb.get("/root/copy", tmp_path / "back") == tmp_path / "back"
    assert (tmp_path / "back").read_bytes() == data
    assert left_over(kgdb) == NOTHING


def test_a_running_kernel_runs_on(kgdb, tmp_path):
    kgdb.resume()
    (tmp_path / "file").write_bytes(b"text\n")
    kgdb.put(tmp_path / "file", "/tmp/file")
    assert not kgdb.stopped
    assert kgdb.run("cat /tmp/file").output == "text\n"
    assert kgdb.get("/tmp/file", tmp_path / "back").read_bytes() == b"text\n"
    assert not kgdb.stopped


def test_modes_are_kept(kgdb, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho it runs\n")
    script.chmod(0o750)
    kgdb.put(script, "/tmp")
    assert kgdb.run("/tmp/script; stat -c %a /tmp/script").output == "it runs\n750\n"
    kgdb.run("chmod 4711 /tmp/script")
    back = kgdb.get("/tmp/script", tmp_path / "back")
    assert back.stat().st_mode & 0o7777 == 0o711  # nobody's host wants a guest's setuid


def test_into_a_directory(kgdb, tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    kgdb.put(tmp_path / "file", "/tmp")
    kgdb.put(tmp_path / "file", "/tmp/")
    assert kgdb.run("cat /tmp/file").output == "1"
    (tmp_path / "here").mkdir()
    assert kgdb.get("/tmp/file", tmp_path / "here") == tmp_path / "here/file"


def test_over_what_is_there(kgdb, tmp_path):
    kgdb.run("echo longer than that >/tmp/file; chmod 600 /tmp/file; ln /tmp/file /tmp/other")
    (tmp_path / "file").write_bytes(b"short")
    kgdb.put(tmp_path / "file", "/tmp/file")
    assert kgdb.run("cat /tmp/other").output == "short"
    (tmp_path / "back").write_bytes(b"longer than that")
    kgdb.get("/tmp/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"short"


def test_names_that_a_shell_would_misread(kgdb, tmp_path):
    name = "a 'b' \"c\" $d `e` \\f *;é"
    (tmp_path / name).write_bytes(b"odd")
    kgdb.put(tmp_path / name, "/tmp")
    assert kgdb.get(f"/tmp/{name}", tmp_path / "back").read_bytes() == b"odd"


def test_what_has_no_size(kgdb, tmp_path):
    data = kgdb.get("/proc/cpuinfo", tmp_path / "cpuinfo").read_text()
    assert data.startswith("processor\t: 0\n")
    big = kgdb.get("/proc/kallsyms", tmp_path / "kallsyms").read_text()
    assert " T start_kernel" in big or " T vprintk" in big
    assert big.count("\n") > 10000


def test_into_what_is_no_file(kgdb, tmp_path):
    (tmp_path / "value").write_text("1\n")
    kgdb.put(tmp_path / "value", "/proc/sys/kernel/panic_on_warn")
    kgdb.put(tmp_path / "value", "/dev/null")
    assert kgdb.run("[ -c /dev/null ] && stat -c %a /dev/null").output == "666\n"


def test_a_pipe_of_the_hosts_is_not_waited_for(kgdb, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no file, but a pipe or a socket"):
        kgdb.put(tmp_path / "pipe", "/tmp/x")


def test_a_path_that_looks_like_an_option(kgdb, tmp_path):
    (tmp_path / "-r").write_bytes(b"content")
    (tmp_path / "-r").chmod(0o640)
    kgdb.put(tmp_path / "-r", "-r")
    assert kgdb.run("stat -c %a ./-r").output == "640\n"
    assert kgdb.get("-r", tmp_path / "back").read_bytes() == b"content"


def test_no_process_stays_of_a_transfer(kgdb, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(noise(MIB))
    # Those of the kernel, and what init has not reaped yet, have no command line.
    count = "grep -l . /proc/[0-9]*/cmdline 2>/dev/null | wc -l"
    before = int(kgdb.run(count).output)
    kgdb.put(tmp_path / "tree", "/tmp/tree")
    kgdb.put(tmp_path / "tree/file", "/tmp/file")
    kgdb.get("/tmp/tree", tmp_path / "back")
    kgdb.get("/tmp/file", tmp_path / "file")
    with pytest.raises(GuestCommandError):
        kgdb.get("/nowhere", tmp_path / "nothing")
    kgdb.run("mkfifo /tmp/pipe")
    with pytest.raises(TimeoutError):
        kgdb.get("/tmp/pipe", tmp_path / "nothing", timeout=1)
    kgdb.run(f"until [ $({count}) -le {before} ]; do sleep 0.1; done")


def tree(top: Path) -> dict[str, object]:
    """Everything below a directory, in a form that can be compared."""
    listing: dict[str, object] = {".": oct(top.stat().st_mode & 0o777)}
    for path in sorted(top.rglob("*")):
        mode = oct(path.lstat().st_mode & 0o777)
        if path.is_symlink():
            entry: object = ("link", str(path.readlink()))
        elif path.is_dir():
            entry = ("directory", mode)
        else:
            entry = (mode, sha256(path.read_bytes()))
        listing[str(path.relative_to(top))] = entry
    return listing


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "sub/empty").mkdir(parents=True)
    (top / "sub/file").write_bytes(noise(5 * MIB, 2))
    (top / "sub/file").chmod(0o640)
    (top / "more").write_bytes(noise(6 * MIB, 3))
    (top / "nothing").touch()
    (top / "tool").write_bytes(b"#!/bin/sh\n")
    (top / "tool").chmod(0o755)
    (top / "link").symlink_to("sub/file")
    (top / "nowhere").symlink_to("/does/not/exist")
    for number in range(50):
        (top / f"sub/{number}").write_bytes(noise(number * 100, number))
    return top


def test_a_directory_there_and_back(kgdb, directory, tmp_path):
    kgdb.put(directory, "/tmp/copy")
    assert kgdb.run("stat -c '%u %g' /tmp/copy/sub/file").output == "0 0\n"
    assert kgdb.get("/tmp/copy", tmp_path / "back") == tmp_path / "back"
    assert tree(tmp_path / "back") == tree(directory)
    kgdb.put(directory, "/tmp")
    assert kgdb.run("ls -d /tmp/top/sub/empty").status == 0
    assert left_over(kgdb) == NOTHING


def test_a_read_only_directory(kgdb, tmp_path):
    kgdb.run("mkdir -p /tmp/d/e; echo x >/tmp/d/e/f; chmod 555 /tmp/d/e /tmp/d")
    kgdb.get("/tmp/d", tmp_path / "d")
    assert (tmp_path / "d/e/f").read_text() == "x\n"
    assert (tmp_path / "d/e").stat().st_mode & 0o777 == 0o555
    (tmp_path / "d").chmod(0o755)
    (tmp_path / "d/e").chmod(0o755)


class TestErrors:
    def test_no_such_file_on_the_host(self, kgdb, tmp_path):
        with pytest.raises(ConfigError, match="no such file or directory on the host"):
            kgdb.put(tmp_path / "none", "/tmp")

    def test_no_such_directory_in_the_guest(self, kgdb, tmp_path):
        (tmp_path / "file").write_bytes(b"x")
        with pytest.raises(GuestCommandError, match=r"put\(.*/no/such/place.*(nonexist|No such)"):
            kgdb.put(tmp_path / "file", "/no/such/place")
        with pytest.raises(GuestCommandError, match="No such"):
            kgdb.put(tmp_path, "/no/such/place")

    def test_no_such_file_in_the_guest(self, kgdb, tmp_path):
        with pytest.raises(GuestCommandError, match=r"get\('/no/such'.*No such file"):
            kgdb.get("/no/such", tmp_path / "x")
        assert not list(tmp_path.iterdir())

    def test_what_cannot_be_read(self, kgdb, tmp_path):
        with pytest.raises(GuestCommandError, match=r"Input/output error|I/O error"):
            kgdb.get("/proc/self/mem", tmp_path / "x")
        assert not list(tmp_path.iterdir())
        assert left_over(kgdb) == NOTHING

    def test_no_such_directory_on_the_host(self, kgdb, tmp_path):
        with pytest.raises(ConfigError, match="there is no directory"):
            kgdb.get("/etc/passwd", tmp_path / "none/passwd")

    def test_a_directory_in_the_way(self, kgdb, tmp_path):
        (tmp_path / "passwd").mkdir()
        with pytest.raises(ConfigError, match="has a directory"):
            kgdb.get("/etc/passwd", tmp_path)

    @pytest.mark.parametrize("what", ["file", "directory"])
    def test_no_room_in_the_guest(self, kgdb, tmp_path, what):
        kgdb.run("mkdir /tmp/small; mount -t tmpfs -o size=9M none /tmp/small")
        (tmp_path / "d").mkdir()
        for number in range(3):
            (tmp_path / f"d/{number}").write_bytes(noise(10 * MIB))
        source = tmp_path / "d" if what == "directory" else tmp_path / "d/0"
        with pytest.raises(GuestCommandError, match="No space left on device"):
            kgdb.put(source, "/tmp/small")
        assert left_over(kgdb) == NOTHING
        kgdb.put(tmp_path / "d/0", "/tmp/enough")

    @pytest.mark.parametrize("verb", ["put", "get"])
    def test_no_room_to_copy_by(self, kgdb, tmp_path, verb):
        kgdb.run("for d in /run /dev/shm /tmp; do mount -t tmpfs -o size=4k none $d; done")
        assert kgdb.run("mount -o remount,size=4k /dev").status == 0
        (tmp_path / "file").write_bytes(noise(100_000))
        names = {"put": (tmp_path / "file", "/file"), "get": ("/bin/busybox", tmp_path)}
        with pytest.raises(GuestCommandError, match="the guest has no room"):
            getattr(kgdb, verb)(*names[verb])

    def test_a_breakpoint_on_the_way(self, kgdb, tmp_path):
        (tmp_path / "file").write_bytes(b"x")
        with kgdb.breakpoint("do_sys_openat2"):
            with pytest.raises(GuestCommandError, match=r"put\(.*the kernel stopped meanwhile"):
                kgdb.put(tmp_path / "file", "/tmp/file")
            assert kgdb.stop.reason == "breakpoint"

    def test_no_end_in_time(self, kgdb, tmp_path):
        with pytest.raises(TimeoutError, match=r"get\('/dev/zero'"):
            kgdb.get("/dev/zero", tmp_path / "zero", timeout=2)
        assert not list(tmp_path.iterdir())
        assert left_over(kgdb) == NOTHING

    def test_what_never_comes(self, kgdb, tmp_path):
        kgdb.run("mkfifo /tmp/pipe")
        with pytest.raises(TimeoutError, match=r"get\('/tmp/pipe'"):
            kgdb.get("/tmp/pipe", tmp_path / "x", timeout=1)
        assert kgdb.run("echo there").output == "there\n"


@pytest.mark.kgdb(smp=2)
def test_on_two_processors(kgdb, tmp_path):
    (tmp_path / "file").write_bytes(data := noise(9 * MIB))
    kgdb.put(tmp_path / "file", "/tmp/copy")
    assert kgdb.get("/tmp/copy", tmp_path / "back").read_bytes() == data
