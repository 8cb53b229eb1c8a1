"""Fail each: which call fails when, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fake_guest_shell import FakeShell, StopState

from pytest_kgdb.console import Result
from pytest_kgdb.debugger import GdbError
from pytest_kgdb.errors import (
    BuildError,
    ConfigError,
    DebuggerDied,
    GuestCommandError,
    KernelPanic,
    KgdbError,
    MachineDied,
    StaleError,
    TimeoutError,
)
from pytest_kgdb.klog import LogLine, Splat, find_splats
from pytest_kgdb.recipes import FailEach, ModuleReferences, Outcome
from pytest_kgdb.recipes._fail_each import NEVER, FailEachRunner, Verdict

# The report


def outcome(number: int, verdict: Verdict, path: tuple[str, ...] = ()) -> Outcome:
    return Outcome(number, verdict, "why" * (verdict != "handled"), None, path, None, None, "")


def test_the_report() -> None:
    report = FailEach(
        "kmalloc",
        [outcome(1, "handled"), outcome(2, "oops", ("#1 probe at a.c:3",)), outcome(3, "handled")],
        calls=3,
        complete=True,
        unsought="there is no detector",
    )
    assert not report.ok
    assert [entry.number for entry in report.bad] == [2]
    assert len(report) == 3
    assert report[-1].ok
    assert [entry.number for entry in report[:2]] == [1, 2]
    assert str(report).splitlines() == [
        "kmalloc failed in 3 calls, one after the other: 1 not handled "
        "(leaks were not looked for: there is no detector)",
        "    call 2: oops: why",
        "        #1 probe at a.c:3",
    ]
    short = str(FailEach("f", [], calls=9, complete=False))
    assert "limit= was reached" in short
    assert "(leaks were looked for)" in short


# The runner


def splat(kind: str = "WARN", title: str = "WARNING: at demo.c:3") -> Splat:
    return Splat(kind, title, title, title)


def leak(function: str) -> Splat:
    (found,) = find_splats(
        LogLine(text, None, "debugfs", seq)
        for seq, text in enumerate(
            [
                "unreferenced object 0xffff888003a1b2c0 (size 64):",
                '  comm "sh", pid 1, jiffies 4294900000',
                "  backtrace:",
                f"    [<00000000>] {function}+0x5/0x10",
            ]
        )
    )
    return found


class Failing:
    """An override that lets so many calls through and fails the next."""

    def __init__(self, world: World, skip: int, times: int | None) -> None:
        self.world, self.skip, self.times = world, skip, times
        self.calls = self.forced = 0
        self.last: Any = None
        self.path = tuple(f"#{level} caller" for level in range(1, 20))

    def __enter__(self) -> Failing:
        self.world.failing = self
        self.world.events.append(f"fail {self.skip}" if self.skip != NEVER else "count")
        return self

    def __exit__(self, *_: object) -> None:
        self.world.failing = None

    def call(self) -> bool:
        """Be called; return whether the call fails."""
        self.calls += 1
        if self.calls <= self.skip or self.forced == self.times:
            return False
        self.forced += 1
        self.last = SimpleNamespace(number=self.calls)
        return True


class World:
    """A machine with a scenario that calls a function some times."""

    def __init__(self) -> None:
        self.control = StopState()
        self.shell = FakeShell()
        self.events: list[str] = []
        self.names: list[str] = []
        self.failing: Failing | None = None
        self.failed = 0
        """The call that failed last."""
        self.calls = 3
        self.on_failure: dict[int, Callable[[], object]] = {}
        """What happens where a call fails, by its number."""
        self.reported: list[Splat] = []
        self.why_no_leaks: str | None = "the kernel is without CONFIG_DEBUG_KMEMLEAK"
        self.leaks: list[Splat] = []
        self.leak_error: KgdbError | None = None
        self.modules: Any = []
        """The guest's modules, the latest first."""
        self.references = 0
        """How many there are to a module that is loaded."""
        self.usual: object = "all well"
        """What the scenario returns where nothing fails."""
        self.runs_again: list[int] = []
        """The calls after whose failures the scenario ran again."""
        self.on_again: dict[int, Callable[[], object]] = {}
        """What the run after a failure does, by the number of the failed call; 0 of none."""
        parts: Any = self
        self.runner = FailEachRunner(
            parts.control,
            parts.shell,
            parts,
            parts,
            parts,
            modules=self.modules,
            references=lambda: {"core": self.references},
        )

    def scenario(self) -> object:
        self.shell.console.text += b"running\n"
        if self.failing is None:
            self.runs_again.append(self.failed)
            return self.on_again.get(self.failed, lambda: self.usual)()
        for number in range(1, self.calls + 1):
            if self.failing.call():
                self.failed = number
                self.on_failure.get(number, lambda: None)()
                return f"call {number} failed"
        return self.usual

    def run(self, limit: int = 100, scenario: Any = None, **options: Any) -> FailEach:
        made: Any = lambda skip, times: Failing(self, skip, times)  # noqa: E731
        return self.runner.run("kmalloc", scenario or self.scenario, made, limit=limit, **options)

    def verdicts(self, **options: Any) -> list[str]:
        return [outcome.verdict for outcome in self.run(**options)]

    # Splats

    def pending(self) -> list[Splat]:
        return list(self.reported)

    def acknowledge(self, splats: list[Splat]) -> None:
        for one in splats:
            self.reported.remove(one)

    # Leaks

    def why_not(self) -> str | None:
        return self.why_no_leaks

    def find(self) -> list[Splat]:
        if self.leak_error is not None and self.failed == 2:
            raise self.leak_error
        return list(self.leaks)

    # Snapshots

    def take(self, name: str) -> None:
        self.events.append(f"take {name}")
        self.names.append(name)

    def restore(self, name: str) -> None:
        self.events.append(f"restore {name}")
        self.control.stop = SimpleNamespace(reason="interrupt", message=None)
        self.failed = self.references = 0
        del self.modules[:]
        self.leaks = [one for one in self.leaks if one.frames[0].function == "usual"]


