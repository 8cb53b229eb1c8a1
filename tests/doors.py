"""What the handle can through each stub, and on a board: docs/doors.md, which is held to this.

Each row has a use of its names, which tests/kernel/test_doors.py has on the stub that gdb is
attached to, and tests/board/test_doors.py on a board.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_kgdb.errors import KgdbError

DOORS: Final = ("kgdb", "qemu", "board")
"""kgdb and QEMU's stub of a machine in QEMU, and kgdb of a board: the columns."""

KEYHOLE: Final = Path(__file__).parents[1] / "example_suite/drivers/keyhole/keyhole_fixed.ko"
WARNED: Final = Path(__file__).parent / "board/modules/warned"
IMAGE_END: Final = 0xFFFFFFFFC0000000
"""Behind the kernel's image, where modules are (Documentation/arch/x86/x86_64/mm.rst)."""


@dataclass(frozen=True)
class Row:
    """Names of the handle, and what comes of their use.

    A cell is `yes`, perhaps with a note behind a colon; `refused` with words of the error; or
    `with` an option, which the error names.
    """

    names: str
    """As the first cell has them; those of another class than the handle's with the class."""

    use: Callable[[Any, Path], object]
    """Uses them, given the handle and a directory; the kernel is stopped, and is afterwards."""

    kgdb: str = "yes"
    qemu: str = "yes"
    board: str = "yes"

    def cells(self) -> list[str]:
        """The row as it is in the table."""
        return [self.names, *(getattr(self, door) for door in DOORS)]

    def check(self, handle: Any, door: str, directory: Path) -> None:
        """Use the names, and check that what comes of it is what the cell says."""
        kind, _, words = getattr(self, door).partition(": ")
        option = kind.removeprefix("with ").strip("`")
        if kind == "yes":
            self.use(handle, directory)
        else:
            assert kind == "refused" or option != kind
            with pytest.raises(KgdbError) as caught:
                self.use(handle, directory)
            assert (words or option) in str(caught.value), caught.value
        handle.delete_breakpoints()
        assert handle.stopped
        assert handle.run("echo on").output == "on\n"


def stopped_in(kgdb: Any, function: str, command: str = "cat /proc/uptime") -> Any:
    """Stop at a function that a command calls."""
    kgdb.breakpoint(function, temporary=True)
    kgdb.type(command)
    return kgdb.cont()


# The uses


def run_control(kgdb: Any, _: Path) -> None:
    before = kgdb.generation
    assert kgdb.moment == before
    assert stopped_in(kgdb, "do_sys_openat2").reason == "breakpoint"
    assert kgdb.stop.frame.function == "do_sys_openat2"
    assert kgdb.next().reason == "step"
    assert kgdb.until("do_filp_open").frame.function == "do_filp_open"
    assert kgdb.stepi().reason == "step"
    assert kgdb.step().reason == "step"
    assert kgdb.finish().frame.function == "do_sys_openat2"
    kgdb.breakpoint("do_sys_openat2", temporary=True)
    kgdb.type("cat /proc/uptime")
    kgdb.resume()
    assert kgdb.wait(kgdb.timeout).frame.function == "do_sys_openat2"
    assert kgdb.generation > before


def finish_into_noinstr_code(kgdb: Any, _: Path) -> None:
    stopped_in(kgdb, "__x64_sys_openat")
    assert kgdb.finish().frame.function in ("do_syscall_64", "do_syscall_x64")


def interrupt(kgdb: Any, _: Path) -> None:
    kgdb.resume()
    assert not kgdb.stopped
    assert kgdb.interrupt().reason == "interrupt"
    assert kgdb.stopped


def breakpoints(kgdb: Any, _: Path) -> None:
    at = kgdb.breakpoint("do_sys_openat2", condition="current->pid > 1")
    assert at.location == "do_sys_openat2"
    assert (at.commands, at.ignore_count) == ((), 0)
    assert at.number > 0
    assert at.address == int(kgdb.evaluate("(unsigned long)&do_sys_openat2"))
    kgdb.type("cat /proc/uptime /proc/version")
    kgdb.cont()
    assert at.hits == 1
    at.condition = "current->pid > 2"
    at.enabled = False
    at.enabled = True
    kgdb.cont()
    assert at.hits == 2
    at.delete()
    kgdb.delete_breakpoints()


