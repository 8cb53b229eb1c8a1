"""What of the handle works on a board, and what is refused: more of it than docs/doors.md has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boards import Open, Started, starting

from pytest_kgdb.errors import ConfigError, KgdbError, SplatError
from pytest_kgdb.handle import Kgdb
from pytest_kgdb.report import ACTIONS
from pytest_kgdb.session import BoardSession
from pytest_kgdb.session._report import CONSOLE, WHERE

DRIVERS = Path(__file__).parents[2] / "example_suite/drivers"
WARNED = Path(__file__).parent / "modules/warned"


@pytest.fixture(scope="module")
def machine(
    kgdb_kernel: Any, kgdb_initrd: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    with starting(tmp_path_factory.mktemp("board"), kgdb_kernel, kgdb_initrd) as machine:
        yield machine


@pytest.fixture(scope="module")
def session(machine: Started, open_sessions: Open) -> BoardSession:
    return open_sessions(machine)


@pytest.fixture
def board(session: BoardSession) -> Iterator[Kgdb]:
    yield session.acquire(session.settings.for_marker({}, "a test"))
    session.check_splats()


@pytest.mark.short
def test_run_control(board: Kgdb) -> None:
    board.breakpoint("do_sys_openat2", temporary=True)
    board.type("cat /proc/uptime")
    line = board.cont().frame.line
    stop = board.next()
    assert (stop.reason, stop.frame.function) == ("step", "do_sys_openat2")
    assert stop.frame.line != line
    stop = board.until("do_filp_open")
    assert stop.frame.function == "do_filp_open"
    assert board.stepi().reason == "step"
    assert board.step().reason == "step"
    stop = board.finish()
    assert (stop.reason, stop.frame.function) == ("finished", "do_sys_openat2")
    board.resume()
    assert board.interrupt().reason == "interrupt"


@pytest.mark.short
def test_a_caller_that_is_noinstr_code(board: Kgdb) -> None:
    board.breakpoint("__x64_sys_openat", temporary=True)
    board.type("cat /proc/uptime")
    board.cont()
    with pytest.raises(KgdbError, match="kgdb takes no breakpoint where gdb needs one"):
        board.finish()  # to do_syscall_64
    assert board.stopped
    assert board.evaluate("init_task.pid") == 0


@pytest.mark.short
def test_hardware_is_refused(board: Kgdb) -> None:
    with pytest.raises(KgdbError, match=r"no watchpoint on jiffies_64: .*they never fire"):
        board.watchpoint("jiffies_64")
    with pytest.raises(KgdbError, match=r"no hardware breakpoint at .*they never fire"):
        board.breakpoint("do_sys_openat2", hardware=True)
    with pytest.raises(KgdbError, match="they never fire"):
        board.execute("watch init_task.pid")
    board.delete_breakpoints()
    assert board.run("echo alive").output == "alive\n"


@pytest.mark.short
def test_data(board: Kgdb) -> None:
    board.assign("panic_on_oops", 1)
    assert board.run("cat /proc/sys/kernel/panic_on_oops").output == "1\n"
    board.assign("panic_on_oops", 0)
    address = board.evaluate("&init_task.comm").address or int(board.evaluate("&init_task.comm"))
    assert board.read(address, 9) == b"swapper/0"
    board.write(address, b"swopper/0")
    assert board.evaluate("init_task.comm").string() == "swopper/0"
    board.write(address, b"swapper/0")
    with pytest.raises(KgdbError, match="not mapped"):
        board.write(0xFFFFFFFFC0F00000, b"x")
    with pytest.raises(KgdbError):
        board.read(0xFFFFFFFFC0F00000, 4)


@pytest.mark.short
def test_a_programs_memory(board: Kgdb) -> None:
    with board.breakpoint("do_sys_openat2"):
        board.type("cat /proc/uptime")
        stop = board.cont()
        while stop.frame.args["filename"].string() != "/proc/uptime":
            stop = board.cont()
        address = int(stop.frame.args["filename"])
        assert board.read(address, 13) == b"/proc/uptime\0"
        assert board.read_user(stop.task.pid, address, 5) == b"/proc"
        board.write(address + 6, b"upt")
        assert board.read(address, 13) == b"/proc/uptime\0"


@pytest.mark.short
def test_instruments(board: Kgdb) -> None:
    with board.spy("do_sys_openat2", returns=True) as opens:
        board.run("cat /proc/version /no/such/file")
    names = [call.args["filename"].string() for call in opens.calls]
    assert "/no/such/file" in names
    assert [call.return_value for call in opens.calls].count(-2) >= 1
    assert all(call.task.pid > 1 for call in opens.calls)
    with board.override("getname_flags", "-ENOMEM", times=1) as names_override:
        result = board.run("cat /proc/version")
    assert names_override.forced == 1
    assert "Cannot allocate memory" in result.output
    assert board.run("cat /proc/version").status == 0


@pytest.mark.short
def test_drgn(board: Kgdb) -> None:
    from drgn.helpers.linux.pid import for_each_task

    pids = {task.pid.value_() for task in for_each_task(board.program)}
    assert {1, 2} <= pids
    assert board.program["init_task"].comm.string_() == b"swapper/0"
    assert any("schedule" in str(frame) for frame in board.stack_trace(1))


def test_dmesg(board: Kgdb) -> None:
    lines = board.dmesg().splitlines()
    assert "Linux version" in lines[0]
    assert lines[0].startswith("[    0.000000]")


@pytest.mark.short
def test_physical_memory(board: Kgdb) -> None:
    address = int(board.evaluate("&init_task.comm"))
    physical = board.physical.virt_to_phys(address)
    assert board.physical.read(physical, 9) == b"swapper/0"
    board.physical.write(physical, b"swupper/0")
    assert board.read(address, 9) == b"swupper/0"
    board.physical.write(physical, b"swapper/0")
    assert board.physical.phys_to_virt(0x1000) & 0xFFF == 0
    with pytest.raises(KgdbError, match="cannot look for"):
        board.physical.find(b"x")


def test_files(board: Kgdb, tmp_path: Path) -> None:
    data = bytes(range(256)) * 8
    (tmp_path / "file").write_bytes(data)
    board.put(tmp_path / "file", "/tmp/file")
    assert board.run("wc -c </tmp/file").output.strip() == str(len(data))
    assert board.get("/tmp/file", tmp_path / "back").read_bytes() == data


def test_modules(board: Kgdb) -> None:
    board.modules.load_stopped(DRIVERS / "keyhole/keyhole_fixed.ko")
    board.breakpoint("misc_register", temporary=True)
    names = [frame.function for frame in board.cont().backtrace()]
    assert "keyhole_init" in names
    board.resume()
    board.interrupt()
    assert board.evaluate("keyhole").is_pointer
    board.run("rmmod keyhole_fixed")


def test_splats(board: Kgdb, session: BoardSession) -> None:
    with board.expect_splat("warned_init", "WARN"):
        board.modules.load(WARNED, what=1)
    (splat,) = board.splats
    assert (splat.kind, splat.source) == ("WARN", "ring")
    board.run("rmmod warned")
    board.modules.load(WARNED, what=1)
    with pytest.raises(SplatError, match="the test did not expect: WARNING"):
        session.check_splats()
    board.resume()  # from the console, then
    assert [splat.kind for splat in board.splats] == ["WARN", "WARN"]
    board.interrupt()
    board.run("rmmod warned")


def test_an_oops_is_a_stop(board: Kgdb) -> None:
    board.modules.load_stopped(WARNED, what=2)
    stop = board.cont()
    assert stop.reason == "oops"
    assert stop.message is not None
    assert "NULL pointer" in stop.message
    assert stop.frame.function == "warned_null"


@pytest.mark.short
def test_what_needs_snapshots_is_refused(board: Kgdb) -> None:
    with pytest.raises(KgdbError, match=r"snapshot\('here'\): a board cannot be saved"):
        board.snapshot("here")
    with pytest.raises(KgdbError, match="there is no snapshot 'here'"):
        board.restore("here")
    with pytest.raises(KgdbError, match="a board cannot be saved"):
        board.fail_each("getname_flags", "cat /proc/version")


@pytest.mark.short
def test_a_wait_that_runs_out(board: Kgdb) -> None:
    board.resume()
    with pytest.raises(KgdbError, match="what the kernel does") as error:
        board.wait(timeout=0.5)
    assert "a board's memory can be read while its kernel is stopped only" in str(error.value)
    board.interrupt()


@pytest.mark.short
def test_what_a_failure_shows(board: Kgdb, session: BoardSession, tmp_path: Path) -> None:
    board.run("echo shown")
    board.breakpoint("do_sys_openat2", temporary=True)
    board.type("cat /proc/uptime")
    board.cont()
    parts = {section.title: section.text for section in session.report_sections()}
    assert re.match(r"breakpoint \d+ in do_sys_openat2 at fs/open.c:", parts[WHERE])
    assert "#0 do_sys_openat2 at fs/open.c:" in parts[WHERE]
    assert "shown" in parts[CONSOLE].splitlines()
    assert "type cat /proc/uptime" in parts[ACTIONS]
    story = session.story()
    assert [action["text"] for action in story["actions"]][:4] == [
        "run echo shown",
        "breakpoint do_sys_openat2, temporary=True",
        "type cat /proc/uptime",
        "cont",
    ]
    assert any(action["function"] == "do_sys_openat2" for action in story["actions"])
    assert any(text.endswith("shown") for _, text in story["console"])
    session.save_artifacts(tmp_path, dump=False, machine=False)
    assert {path.name for path in tmp_path.iterdir()} == {"console-times.txt", "kernel.config"}
    assert "shown\n" in (tmp_path / "console-times.txt").read_text()


@pytest.mark.short
def test_a_dump_is_refused(board: Kgdb, tmp_path: Path) -> None:
    with pytest.raises(KgdbError, match="a dump needs the file of the guest's RAM"):
        board.dump(tmp_path / "vmcore")
    assert not list(tmp_path.iterdir())


@pytest.mark.short
def test_ssh_is_refused(board: Kgdb) -> None:
    assert board.forwards == ()
    with pytest.raises(ConfigError, match="ssh"):
        board.ssh("true")