@pytest.fixture
def world() -> World:
    return World()


def test_a_scenario_that_does_not_always_make_as_many_calls(world: World) -> None:
    world.on_again[0] = lambda: setattr(world, "calls", 4) or world.usual
    report = world.run()
    assert (report.ok, len(report), report.calls, report.complete) == (True, 4, 4, True)


def test_each_call_fails_once_on_a_restored_machine(world: World) -> None:
    report = world.run()
    assert (report.ok, len(report), report.calls, report.complete) == (True, 3, 3, True)
    name = "fail_each-0"
    assert world.events == [
        f"take {name}",
        "count",
        *(event for skip in range(4) for event in (f"restore {name}", f"fail {skip}")),
        f"restore {name}",
    ], "and it ends with what there was before"
    assert [outcome.result for outcome in report] == [f"call {n} failed" for n in (1, 2, 3)]
    assert [outcome.number for outcome in report] == [1, 2, 3]
    assert [outcome.call and outcome.call.number for outcome in report] == [1, 2, 3]
    assert len(report[0].path) == 12
    assert report[0].console == "running\n"
    assert report.unsought == "the kernel is without CONFIG_DEBUG_KMEMLEAK"


def test_the_snapshots_name_is_none_of_the_tests(world: World) -> None:
    world.names = ["mine", "fail_each-0"]
    world.run()
    assert world.names == ["mine", "fail_each-0", "fail_each-1"]


@pytest.mark.parametrize(("limit", "outcomes", "complete"), [(2, 2, False), (3, 3, True)])
def test_a_limit(world: World, limit: int, outcomes: int, complete: bool) -> None:
    report = world.run(limit=limit)
    assert (len(report), report.complete) == (outcomes, complete)
    with pytest.raises(KgdbError, match="at least one call, not 0"):
        world.run(limit=0)


def raises(error: BaseException) -> Callable[[], object]:
    def work() -> None:
        raise error

    return work


def stops(world: World, reason: str, message: str | None) -> Callable[[], object]:
    def work() -> None:
        frames = ["#0 memcpy at lib/x86/string.c:9", "#1 demo_read at /src/demo.c:12"]
        world.control.stop = SimpleNamespace(
            reason=reason,
            message=message,
            frame=SimpleNamespace(level=0),
            backtrace=lambda limit: frames[:limit],
        )
        raise GuestCommandError("'modprobe' did not end: the kernel stopped meanwhile")

    return work


HANG = """\
'cat' did not end in 3 s
what the kernel does:
CPU 0: idles
task 71 (cat) waits:
    #0 schedule_timeout at kernel/time/timer.c:1934
    #1 demo_wait at /src/demo.c:30"""