def breakpoint_in_noinstr_code(kgdb: Any, _: Path) -> None:
    kgdb.breakpoint("exc_page_fault", temporary=True)
    kgdb.type("cat /proc/uptime")
    assert kgdb.cont().frame.function == "exc_page_fault"


def hardware(kgdb: Any, _: Path) -> None:
    with kgdb.watchpoint("panic_timeout") as watched:
        assert watched.expression == "panic_timeout"
        kgdb.type("echo 7 > /proc/sys/kernel/panic")
        stop = kgdb.cont()
        assert (stop.breakpoint, stop.old, stop.new) == (watched, 0, 7)
    kgdb.breakpoint("do_sys_openat2", hardware=True)
    kgdb.type("cat /proc/uptime")
    assert kgdb.cont().frame.function == "do_sys_openat2"


def stops(kgdb: Any, _: Path) -> None:
    stop = stopped_in(kgdb, "do_sys_openat2")
    assert stop.cpu == 0
    assert stop.task.comm in ("cat", "sh")
    assert stop.task.pid > 1
    assert (stop.reason, stop.breakpoint.location) == ("breakpoint", "do_sys_openat2")
    assert stop.registers["rip"] == stop.frame.address
    assert stop.taint == ""
    frame = stop.frame
    assert (frame.level, frame.file, frame.inlined) == (0, "fs/open.c", False)
    assert frame.path.endswith("/fs/open.c")
    assert frame.line > 0
    assert set(frame.args) >= {"dfd", "filename"}
    assert frame.locals is not None
    assert frame.evaluate("dfd") == frame.args["dfd"]
    assert frame.source() is not None
    assert frame.up().function
    assert stop.backtrace()[0].function == "do_sys_openat2"
    assert kgdb.finish().return_value is not None


def data(kgdb: Any, _: Path) -> None:
    task = kgdb.evaluate("init_task")
    assert task["comm"] == "swapper/0"
    assert task["comm"].string() == "swapper/0"
    assert kgdb.drgn_object(task["pid"]).value_() == 0
    assert kgdb.evaluate("&init_task").is_pointer
    assert kgdb.evaluate("&init_task").dereference()["pid"] == 0
    assert kgdb.per_cpu("runqueues", 0)["cpu"] == 0
    assert kgdb.current.pid == kgdb.stop.task.pid
    kgdb.assign("panic_on_oops", 1)
    assert kgdb.evaluate("panic_on_oops") == 1
    assert kgdb.run("cat /proc/sys/kernel/panic_on_oops").output == "1\n"
    kgdb.assign("panic_on_oops", 0)


def memory(kgdb: Any, _: Path) -> None:
    address = int(kgdb.evaluate("(unsigned long)&init_task.comm"))
    kgdb.write(address, b"swopper/0")
    assert kgdb.read(address, 9) == b"swopper/0"
    assert kgdb.evaluate("init_task.comm").string() == "swopper/0"
    kgdb.write(address, b"swapper/0")


def memory_that_is_not_mapped(kgdb: Any, _: Path) -> None:
    with pytest.raises(KgdbError):
        kgdb.read(IMAGE_END, 1)
    kgdb.write(IMAGE_END, b"x")


def memory_of_programs(kgdb: Any, _: Path) -> None:
    stop = stopped_in(kgdb, "do_sys_openat2")
    path = int(stop.frame.args["filename"])
    first = kgdb.read(path, 1)
    assert first == b"/"
    assert kgdb.read_user(stop.task.pid, path, 1) == first


def physical(kgdb: Any, _: Path) -> None:
    address = int(kgdb.evaluate("(unsigned long)&init_task.comm"))
    place = kgdb.physical.virt_to_phys(address)
    assert kgdb.physical.read(place, 9) == b"swapper/0"
    kgdb.physical.write(place, b"s")
    assert kgdb.physical.phys_to_virt(place) & 0xFFF == place & 0xFFF


def physical_find(kgdb: Any, _: Path) -> None:
    assert next(kgdb.physical.find(b"Linux version"))


def drgns(kgdb: Any, _: Path) -> None:
    stop = stopped_in(kgdb, "do_sys_openat2")
    assert kgdb.program["init_task"].pid.value_() == 0
    assert kgdb.stack_trace(stop.task)[0].name == "do_sys_openat2"
    assert "schedule" in str(kgdb.stack_trace(2))
    assert "Linux version" in kgdb.dmesg()


