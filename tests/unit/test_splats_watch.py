"""The watch for splats: what a test expects, what it was told of, and what fails it.

Each test reads the ring in the guest's memory, the console alone, and a ring of which only the end
is known.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.debugger import StopRecord
from pytest_kgdb.errors import KernelPanic, KgdbError, SplatError
from pytest_kgdb.klog import LogLine, RingCursor
from pytest_kgdb.splats import SplatWatch

WARN = """\
------------[ cut here ]------------
WARNING: CPU: 0 PID: 60 at drivers/{name}.c:12 {name}+0x1/0x2
CPU: 0 PID: 60 Comm: sh Not tainted 6.1.0 #1
RIP: 0010:{name}+0x1/0x2
---[ end trace 0000000000000000 ]---
"""
OOPS = """\
BUG: kernel NULL pointer dereference, address: 0000000000000000
#PF: supervisor write access in kernel mode
Oops: 0002 [#1] PREEMPT SMP NOPTI
CPU: 0 PID: 60 Comm: sh Not tainted 6.1.0 #1
RIP: 0010:{name}+0x1/0x2
---[ end trace 0000000000000000 ]---
"""
PANIC = "Kernel panic - not syncing: sysrq triggered crash\n"


class Kernel:
    """A kernel's log: a ring in its memory, and what a console shows of it."""

    log = Path("console.log")

    def __init__(self, source: str) -> None:
        self.source = source
        self.ring: list[LogLine] = []
        self.console_text = b""
        self.time = 0
        self.alive = True
        self.stopped = True
        self.calls: list[str] = []
        self.waits: list[float] = []
        self.on_wait: Any = lambda: None

    def says(self, text: str, **names: str) -> None:
        for line in text.format(**names).splitlines():
            self.time += 1
            self.ring.append(LogLine(line, self.time / 1e6, None, len(self.ring)))
            self.console_text += f"[    0.{self.time:06d}] {line}\r\n".encode()

    # The console

    def drain(self) -> None:
        pass

    def mark(self) -> int:
        return len(self.console_text)

    def since(self, mark: int) -> bytes:
        return self.console_text[mark:]

    def earlier(self, mark: int) -> bytes:
        return self.console_text[:mark]

    def wait_beyond(self, mark: int, timeout: float) -> None:
        self.waits.append(timeout)
        self.on_wait()

    # The memory

    def log_end(self) -> RingCursor:
        if self.source == "console":
            raise KgdbError("guest memory is not ours")
        return RingCursor(len(self.ring))

    def log_since(self, cursor: RingCursor) -> list[LogLine] | None:
        return self.ring[cursor.seq :] if self.source == "ring" else None

    def symbolise(self, frames: Any, source: Path | None) -> Any:
        self.calls.append("symbolise")
        return frames

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.calls.append("paused")
        yield

    # The machine

    @contextlib.contextmanager
    def machine_paused(self) -> Iterator[None]:
        self.calls.append("stop")
        yield
        self.calls.append("cont")

    # Run control

    def subscribe(self, subscriber: object) -> None:
        pass

    @property
    def is_known_stopped(self) -> bool:
        return self.stopped


@pytest.fixture(params=["ring", "console", "lost-ring"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return Kernel(request.param)


@pytest.fixture
def watch(kernel: Kernel) -> SplatWatch:
    parts: Any = kernel
    listeners: list[Any] = []
    causes: Any = SimpleNamespace(on_panic=listeners.append)
    watch = SplatWatch(
        parts, parts, parts, parts, paused=kernel.machine_paused, causes=causes, source=None
    )
    watch.panics = listeners  # type: ignore[attr-defined]
    return watch


def oops_stop(watch: SplatWatch, reason: Any = "oops") -> StopRecord:
    """Stop as a kernel does that enters the debugger for an oops."""
    record = StopRecord({}, reason=reason)
    watch.stopped(record)
    return record


# Unexpected ones


def test_nothing_is_reported(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says("eth0: link up\n")
    watch.check()
    assert watch.splats == []


def test_one_fails_the_test_once(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(WARN, name="demo")
    with pytest.raises(SplatError) as error:
        watch.check()
    first, *text = error.value.message.splitlines()
    assert first == (
        "the kernel reported what the test did not expect: "
        "WARNING: CPU: 0 PID: 60 at drivers/demo.c:12 demo+0x1/0x2"
    )
    assert text[0] == "------------[ cut here ]------------"
    assert "expect_splat" in (error.value.hint or "")
    assert error.value.log == kernel.log
    watch.check()
    assert len(watch.splats) == 1, "it is still to be seen"


def test_several(watch: SplatWatch, kernel: Kernel) -> None:
    for name in "abcde":
        kernel.says(WARN, name=name)
    with pytest.raises(SplatError) as error:
        watch.check()
    assert "(and 4 more)" in error.value.message.splitlines()[0]
    assert error.value.message.count("cut here") == 3
    assert error.value.message.count("<Splat WARN") == 2


def test_what_was_before_the_test_is_not_its_own(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(WARN, name="before")
    kernel.says(OOPS, name="before")
    oops_stop(watch)
    watch.expect("never", None)
    watch.begin()
    watch.check()
    assert watch.splats == []
    kernel.says(WARN, name="during")
    with pytest.raises(SplatError, match=r"drivers/during\.c"):
        watch.check()


def test_one_that_was_acknowledged(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(WARN, name="demo")
    pending = watch.pending()
    assert [splat.kind for splat in pending] == ["WARN"]
    assert watch.pending() == pending, "reading acknowledges nothing"
    watch.acknowledge(pending)
    assert watch.pending() == []
    watch.check()
    kernel.says(WARN, name="demo")
    assert len(watch.pending()) == 1, "another with the same words is another"


# Expected ones


def test_one_that_is_expected(watch: SplatWatch, kernel: Kernel) -> None:
    with watch.expect(r"drivers/demo\.c", "WARN") as expected:
        kernel.says(WARN, name="demo")
    assert [splat.title for splat in expected.splats] == [
        "WARNING: CPU: 0 PID: 60 at drivers/demo.c:12 demo+0x1/0x2"
    ]
    watch.check()


@pytest.mark.parametrize(
    ("pattern", "kind"), [("other", None), ("demo", "KASAN"), ("demo", "OOPS")]
)
def test_another_than_expected(
    watch: SplatWatch, kernel: Kernel, pattern: str, kind: str | None
) -> None:
    with (
        pytest.raises(SplatError, match=f"(?s)no splat.*'{pattern}'.*<Splat WARN"),
        watch.expect(pattern, kind),
    ):
        kernel.says(WARN, name="demo")
    with pytest.raises(SplatError, match="did not expect"):
        watch.check()


def test_one_that_does_not_come(watch: SplatWatch) -> None:
    with (
        pytest.raises(SplatError, match="that matches 'demo'; the kernel reported nothing"),
        watch.expect("demo", None),
    ):
        pass
    watch.check()


def test_one_that_comes_outside(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(WARN, name="before")
    with watch.expect("inside", None):
        kernel.says(WARN, name="inside")
    kernel.says(WARN, name="inside")
    with pytest.raises(SplatError, match=r"(?s)drivers/before\.c.*and 1 more.*drivers/inside\.c"):
        watch.check()


def test_one_that_is_expected_to_the_tests_end(watch: SplatWatch, kernel: Kernel) -> None:
    watch.expect("demo", "warn")
    with pytest.raises(SplatError, match="no splat of the kind WARN came"):
        watch.check()
    kernel.says(WARN, name="demo")
    watch.check()


def test_kinds(watch: SplatWatch) -> None:
    with pytest.raises(KgdbError, match="no kind of splat 'bogus'"):
        watch.expect("x", "bogus")
    assert watch.expect("x", "soft lockup")._kind == watch.expect("x", "SOFT_LOCKUP")._kind


def test_a_pattern_is_searched_in_the_whole_text(watch: SplatWatch, kernel: Kernel) -> None:
    with watch.expect(re.compile(r"^RIP: .*demo", re.MULTILINE), None):
        kernel.says(WARN, name="demo")


def test_an_error_within_goes_first(watch: SplatWatch) -> None:
    with pytest.raises(ZeroDivisionError), watch.expect("demo", None):
        raise ZeroDivisionError
    watch.check()


@pytest.mark.parametrize("comes", [True, False])
def test_a_panic_that_is_expected_ends_what_was_under_way(
    watch: SplatWatch, kernel: Kernel, comes: bool
) -> None:
    with (
        contextlib.nullcontext() if comes else pytest.raises(KernelPanic),
        watch.expect("sysrq triggered crash" if comes else "another", None),
    ):
        kernel.says(PANIC)
        raise KernelPanic("it panicked")


def test_one_that_comes_while_the_kernel_runs(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.stopped = False
    kernel.on_wait = lambda: kernel.says(WARN, name="demo") if len(kernel.waits) == 3 else None
    with watch.expect("demo", None).waiting(10):
        pass
    assert len(kernel.waits) == 3
    assert all(0 < seconds <= 1 for seconds in kernel.waits)
    del kernel.waits[:]
    with pytest.raises(SplatError), watch.expect("demo", None).waiting(0):
        pass
    kernel.stopped = True
    with pytest.raises(SplatError), watch.expect("demo", None).waiting(10):
        pass
    assert kernel.waits == [], "a stopped kernel says nothing"


# What the test is told of by a stop


def test_an_oops_that_is_a_stop(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(OOPS, name="sick")
    record = oops_stop(watch)
    assert record.message == "BUG: kernel NULL pointer dereference, address: 0000000000000000"
    watch.check()


def test_one_that_is_printed_when_the_kernel_goes_on(watch: SplatWatch, kernel: Kernel) -> None:
    assert oops_stop(watch).message is None
    kernel.says(OOPS, name="sick")
    watch.check()
    kernel.says(OOPS, name="sick")
    with pytest.raises(SplatError, match="NULL pointer"):
        watch.check()


def test_a_second_oops_has_its_own_words(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(OOPS, name="first")
    oops_stop(watch)
    kernel.says(OOPS.replace("NULL pointer dereference", "paging request"), name="second")
    assert (oops_stop(watch).message or "").startswith("BUG: kernel paging request")


def test_a_warning_is_not_told_of_by_a_stop(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(WARN, name="demo")
    oops_stop(watch)
    with pytest.raises(SplatError, match=r"drivers/demo\.c"):
        watch.check()


def test_a_panics_words(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(PANIC + "CPU: 0 PID: 60 Comm: sh Not tainted 6.1.0 #1\n")
    assert oops_stop(watch, "panic").message == "sysrq triggered crash"
    watch.check()


def test_a_panic_that_says_nothing_of_its_cause(watch: SplatWatch, kernel: Kernel) -> None:
    words = "Kernel panic - not syncing: kernel: panic_on_warn set ...\n"
    kernel.says(WARN.rpartition("---[ end")[0] + words, name="demo")
    assert oops_stop(watch, "panic").message == (
        "kernel: panic_on_warn set ..., after "
        "WARNING: CPU: 0 PID: 60 at drivers/demo.c:12 demo+0x1/0x2"
    )


def test_a_panic_after_what_has_nothing_to_do_with_it(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(WARN, name="demo")
    kernel.says(PANIC)
    assert oops_stop(watch, "panic").message == "sysrq triggered crash"


def test_a_panic_that_is_an_error(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(PANIC)
    (listener,) = watch.panics  # type: ignore[attr-defined]
    listener()  # before the error is raised (FirstCause)
    watch.check()


def test_other_stops_have_no_words(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(OOPS, name="sick")
    assert oops_stop(watch, "breakpoint").message is None
    with pytest.raises(SplatError):
        watch.check()


def test_an_oops_that_a_command_may_go_on_after(watch: SplatWatch, kernel: Kernel) -> None:
    assert not watch.wants_oops()
    expected = watch.expect("sick", None)
    assert watch.wants_oops(), "one that is not printed yet"
    kernel.says(OOPS, name="other")
    assert not watch.wants_oops()
    kernel.says(OOPS, name="sick")
    assert watch.wants_oops()
    with expected:
        pass
    assert not watch.wants_oops(), "it has come"


# Restores


@contextlib.contextmanager
def restoring(watch: SplatWatch, kernel: Kernel, to: int) -> Iterator[None]:
    """Restore the kernel to an earlier end of its ring; the console goes on."""
    with watch.restoring():
        del kernel.ring[to:]
        yield


def test_one_of_before_a_restore_is_said_once(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(WARN, name="before")
    with restoring(watch, kernel, len(kernel.ring)):
        pass
    kernel.says(WARN, name="later")
    with restoring(watch, kernel, 5):
        pass
    kernel.says(WARN, name="last")
    with pytest.raises(SplatError) as error:
        watch.check()
    assert error.value.message.count("cut here") == 3
    for name in ("before", "later", "last"):
        assert f"drivers/{name}.c" in error.value.message
    watch.check()


def test_an_oops_that_the_test_was_told_of_stays_so(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(OOPS, name="sick")
    oops_stop(watch)
    with restoring(watch, kernel, 0):
        pass
    watch.check()


def test_one_that_it_was_told_of_before_the_snapshot(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(OOPS, name="sick")
    oops_stop(watch)
    end = len(kernel.ring)
    kernel.says("something else\n")
    with restoring(watch, kernel, end):
        pass
    watch.check()


def test_another_oops_after_the_restore(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(OOPS, name="sick")
    oops_stop(watch)
    with restoring(watch, kernel, 0):
        pass
    kernel.says(OOPS, name="other")
    if kernel.source == "console":
        watch.check()  # which cannot be told from the first, printed when the kernel went on
        return
    with pytest.raises(SplatError, match="NULL pointer"):
        watch.check()


@pytest.mark.parametrize("is_told", [True, False])
def test_back_to_an_earlier_snapshot_and_on_to_a_later(
    watch: SplatWatch, kernel: Kernel, is_told: bool
) -> None:
    kernel.says("something\n")
    kernel.says(OOPS, name="sick")
    if is_told:
        oops_stop(watch)
    later = list(kernel.ring)
    with restoring(watch, kernel, 1):
        pass
    with watch.restoring():
        kernel.ring = later
    if not is_told:
        with pytest.raises(SplatError) as error:
            watch.check()
        assert "more)" not in error.value.message
    watch.check()


def test_an_expected_one_stays_expected(watch: SplatWatch, kernel: Kernel) -> None:
    with watch.expect("before", "WARN"):
        kernel.says(WARN, name="before")
    with restoring(watch, kernel, 0):
        pass
    watch.check()


def test_one_that_is_expected_across_a_restore(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says("something\n" * 4)
    expected = watch.expect("demo", None)
    with restoring(watch, kernel, 2):
        pass
    kernel.says(WARN, name="demo")
    assert len(expected.splats) == 1
    watch.check()


def test_one_that_came_before_the_restore_came(watch: SplatWatch, kernel: Kernel) -> None:
    watch.expect("demo", None)
    kernel.says(WARN, name="demo")
    with restoring(watch, kernel, 0):
        pass
    watch.check()


# Reading a running kernel


def test_a_running_machine_is_paused_for_its_log(watch: SplatWatch, kernel: Kernel) -> None:
    if kernel.source == "console":
        return
    del kernel.calls[:]
    watch.cursor()
    assert kernel.calls == []
    kernel.stopped = False
    watch.cursor()
    assert kernel.calls == ["stop", "paused", "cont"]
    del kernel.calls[:]
    kernel.alive = False
    watch.cursor()
    assert kernel.calls == ["paused"]


def test_lines(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says("one\ntwo\n")
    cursor = watch.cursor()
    kernel.says("three\n")
    assert [line.text for line in watch.lines()] == ["one", "two", "three"]
    assert [line.text for line in watch.lines(cursor)] == ["three"]


def test_lines_of_the_source_are_found_once(watch: SplatWatch, kernel: Kernel) -> None:
    kernel.says(WARN, name="demo")
    del kernel.calls[:]
    assert watch.splats == watch.splats == watch.pending()
    assert kernel.calls.count("symbolise") == 1


def test_damaged_memory_hides_no_splat(watch: SplatWatch, kernel: Kernel) -> None:
    def broken(*_: object) -> Any:
        raise LookupError("page fault in drgn")

    kernel.symbolise = broken  # type: ignore[assignment,method-assign]
    kernel.says(WARN, name="demo")
    with pytest.raises(SplatError):
        watch.check()
