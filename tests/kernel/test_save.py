"""Machines that are saved as files, and opened as on another host: with an empty cache."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest

from pytest_kgdb import Kgdb, KgdbError, initrd
from pytest_kgdb.cache import Cache
from pytest_kgdb.disk import Disk
from pytest_kgdb.progress import Silent
from pytest_kgdb.session import SavedSession, Session
from pytest_kgdb.session import _saved_session as saved_session
from pytest_kgdb.settings import from_pytest, make_settings

MODULES = Path(__file__).parent / "modules"


@contextlib.contextmanager
def opened(path: Path, **options) -> Iterator[Kgdb]:
    """The handle on a saved machine."""
    kernel = options.pop("kernel", None)
    with tempfile.TemporaryDirectory() as root:
        cache = Cache(Path(root), progress=Silent())
        settings = make_settings(cache_dir=root, **options)
        with SavedSession(
            path, settings, kernel=lambda: kernel, cache=cache, progress=Silent()
        ) as session:
            yield session.handle
            parts = session.kernel.image.parent
        assert not parts.exists(), "nothing of it is left here"
        cache.close()


def look(kgdb: Kgdb) -> dict[str, object]:
    """What two machines at one stop have in common."""
    frames = kgdb.stop.backtrace()
    return {
        "reason": kgdb.stop.reason,
        "message": kgdb.stop.message,
        "frames": [str(frame) for frame in frames],
        "level": kgdb.stop.frame.level,
        "arguments": {name: str(value) for name, value in kgdb.stop.frame.args.items()},
        "registers": dict(kgdb.stop.registers),
        "cpu": kgdb.stop.cpu,
        "task": kgdb.stop.task.pid,
        "log": kgdb.dmesg(),
        "jiffies": int(kgdb.evaluate("jiffies_64")),
        "source": kgdb.stop.frame.source(),
        "comm": kgdb.program["init_task"].comm.string_(),
    }


def test_a_breakpoint(kgdb, tmp_path):
    with kgdb.breakpoint("do_filp_open"):
        kgdb.type("cat /proc/version")
        kgdb.cont()
    kgdb.breakpoint("do_exit")
    before = look(kgdb)
    path = kgdb.save(tmp_path / "m.kgdb")
    assert path.stat().st_size <= 100_000_000
    assert [file.name for file in tmp_path.iterdir()] == ["m.kgdb"]
    assert look(kgdb) == before, "it changed nothing"
    assert kgdb.snapshot("after") is None
    with opened(path) as other:
        assert look(other) == before
        assert "No breakpoints" in other.execute("info breakpoints")
        assert other.finish().return_value is not None
        with other.breakpoint("vfs_read") as read:
            assert other.cont().breakpoint is read
        assert other.run("cat /proc/version", timeout=60).output.startswith("Linux version")
        # It is a whole machine, which can be saved again.
        other.run("echo more > /tmp/more")
        again = other.save(tmp_path / "again.kgdb")
    with opened(again) as third:
        assert third.run("cat /tmp/more").output == "more\n"
    assert kgdb.cont().frame.function == "do_exit"


@pytest.mark.kgdb(smp=2)
def test_the_other_cpu(kgdb, tmp_path):
    kgdb.type("taskset 2 cat /proc/version")
    with kgdb.breakpoint("vfs_open", condition="current->thread_info.cpu == 1"):
        stop = kgdb.cont()
    assert stop.cpu == 1
    before = look(kgdb)
    with opened(kgdb.save(tmp_path / "m.kgdb")) as other:
        assert look(other) == before
        assert other.per_cpu("runqueues")["cpu"] == 1
        assert other.next().cpu == 1
        assert other.run("nproc").output == "2\n"


@contextlib.contextmanager
def session_with(pytestconfig, kernel, disk=None, **changes) -> Iterator[Session]:
    """A session with other settings than this run's."""
    settings = replace(
        from_pytest(pytestconfig),
        **{
            "initrd": "busybox",
            "disk": "none",
            "boot": "kernel",
            "append": "",
            "smp": 1,
            "memory": 256,
            "origins": {"initrd": "here"},
            **changes,
        },
    )
    progress = Silent()
    cache = Cache(settings.cache_dir, progress=progress)
    ram = initrd.prepare(settings, kernel, [], cache, progress)
    with Session(settings, kernel, ram, disk, cache=cache, progress=progress) as session:
        yield session


