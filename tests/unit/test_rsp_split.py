"""One serial line for the console and kgdb: whose bytes are whose, and whether the kernel runs."""

from __future__ import annotations

import pytest

from pytest_kgdb.rsp import LineSplitter, encode

STOP = encode(b"T05thread:01;")


@pytest.fixture
def splitter() -> LineSplitter:
    return LineSplitter(shared=True)


def pieces(splitter: LineSplitter, data: bytes, size: int) -> tuple[bytes, bytes]:
    """What comes of data that arrives in pieces."""
    kgdb = console = b""
    for start in range(0, len(data), size):
        split = splitter.received(data[start : start + size])
        kgdb, console = kgdb + split.kgdb, console + split.console
    return kgdb, console + splitter.flush()


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
class TestText:
    def test_a_running_kernel_prints(self, splitter: LineSplitter, size: int) -> None:
        text = b"$ echo $HOME+1 - $T $S05 $TERM#ab $$ #12 $\r\n# + - $"
        assert pieces(splitter, text, size) == (b"", text)
        assert not splitter.stopped

    def test_a_stop_between_text(self, splitter: LineSplitter, size: int) -> None:
        assert pieces(splitter, b"he$" + STOP + b"llo\r\n", size) == (STOP, b"he$llo\r\n")
        assert splitter.stopped
        assert splitter.holds_input

    def test_an_exchange(self, splitter: LineSplitter, size: int) -> None:
        splitter.received(STOP)
        splitter.sent(b"+" + encode(b"m10,4"))
        reply = b"+" + encode(b"00010203")
        assert pieces(splitter, b"[ 1.0] text\r\n" + reply, size) == (reply, b"[ 1.0] text\r\n")
        splitter.sent(b"+" + encode(b"c"))
        assert splitter.stopped
        assert pieces(splitter, b"+1 + 1\r\n", size) == (b"+", b"1 + 1\r\n")
        assert not splitter.stopped
        assert not splitter.holds_input

    def test_a_damaged_reply_is_kgdbs(self, splitter: LineSplitter, size: int) -> None:
        splitter.received(STOP)
        splitter.sent(encode(b"m10,4"))
        damaged = b"+$0001\x0203#81"
        assert pieces(splitter, damaged, size) == (damaged, b"")

    def test_a_reset_in_the_middle_of_a_packet(self, splitter: LineSplitter, size: int) -> None:
        splitter.received(STOP)
        splitter.sent(encode(b"m10,4"))
        text = b"+$0001\r\n[    0.000000] Linux version 6.1\r\n"
        assert pieces(splitter, text, size) == (b"+", text[1:])

    def test_a_lost_dollar(self, splitter: LineSplitter, size: int) -> None:
        """The text is shown, and kgdb is asked for its stop reply again."""
        kgdb, console = pieces(splitter, b"text\r\n" + STOP[1:], size)
        assert console == b"text\r\n" + STOP[1:]
        assert kgdb == b"$damaged#00"

    def test_a_damaged_stop_reply(self, splitter: LineSplitter, size: int) -> None:
        damaged = STOP.replace(b"01;", b"00;")
        assert pieces(splitter, damaged, size) == (damaged, b"")
        assert not splitter.stopped

    def test_an_echo_is_no_answer(self, splitter: LineSplitter, size: int) -> None:
        """A tty echoes what it takes for typed."""
        splitter.sent(encode(b"?"))
        assert pieces(splitter, encode(b"?") + b"\r\n", size) == (b"", encode(b"?") + b"\r\n")


def test_a_step_lets_no_input_through(splitter: LineSplitter) -> None:
    splitter.received(STOP)
    splitter.sent(encode(b"s"))
    splitter.received(b"+")
    assert not splitter.stopped
    assert splitter.holds_input
    splitter.received(STOP)
    splitter.sent(encode(b"c"))
    assert splitter.holds_input
    splitter.received(b"+")
    assert not splitter.holds_input


def test_a_line_of_kgdbs_own(splitter: LineSplitter) -> None:
    splitter = LineSplitter(shared=False)
    assert splitter.received(b"noise" + STOP) == (b"noise" + STOP, b"")
    assert splitter.stopped
    splitter.sent(encode(b"c"))
    splitter.received(b"+")
    assert not splitter.stopped


def test_another_debugger_and_another_kernel(splitter: LineSplitter) -> None:
    splitter.received(STOP)
    splitter.sent(encode(b"m10,4"))
    splitter.reconnect()
    assert splitter.stopped
    splitter.reset()
    assert not splitter.stopped
    assert splitter.received(b"+ text") == (b"", b"+ text")