def test_verdicts(world: World) -> None:
    world.calls = 9
    world.on_failure = {
        1: raises(GuestCommandError("no memory\nmore words")),
        2: raises(AssertionError("the file is still there")),
        3: stops(world, "oops", "BUG: kernel NULL pointer dereference"),
        4: stops(world, "panic", "no more"),
        5: raises(KernelPanic("it panicked past the debugger\nit said:")),
        6: lambda: world.reported.append(splat()),
        7: raises(TimeoutError(HANG)),
        8: stops(world, "breakpoint", None),
    }
    report = world.run()
    assert [(one.verdict, one.message) for one in report] == [
        ("handled", "no memory"),
        ("failed", "AssertionError: the file is still there"),
        ("oops", "BUG: kernel NULL pointer dereference"),
        ("panic", "no more"),
        ("panic", "it panicked past the debugger"),
        ("splat", "WARNING: at demo.c:3"),
        ("hang", HANG),
        ("handled", "'modprobe' did not end: the kernel stopped meanwhile"),
        ("handled", ""),
    ]
    assert [one.number for one in report.bad] == [2, 3, 4, 5, 6, 7]
    in_driver = "memcpy at lib/x86/string.c:9, from demo_read at /src/demo.c:12"
    places = {one.verdict: one.place for one in report}
    assert places["oops"] == in_driver
    assert places["hang"] == "demo_wait at /src/demo.c:30"
    assert (places["failed"], places["handled"]) == ("", "")
    assert "        oops in memcpy at lib/x86/string.c:9, from demo_read at /src/demo.c:12" in str(
        report
    )
    assert "call 3: oops in memcpy at string.c:9, from demo_read at demo.c:12" in repr(report)
    assert isinstance(report[1].error, AssertionError)
    assert world.reported == [], "they are not the test's own as well"


def test_an_oops_without_words_has_those_of_its_splat(world: World) -> None:
    def work() -> None:
        world.reported.append(splat("OOPS", "BUG: paging request"))
        stops(world, "oops", None)()

    world.on_failure = {2: work}
    report = world.run()
    assert [(one.verdict, one.message) for one in report.bad] == [("oops", "BUG: paging request")]


@pytest.mark.parametrize("error", [MachineDied("QEMU ended"), DebuggerDied("gdb died")])
def test_infrastructure_that_is_lost_is_no_verdict(world: World, error: KgdbError) -> None:
    world.on_failure = {2: raises(error)}
    with pytest.raises(type(error)) as caught:
        world.run()
    assert caught.value.message == f"{error.message} (call 2 of kmalloc failing, in caller)"
    assert world.events[-1] == "restore fail_each-0"


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(
    "error",
    [BuildError("it does not compile:\nmain.c:3: error"), ConfigError("no such directory"),
     StaleError("the stop is over")],
)  # fmt: skip
def test_what_the_host_or_the_test_fails_at_is_no_verdict(
    world: World, error: KgdbError, number: int
) -> None:
    """The scenario does not handle a failure by not compiling."""
    world.on_failure = {2: raises(error)}
    scenario = {} if number else {"scenario": raises(error)}
    with pytest.raises(type(error)) as caught:
        world.run(**scenario)  # type: ignore[arg-type]
    assert caught.value is error
    assert world.events[-1] == "restore fail_each-0"


def ends(world: World, error: KgdbError) -> Callable[[], object]:
    """The machine ends by what the guest does."""

    def work() -> None:
        world.control.alive = False
        if isinstance(error, MachineDied):
            error.by_guest = True
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (MachineDied("QEMU ended: exit status 0\nit said:"), "reset"),
        (KernelPanic("the kernel panicked and QEMU ended; it said:"), "panic"),
    ],
)
def test_a_machine_that_the_guest_has_ended(world: World, error: KgdbError, verdict: str) -> None:
    world.on_failure = {2: ends(world, error)}
    report = world.run()
    assert [one.verdict for one in report] == ["handled", verdict]
    assert report[1].message == error.message.splitlines()[0]
    assert (report.ended, report.complete, report.calls) == (True, False, 3)
    assert (
        str(report).splitlines()[0].endswith("; the machine has ended, no further call was tried")
    )
    assert not world.events[-1].startswith("restore")


def test_one_that_ends_in_the_run_after_a_failure(world: World) -> None:
    world.on_again = {2: ends(world, MachineDied("QEMU ended"))}
    report = world.run()
    assert [one.verdict for one in report] == ["handled", "reset"]
    assert report[1].message == "run again, without a failure: QEMU ended"


def test_one_that_ends_though_no_call_fails(world: World) -> None:
    world.on_again = {0: ends(world, MachineDied("QEMU ended"))}
    with pytest.raises(MachineDied, match=r"^QEMU ended$"):
        world.run()
    with pytest.raises(KgdbError, match=r"does not even pass .*: reset: QEMU ended"):
        world.run(scenario=ends(world, MachineDied("QEMU ended")))