@pytest.mark.slow
def test_qemus_stub(pytestconfig, kgdb_kernel, tmp_path):
    with session_with(pytestconfig, kgdb_kernel, stub="qemu", smp=2) as session:
        kgdb = session.acquire(session.settings.for_marker({}, "here"))
        kgdb.type("taskset 2 cat /proc/version")
        with kgdb.breakpoint("vfs_open"):
            stop = kgdb.cont()
            while stop.cpu != 1:
                stop = kgdb.cont()
        before = look(kgdb)
        path = kgdb.save(tmp_path / "m.kgdb")
    with opened(path) as other:
        assert look(other) == before
        assert other.next().cpu == 1
        assert other.run("nproc").output == "2\n"


@pytest.mark.slow
def test_a_disk(pytestconfig, kgdb_kernel, tmp_path):
    """What the guest has written comes along, and the image under it is looked for."""
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "8M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 66 0 512", image], check=True)
    disk = Disk(image, key=f"test {tmp_path}", kind="file")
    read = "dd if=/dev/vda bs=1 skip={} count=4 2>/dev/null"
    with session_with(pytestconfig, kgdb_kernel, disk, isolation="none") as session:
        kgdb = session.acquire(session.settings.for_marker({"append": "root=/dev/ram0"}, "here"))
        kgdb.run("printf more | dd of=/dev/vda bs=512 seek=1 conv=sync; sync")
        kgdb.snapshot("another")
        path = kgdb.save(tmp_path / "m.kgdb")
    with (
        pytest.raises(KgdbError, match=r"disk.qcow2 of 0 MiB.* not in the file; it is not in"),
        opened(path),
    ):
        pass
    elsewhere = tmp_path / "elsewhere.qcow2"
    image.rename(elsewhere)
    with opened(path, disk=str(elsewhere)) as other:
        assert other.run(read.format(512)).output == "more"
        other.run("echo 3 > /proc/sys/vm/drop_caches")
        assert other.run(read.format(512)).output == "more"
        assert other.run(read.format(0)).output == "BBBB"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 67 0 512", elsewhere], check=True)
    with (
        pytest.raises(KgdbError, match=r"it is not \S+elsewhere.qcow2"),
        opened(path, disk=str(elsewhere)),
    ):
        pass


def test_a_module(kgdb, tmp_path):
    """Its symbols and its source come along."""
    kgdb.modules.load(MODULES / "demo")
    with opened(kgdb.save(tmp_path / "m.kgdb")) as other:
        for command in ("info functions -n demo_", "info line demo_add", "print demo_total"):
            lines = [one.execute(command).splitlines()[-1] for one in (other, kgdb)]
            here, there = (re.sub(r"^\$\d+ = ", "", line) for line in lines)
            assert here == there
        assert "demo" in other.modules
        place = other.execute("list demo_add")
        assert "noinline int demo_add(int total, int amount)" in place


def test_a_running_kernel(kgdb, tmp_path):
    kgdb.type("while :; do cat /proc/version; done")
    kgdb.resume()
    path = kgdb.save(tmp_path / "m.kgdb")
    assert not kgdb.stopped, "it goes on"
    with opened(path) as other:
        assert other.stop.reason == "interrupt"


def test_a_panic(kgdb, tmp_path):
    """Of a task whose name is no word: the record of the stop has both in a line."""
    kgdb.expect_splat("panic")
    kgdb.type(r"printf 'a\tb' > /proc/$$/comm; echo c > /proc/sysrq-trigger")
    stop = kgdb.cont()
    assert stop.reason in ("panic", "oops")
    assert (stop.message, stop.task.comm) == ("sysrq triggered crash", "a\tb")
    before = look(kgdb)
    with opened(kgdb.save(tmp_path / "m.kgdb")) as other:
        assert look(other) == before


def test_spies_and_snapshots_stay(kgdb, tmp_path):
    spy = kgdb.spy("do_filp_open")
    kgdb.snapshot("one")
    kgdb.save(tmp_path / "m.kgdb")
    kgdb.run("cat /proc/version")
    assert len(spy.calls) > 0
    kgdb.restore("one")
    with opened(tmp_path / "m.kgdb") as other:
        assert other.run("cat /proc/version").output, "no int3 of the spy's is in its memory"


