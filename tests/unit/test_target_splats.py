"""The judging of splats where the kernel's log cannot be read: by the console alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError, SplatError
from pytest_kgdb.target._splats import SplatWatch

WARN = """\
[    {time}.000001] ------------[ cut here ]------------
[    {time}.000002] WARNING: CPU: 0 PID: 60 at drivers/{name}.c:12 {name}+0x1/0x2
[    {time}.000003] CPU: 0 PID: 60 Comm: sh Not tainted 6.1.0 #1
[    {time}.000004] RIP: 0010:{name}+0x1/0x2
[    {time}.000005] ---[ end trace 0000000000000000 ]---
"""
OOPS = """\
[    {time}.000001] BUG: kernel NULL pointer dereference, address: 0000000000000000
[    {time}.000002] #PF: supervisor write access in kernel mode
[    {time}.000003] Oops: 0002 [#1] PREEMPT SMP NOPTI
[    {time}.000004] CPU: 0 PID: 60 Comm: sh Not tainted 6.1.0 #1
[    {time}.000005] RIP: 0010:sick+0x1/0x2
[    {time}.000006] ---[ end trace 0000000000000000 ]---
"""


class Console:
    """A console's text, which only grows."""

    log = None

    def __init__(self) -> None:
        self.text = b""

    def says(self, words: str) -> None:
        self.text += words.replace("\n", "\r\n").encode()

    def mark(self) -> int:
        return len(self.text)

    def since(self, mark: int) -> bytes:
        return self.text[mark:]

    def earlier(self, mark: int) -> bytes:
        return b""

    def settle(self) -> None:
        pass


class NoLog:
    """A state whose log is not to be had; of `end` records, where that is known at least."""

    def __init__(self, end: int | None) -> None:
        self.end = end

    def log_end(self) -> int:
        if self.end is None:
            raise KgdbError("guest memory is not ours")
        return self.end

    def log_since(self, seq: int) -> None:
        return None

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        yield

    def symbolise(self, frames: Any, source: Any) -> Any:
        return frames


@pytest.fixture(params=[None, 7], ids=["no-log", "a-log-that-lost-its-beginning"])
def state(request: pytest.FixtureRequest) -> NoLog:
    return NoLog(request.param)


@pytest.fixture
def console() -> Console:
    return Console()


@pytest.fixture
def watch(console: Console, state: NoLog) -> SplatWatch:
    made: Any = SplatWatch()
    link = SimpleNamespace(stopped=True)
    made.bind(SimpleNamespace(console=console, alive=True), state, link, None, None)
    return made


def test_one_from_before_a_snapshot_is_told_once(watch: SplatWatch, console: Console) -> None:
    console.says(WARN.format(time=1, name="before"))
    with watch.put_back():
        pass
    console.says(WARN.format(time=2, name="later"))
    with watch.put_back():
        pass
    with pytest.raises(SplatError) as told:
        watch.check()
    assert told.value.message.count("------------[ cut here") == 2
    assert "(and 1 more)" in told.value.message
    watch.check()


def test_an_oops_that_the_test_was_told_of_stays_so(
    watch: SplatWatch, console: Console, state: NoLog
) -> None:
    console.says(OOPS.format(time=1))
    watch.tell()
    with watch.put_back():
        state.end = state.end and 3  # the log goes back
    watch.check()


def test_an_expected_one_stays_expected(watch: SplatWatch, console: Console) -> None:
    with watch.expect("before", "WARN"):
        console.says(WARN.format(time=1, name="before"))
    with watch.put_back():
        pass
    watch.check()