# The run after a failure


def test_each_handled_failure_is_followed_by_a_run_without(world: World) -> None:
    world.on_failure = {2: raises(AssertionError("the file is still there"))}
    report = world.run()
    assert world.runs_again == [0, 1, 3]
    assert report.unrepeated is None
    assert world.control.interrupts == 3, "it begins stopped"


def test_what_stays_behind(world: World) -> None:
    world.usual = Result(0, "fine\n")
    world.on_again = {
        1: lambda: Result(1, "demo: busy\n"),
        2: raises(GuestCommandError("no such device")),
        3: stops(world, "oops", "BUG: use after free"),
    }
    world.calls = 4
    report = world.run()
    assert [(one.verdict, one.message) for one in report] == [
        ("leftover", "run again, without a failure: status 1 instead of 0: demo: busy"),
        ("leftover", "run again, without a failure: no such device"),
        ("oops", "run again, without a failure: BUG: use after free"),
        ("handled", ""),
    ]


class Loaded:
    """A module that the scenario has loaded."""

    def __init__(self, world: World, name: str, error: KgdbError | None = None) -> None:
        self.world, self.name, self.error = world, name, error

    def unload(self) -> None:
        self.world.events.append(f"unload {self.name}")
        if self.error is not None:
            raise self.error


def test_modules_that_are_left_are_unloaded_before(world: World) -> None:
    world.on_failure = {
        1: lambda: world.modules.append(Loaded(world, "demo")),
        2: lambda: world.modules.append(Loaded(world, "demo", GuestCommandError("in use"))),
    }
    report = world.run()
    assert [event for event in world.events if event.startswith("unload")] == ["unload demo"] * 2
    assert [(one.verdict, one.message) for one in report] == [
        ("handled", ""),
        ("leftover", "module demo cannot be unloaded: in use"),
        ("handled", ""),
    ]


@pytest.mark.parametrize(("count", "usual"), [(1, 0), (-1, 0)])
def test_references_to_a_module_that_stay(world: World, count: int, usual: int) -> None:
    world.on_failure = {2: lambda: setattr(world, "references", count)}
    report = world.run()
    assert [(one.verdict, one.message) for one in report.bad] == [
        ("leftover", f"references to module core: {count} instead of {usual}")
    ]
    assert world.shell.commands == ["sleep 1"]
    assert world.runs_again == [0, 1, 3]


def test_one_that_is_given_back_a_little_later(world: World) -> None:
    world.on_failure = {2: lambda: setattr(world, "references", 1)}
    world.shell.answers = {"sleep": lambda: setattr(world, "references", 0) or Result(0, "")}
    assert world.run().ok


def test_one_that_is_there_without_a_failure_too(world: World) -> None:
    def usual() -> object:
        world.references = 1
        return "all well"

    world.on_again = {0: lambda: world.usual}
    world.on_failure = {2: usual, 3: lambda: setattr(world, "references", 2)}
    scenario = world.scenario

    def also_usual() -> object:
        result = scenario()
        world.references = world.references or 1
        return result

    report = world.run(scenario=also_usual)
    assert [one.verdict for one in report] == ["handled", "handled", "leftover"]


def test_counts_of_references() -> None:
    memory = {0x1100: (3).to_bytes(4, "little"), 0x2100: (1).to_bytes(4, "little")}
    links = {0x1200: 0x5000, 0x5000: 0x1200, 0x2200: 0x2200}
    memory |= {address: to.to_bytes(8, "little") for address, to in links.items()}
    listing: Any = lambda: [  # noqa: E731
        SimpleNamespace(name="core", address=0x1000, state=0),
        SimpleNamespace(name="demo", address=0x2000, state=0),
        SimpleNamespace(name="going", address=0x3000, state=2),
    ]
    constants: Any = SimpleNamespace(numbers=lambda _: [0x100, 0x200])
    read: Any = lambda address, size: memory[address]  # noqa: E731
    assert ModuleReferences(listing, constants, read).counts() == {"core": 1, "demo": 0}

    def refuse(_: object) -> list[int]:
        raise GdbError("There is no member named refcnt.")

    constants.numbers = refuse
    assert ModuleReferences(listing, constants, read).counts() == {}


def test_the_message_of_a_warn(world: World) -> None:
    warn = Splat("WARN", "WARNING: at demo.c:3", "demo: this is\nwrong", "")
    world.on_failure = {1: lambda: world.reported.append(warn)}
    assert world.run()[0].message == "WARNING: at demo.c:3: demo: this is wrong"