def test_a_kernel_that_is_too_large(kgdb, kgdb_kernel, tmp_path, monkeypatch):
    """Its vmlinux is left out, and is looked up by its build id."""
    monkeypatch.setattr("pytest_kgdb.session._save_machine._BYTES", 30_000_000)
    with kgdb.breakpoint("vfs_read"):
        kgdb.type("cat /proc/version")
        kgdb.cont()
    before = look(kgdb)
    path = kgdb.save(tmp_path / "m.kgdb")
    assert path.stat().st_size <= 30_000_000
    with (
        pytest.raises(
            KgdbError, match=f"no vmlinux, and no kernel with build id {kgdb_kernel.build_id}"
        ),
        opened(path),
    ):
        pass
    with opened(path, kernel=kgdb_kernel) as other:
        assert look(other) == before


@pytest.mark.slow
def test_the_artifacts_of_failed_tests(kgdb_kernel, pytestconfig, tmp_path):
    """With one whose kernel runs, and one that cannot be stopped."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_x.py").write_text(
        "def test_stopped(kgdb):\n"
        "    with kgdb.breakpoint('vfs_read'):\n"
        "        kgdb.type('cat /proc/version')\n"
        "        assert kgdb.cont() is None\n"
        "def test_runs(kgdb):\n"
        "    kgdb.resume()\n"
        "    assert kgdb.stopped\n"
        "def test_hangs(kgdb):\n"
        "    kgdb.assign('$eflags', int(kgdb.evaluate('$eflags')) & ~0x200)\n"
        "    kgdb.write(int(kgdb.evaluate('$pc')), b'\\xeb\\xfe')\n"
        "    kgdb.resume()\n"
        "    assert kgdb.stopped\n"
    )
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_x.py"),
            *("--kgdb-artifacts=out", "--kgdb-artifacts-machine"),
            f"--kgdb-kernel={kgdb_kernel.spec}",
            f"--kgdb-cache-dir={from_pytest(pytestconfig).cache_dir}",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "3 failed" in result.stdout, result.stdout
    out = tmp_path / "out/test_x.py"
    assert f"the machine: pytest-kgdb attach {out}/test_stopped/machine.kgdb" in result.stdout
    with opened(out / "test_stopped/machine.kgdb") as other:
        assert other.stop.frame.function == "vfs_read"
    with opened(out / "test_runs/machine.kgdb") as other:
        assert other.stop.reason == "interrupt"
    assert not (out / "test_hangs/machine.kgdb").exists()
    assert "did not answer a sysrq" in (out / "test_hangs/errors.txt").read_text()


def test_another_qemu(kgdb, tmp_path, monkeypatch):
    path = kgdb.save(tmp_path / "m.kgdb")
    monkeypatch.setattr(saved_session, "qemu_version", lambda program: "99.1")
    with (
        pytest.raises(KgdbError, match=r"saved by QEMU \d\S+, and this host has QEMU 99.1"),
        opened(path),
    ):
        pass


@pytest.mark.slow
@pytest.mark.kgdb(qemu_arg=["-device edu"])
def test_arguments_of_qemu_are_agreed_to(kgdb, tmp_path):
    path = kgdb.save(tmp_path / "m.kgdb")
    with (
        pytest.raises(KgdbError, match="--kgdb-qemu-arg='-device' --kgdb-qemu-arg='edu'"),
        opened(path),
    ):
        pass
    with opened(path, qemu_arg=["-device edu"]) as other:
        assert "0x11e8" in other.run("cat /sys/bus/pci/devices/*/device").output


def test_a_place_that_is_not_there(kgdb, tmp_path):
    with pytest.raises(KgdbError, match=r"could not be saved in .*no/m.kgdb: No such file"):
        kgdb.save(tmp_path / "no/m.kgdb")
    assert kgdb.run("echo fine").output == "fine\n"


def test_attach_at_the_line(kgdb, tmp_path):
    """The command, on a terminal."""
    with kgdb.breakpoint("do_filp_open"):
        kgdb.type("cat /proc/version")
        stop = kgdb.cont()
    path = kgdb.save(tmp_path / "m.kgdb")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["-m", "pytest_kgdb.cli", "attach", str(path), f"--kgdb-cache-dir={tmp_path / 'cache'}"]
    child = pexpect.spawn(
        sys.executable, words, env=environment, encoding="utf-8", timeout=60, dimensions=(50, 300)
    )
    try:
        child.expect(r"stopped: breakpoint \d+ in do_filp_open")
        child.expect(rf"#0 .*do_filp_open .*namei.c:{stop.frame.line}")
        child.expect(rf"\n{stop.frame.line}\t")
        child.sendline("finish")
        child.expect("Value returned is")
        child.send("\x1d")
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)
    assert child.exitstatus == 0
    words[-2] = str(tmp_path / "none.kgdb")
    result = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {tmp_path}/none.kgdb cannot be read")