def dump(kgdb: Any, directory: Path) -> None:
    assert kgdb.dump(directory / "vmcore").stat().st_size > 1 << 20


def save(kgdb: Any, directory: Path) -> None:
    assert kgdb.save(directory / "machine").stat().st_size > 1 << 20


def prompt(kgdb: Any, _: Path) -> None:
    assert "swapper/0" in kgdb.execute("print init_task.comm")
    assert "do_sys_openat2" in kgdb.execute("info address do_sys_openat2")


def prompt_monitor(kgdb: Any, _: Path) -> None:
    assert kgdb.execute("monitor info status").startswith("VM status: paused")


def instruments(kgdb: Any, _: Path) -> None:
    with kgdb.spy("do_sys_openat2", returns=True) as opens:
        kgdb.run("cat /no/such/file")
    assert [call.return_value for call in opens.calls].count(-2) >= 1
    assert opens.cost.calls == opens.count
    # Some shells open /dev/null for a command's input.
    by_cat = lambda call: call.task.comm == "cat"  # noqa: E731 # one of the conditions
    with kgdb.override("getname_flags", "-ENOMEM", times=1, when=by_cat) as names:
        assert "Cannot allocate memory" in kgdb.run("cat /proc/version 2>&1").output
    assert names.forced == 1


def snapshots(kgdb: Any, _: Path) -> None:
    kgdb.snapshot("here")
    kgdb.run("touch /tmp/mess")
    kgdb.restore("here")
    assert kgdb.run("ls /tmp/mess").status != 0


def fail_each(kgdb: Any, _: Path) -> None:
    report = kgdb.fail_each("getname_flags", "cat /proc/version", "-ENOMEM", limit=1)
    assert len(report) == 1


def kunit(kgdb: Any, _: Path) -> None:
    assert kgdb.kunit("example").status == "passed"


def guest(kgdb: Any, directory: Path) -> None:
    assert kgdb.run("echo here").output == "here\n"
    mark = kgdb.console.mark()
    kgdb.type("echo typ''ed")
    kgdb.resume()
    kgdb.console.expect("typed")
    kgdb.interrupt()
    assert b"typed" in kgdb.console.since(mark)
    (directory / "file").write_bytes(bytes(range(256)))
    kgdb.put(directory / "file", "/tmp/file")
    assert kgdb.get("/tmp/file", directory / "back").read_bytes() == bytes(range(256))


def ssh(kgdb: Any, _: Path) -> None:
    """Tests with a port that leads to the guest are in tests/debian, with a Debian on a disk."""
    assert kgdb.forwards == ()
    kgdb.ssh("true")


def modules(kgdb: Any, _: Path) -> None:
    module = kgdb.modules.load_stopped(KEYHOLE)
    kgdb.breakpoint("misc_register", temporary=True)
    assert "keyhole_init" in [frame.function for frame in kgdb.cont().backtrace()]
    kgdb.run("true")  # behind insmod
    assert kgdb.modules.find(module.name)
    assert (module.loaded, module.state) == (True, "live")
    assert kgdb.modules.require(module.name).address == module.address
    assert module.sections[".text"]
    assert kgdb.evaluate("keyhole").is_pointer
    module.unload()


def splats(kgdb: Any, _: Path) -> None:
    with kgdb.expect_splat("warned_init", "WARN"):
        kgdb.modules.load(WARNED, what=1)
    assert [splat.kind for splat in kgdb.splats] == ["WARN"]
    kgdb.run("rmmod warned")


def oops(kgdb: Any, _: Path) -> None:
    kgdb.modules.load_stopped(WARNED, what=2)
    stop = kgdb.cont()
    assert (stop.reason, stop.frame.function) == ("oops", "warned_null")
    assert stop.signal == "SIGSEGV"
    assert "NULL pointer" in stop.message


VALUES: Final = (
    "`Value.address`, `.cast`, `.dereference`, `.error`, `.expression`, `.is_error`, "
    "`.is_optimized_out`, `.is_pointer`, `.members`, `.number`, `.string`, `.symbol`, "
    "`.text_of_string`, `.type`"
)