def test_modules_that_were_there_before_stay(world: World) -> None:
    world.modules.append(Loaded(world, "core"))
    world.run(limit=1)
    assert "unload core" not in world.events


def test_a_scenario_that_does_not_pass_twice(world: World) -> None:
    world.on_again = {0: raises(GuestCommandError("it exists\nalready"))}
    report = world.run()
    assert [one.verdict for one in report] == ["handled"] * 3
    assert world.runs_again == [0]
    assert report.unrepeated is not None
    assert report.unrepeated.startswith("the scenario does not pass twice: ")
    assert "it exists" in report.unrepeated
    assert f"what stays behind was not looked for: {report.unrepeated}" in str(report)


def test_not_again(world: World) -> None:
    report = world.run(again=False)
    assert world.runs_again == []
    assert report.unrepeated == "again=False"


# A scenario from which nothing can be learned


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (AssertionError("no file"), "failed: AssertionError: no file"),
        (GuestCommandError("no such module"), "no such module"),
    ],
)
def test_one_that_does_not_even_pass(world: World, failure: BaseException, message: str) -> None:
    with pytest.raises(KgdbError) as error:
        world.run(scenario=raises(failure))
    assert error.value.message == (
        f"the scenario does not even pass when no call of kmalloc fails: {message}"
    )
    assert error.value.__cause__ is failure
    assert world.events[-1] == "restore fail_each-0"


@pytest.mark.parametrize("number", [0, 2])
def test_a_condition_that_raises(world: World, number: int) -> None:
    """It is no error that the scenario got, without a failure or with one."""
    error = KgdbError("an instrument stopped the kernel: ZeroDivisionError")
    error.by_instrument = True
    world.on_failure = {number: raises(error)}
    scenario = raises(error) if number == 0 else None
    with pytest.raises(KgdbError) as caught:
        world.run(scenario=scenario)
    assert caught.value is error
    assert world.events[-1] == "restore fail_each-0"


def test_one_that_never_calls_the_function(world: World) -> None:
    world.calls = 0
    with pytest.raises(KgdbError, match="the scenario never called kmalloc"):
        world.run()


# Leaks


@pytest.fixture
def leaky(world: World) -> World:
    world.why_no_leaks = None
    world.leaks = [leak("usual")]
    return world


def test_a_leak_of_a_failure(leaky: World) -> None:
    leaky.on_failure = {2: lambda: leaky.leaks.append(leak("demo_probe"))}
    report = leaky.run()
    assert [one.verdict for one in report] == ["handled", "leak", "handled"]
    assert [frame.function for frame in (report[1].leaks or ())[0].frames] == ["demo_probe"]
    assert report[0].leaks == ()
    assert report.unsought is None


def test_a_leak_beside_something_worse(leaky: World) -> None:
    def work() -> None:
        leaky.leaks.append(leak("demo_probe"))
        raise AssertionError("no file")

    leaky.on_failure = {1: work, 2: stops(leaky, "oops", "BUG")}
    report = leaky.run()
    assert [one.verdict for one in report] == ["failed", "oops", "handled"]
    assert len(report[0].leaks or ()) == 1
    assert report[1].leaks is None, "a kernel that is stopped does not scan"


def test_the_logs_word_of_leaks_is_no_splat(leaky: World) -> None:
    def work() -> None:
        leaky.reported.append(splat("memory leak", "kmemleak: 1 new suspected memory leaks"))

    original = leaky.find

    def find() -> list[Splat]:
        work()
        return original()

    leaky.find = find  # type: ignore[method-assign]
    assert leaky.verdicts() == ["handled"] * 3


def test_a_kernel_that_does_not_scan(leaky: World) -> None:
    leaky.leak_error = GuestCommandError("the kernel's leak detector does not scan")
    with pytest.raises(GuestCommandError, match="does not scan"):
        leaky.run()


def test_an_oops_while_it_scans(leaky: World) -> None:
    original = leaky.find

    def find() -> list[Splat]:
        if leaky.failed == 2:
            stops(leaky, "oops", "BUG: scan")()
        return original()

    leaky.find = find  # type: ignore[method-assign]
    report = leaky.run()
    assert [(one.verdict, one.message) for one in report.bad] == [("oops", "BUG: scan")]


def test_trouble_before_any_call_failed(leaky: World) -> None:
    original = leaky.find

    def find() -> list[Splat]:
        leaky.reported.append(splat())
        return original()

    leaky.find = find  # type: ignore[method-assign]
    with pytest.raises(KgdbError, match="had trouble before any call failed: splat: WARNING"):
        leaky.run()