# In the order of docs/writing-tests.md.
ROWS: Final = (
    Row(
        "`cont`, `resume`, `wait`, `step`, `next`, `stepi`, `until`, `finish`, `stop`, `stopped`, "
        "`generation`, `moment`, `timeout`",
        run_control,
        qemu="yes: a stop takes some 20 ms under TCG; a step stays on its CPU, not its task",
    ),
    Row(
        "`finish` and `next` to a caller that is noinstr code",
        finish_into_noinstr_code,
        board="refused: kgdb takes no breakpoint where gdb needs one",
    ),
    Row(
        "`interrupt`",
        interrupt,
        kgdb="yes: where interrupts are on",
        qemu="yes: anywhere, in a user program, too",
        board="yes: where interrupts are on",
    ),
    Row(
        "`breakpoint`, `delete_breakpoints`, `Breakpoint.location`, `.address`, `.number`, "
        "`.condition`, `.commands`, `.ignore_count`, `.enabled`, `.hits`, `.delete`",
        breakpoints,
        kgdb="yes: at most 1,000",
        board="yes: at most 1,000",
    ),
    Row(
        "`breakpoint` in code that must not be probed",
        breakpoint_in_noinstr_code,
        kgdb="refused: it is noinstr code",
        board="refused: it is noinstr code",
    ),
    Row(
        "`watchpoint`, `breakpoint(hardware=True)`, `Watchpoint.expression`, `.access`, "
        "`Stop.old`, `.new`",
        hardware,
        board="refused: they never fire",
    ),
    Row(
        "`Stop.reason`, `.breakpoint`, `.signal`, `.frame`, `.backtrace`, `.cpu`, `.task`, "
        "`.registers`, `.taint`, `.return_value`; "
        "`Frame.level`, `.address`, `.args`, `.evaluate`, `.file`, `.function`, `.inlined`, "
        "`.line`, `.locals`, `.path`, `.source`, `.up`",
        stops,
    ),
    Row("an oops, a panic and an int3 as stops, `Stop.message`", oops),
    Row(
        f"`evaluate`, `assign`, `per_cpu`, `current`, `drgn_object`; {VALUES}",
        data,
    ),
    Row("`read`, `write`", memory, board="yes: 5.7 kB/s at 115,200 baud"),
    Row(
        "`write` where nothing is mapped",
        memory_that_is_not_mapped,
        kgdb="refused: not mapped",
        qemu="refused: not mapped",
        board="refused: not mapped",
    ),
    Row("`read`, `write`, `read_user` of a program's memory", memory_of_programs),
    Row("`physical`", physical),
    Row("`physical.find`", physical_find, board="refused: cannot look for"),
    Row(
        "`program`, `stack_trace`, `dmesg`",
        drgns,
        board="yes: `dmesg` reads the whole buffer, which takes many seconds",
    ),
    Row("`dump`", dump, board="refused: a dump needs the file of the guest's RAM"),
    Row("`save`", save, board="refused: a board cannot be saved"),
    Row("`execute`", prompt),
    Row(
        '`execute("monitor …")`',
        prompt_monitor,
        kgdb="refused: kgdb takes no commands but kdb's",
        board="refused: kgdb takes no commands but kdb's",
    ),
    Row(
        "`spy`, `override`",
        instruments,
        qemu="yes: a call costs a stop, some 20 ms under TCG",
        board="yes: dozens of packets for each call",
    ),
    Row("`snapshot`, `restore`", snapshots, board="refused: a board cannot be saved"),
    Row("`fail_each`", fail_each, board="refused: a board cannot be saved"),
    Row("`kunit`", kunit),
    Row(
        "`run`, `type`, `console`, `put`, `get`",
        guest,
        board="yes: files take as long as memory",
    ),
    Row(
        "`ssh`, `forwards`",
        ssh,
        kgdb="with `--kgdb-forward`",
        qemu="with `--kgdb-forward`",
        board="refused: needs a port of this host",
    ),
    Row(
        "`modules`, `Modules.load`, `.load_stopped`, `.begin`, `.find`, `.require`, `.file`, "
        "`.sections`, `.known`, `.unload`; `Module.name`, `.address`, `.file`, `.loaded`, "
        "`.sections`, `.state`, `.unload`",
        modules,
    ),
    Row("`splats`, `expect_splat`", splats),
)
