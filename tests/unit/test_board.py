"""Boards, as far as no line is needed: options, resets, who has a tty open."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.board._line import Line
from pytest_kgdb.board._reset_watch import ResetWatch, boot_in
from pytest_kgdb.board._users import tty_users
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.settings import SerialLine, make_settings

LINE = "serial:/dev/ttyUSB1"


class TestBootIn:
    """What is of a kernel that boots, on a line that has the last one's words still to bring."""

    OLD = b"[    7.100000] demo: probed\r\n"
    PANIC = b"[    7.900000] ---[ end Kernel panic - not syncing: demo ]---\r\n"
    BANNER = b"[    0.000000] Linux version 6.1.192 (pytest@kgdb)\r\n"
    NEW = b"[    0.800000] Kernel panic - not syncing: no init\r\n"

    @pytest.mark.parametrize(
        ("before", "behind", "new"),
        [
            (OLD, b"", b""),
            (OLD, PANIC, b""),
            (b"", PANIC, b""),
            (OLD, PANIC + BANNER, BANNER[15:]),
            (OLD, PANIC + BANNER + NEW, BANNER[15:] + NEW),
            (b"", BANNER + NEW, BANNER[15:] + NEW),
            (OLD + BANNER + OLD, PANIC, b""),  # an earlier boot's
            # Kernels that are `quiet`.
            (OLD, NEW, NEW),
            (OLD, PANIC + NEW, NEW),
            (b"", PANIC + NEW, NEW),
            (OLD, b"[    7.050000] of another CPU\r\n" + PANIC, b""),
        ],
    )
    def test_it(self, before: bytes, behind: bytes, new: bytes) -> None:
        assert boot_in(before + behind, len(before)) == new


class TestOptions:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("serial:/dev/ttyUSB1", SerialLine("/dev/ttyUSB1", 115200)),
            ("serial:/dev/ttyS0,9600", SerialLine("/dev/ttyS0", 9600)),
            ("serial:tcp:lab-3.example:2001", SerialLine("tcp:lab-3.example:2001")),
            ("serial:rfc2217://lab:2002,57600", SerialLine("rfc2217://lab:2002", 57600)),
        ],
    )
    def test_targets(self, text: str, line: SerialLine) -> None:
        settings = make_settings(target=text)
        assert settings.target == line
        assert settings.console is None
        assert settings.isolation == "none"
        assert make_settings(target=text, console=text).console == line
        assert str(line) in (text.removeprefix("serial:"), f"{text.removeprefix('serial:')},115200")

    def test_a_relative_path(self) -> None:
        assert make_settings(target="serial:pty").target == SerialLine(str(Path.cwd() / "pty"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("/dev/ttyUSB1", "is not a target: write serial:/dev/ttyUSB1,115200"),
            ("serial:", "is not a serial line"),
            ("serial:/dev/ttyS0,fast", "is not a serial line"),
            ("serial:/dev/ttyS0,0", "0 baud are no speed"),
            ("serial:tcp:host", "is not a serial line"),
            ("serial:tcp:host:1,9600", "the server of a tcp: line has set its speed"),
        ],
    )
    def test_bad_ones(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            make_settings(target=text)

    def test_a_reset_makes_reboots(self) -> None:
        assert make_settings(target=LINE, reset="power cycle").isolation == "reboot"
        kept = make_settings(target=LINE, reset="power cycle", isolation="none")
        assert kept.isolation == "none"

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"console": "/dev/ttyS0"}, "console: there is no board"),
            ({"reset": "power"}, "reset: there is no board"),
            ({"target": LINE, "isolation": "snapshot"}, "a board has no snapshots"),
            ({"target": LINE, "isolation": "reboot"}, "how the board is reset is not known"),
            ({"target": LINE, "kernel": ["/a", "/b"]}, "one kernel runs on the board, not 2"),
            ({"target": LINE, "config": ["minimal", "defconfig"]}, "config: one kernel runs"),
            ({"target": LINE, "prove": True}, "prove: one kernel runs on the board"),
            ({"target": LINE, "cov": ["fs/open.c"]}, "cov: coverage needs the machine's memory"),
            (
                {"target": LINE, "artifacts": "x", "artifacts_dump": True},
                "artifacts_dump: a vmcore needs the machine's memory",
            ),
            (
                {"target": LINE, "artifacts": "x", "artifacts_machine": True},
                "artifacts_machine: a saved machine needs the machine's memory",
            ),
            ({"target": LINE, "smp": 2}, "smp: the board of target is as it is"),
            ({"target": LINE, "append": ["quiet"]}, "append: the board of target is as it is"),
            ({"target": LINE, "disk": "debian"}, "disk: the board of target is as it is"),
        ],
    )
    def test_what_cannot_be(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            make_settings(**values)


class TestResets:
    BOOT = b"[    0.000000] Linux version 6.1.192 (a@b)\r\n[    0.000000] Command line: x\r\n"

    @pytest.fixture
    def now(self) -> list[float]:
        return [100.0]

    @pytest.fixture
    def watch(self, now: list[float]) -> ResetWatch:
        return ResetWatch(lambda: now[0])

    def test_a_kernel_boots(self, watch: ResetWatch, now: list[float]) -> None:
        for start in range(0, len(self.BOOT), 7):
            watch.feed(self.BOOT[start : start + 7])
        assert watch.banner is None  # not sure yet
        watch.feed(b"[    1.234567][    T1] more\r\n")  # from before there was a console
        now[0] += 3
        watch.feed(b"[    3.234567] more\r\n")
        now[0] += 1.5
        assert watch.banner == "Linux version 6.1.192 (a@b)"
        watch.start()
        assert watch.banner is None

    def test_dmesg(self, watch: ResetWatch, now: list[float]) -> None:
        watch.feed(self.BOOT)
        now[0] += 0.5
        watch.feed(b"[   31.000000] long ago\r\n")
        now[0] += 10
        assert watch.banner is None

    def test_dmesg_of_a_young_kernel(self, watch: ResetWatch, now: list[float]) -> None:
        watch.feed(b"\x1ekgdb-1\r\n" + self.BOOT)
        now[0] += 5
        assert watch.banner is None
        watch.feed(b"[    2.000000] more\r\n\x1fkgdb-1 0\r\n")
        now[0] += 60
        assert watch.banner is None

    def test_a_reset_in_a_command(self, watch: ResetWatch, now: list[float]) -> None:
        watch.feed(b"\x1ekgdb-1\r\n" + self.BOOT)
        now[0] += 21
        assert watch.banner is not None

    def test_proc_version(self, watch: ResetWatch, now: list[float]) -> None:
        watch.feed(b"Linux version 6.1.192 (a@b)\r\n")
        now[0] += 10
        assert watch.banner is None


class TestTtys:
    @pytest.fixture
    def tty(self) -> Iterator[Path]:
        ours, theirs = os.openpty()
        path = Path(os.ttyname(theirs))
        os.close(theirs)
        yield path
        os.close(ours)

    @staticmethod
    def line(path: Path, baud: int = 115200) -> Line:
        ignore = lambda *_: None  # noqa: E731 # nobody listens
        return Line(SerialLine(str(path), baud), on_data=ignore, on_end=ignore, origin="--x")

    def test_one_that_is_not_there(self) -> None:
        with pytest.raises(ConfigError, match="--x: there is no /dev/ttyUSB99"):
            self.line(Path("/dev/ttyUSB99"))

    def test_one_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="is not a tty"):
            self.line(tmp_path / "file")

    def test_one_that_a_program_has_open(self, tty: Path) -> None:
        program = "import sys; f = open(sys.argv[1], 'rb+', 0); print(1, flush=True); f.read()"
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tty)], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            try:
                (user,) = tty_users(tty)
                assert user.endswith(f"(process {child.pid})")
                with pytest.raises(ConfigError, match=f"in use by .*process {child.pid}"):
                    self.line(tty)
            finally:
                child.kill()
        assert tty_users(tty) == []
        self.line(tty).close()

    def test_one_that_another_session_has_open(self, tty: Path) -> None:
        line = self.line(tty)
        with pytest.raises(ConfigError, match="in use by another session of this process"):
            self.line(tty)
        line.close()
        self.line(tty).close()

    def test_a_server_that_does_not_listen(self) -> None:
        with pytest.raises(ConfigError, match="cannot be opened") as error:
            Line(
                SerialLine("tcp:127.0.0.1:1"),
                on_data=lambda _: None,
                on_end=lambda: None,
                origin="--x",
            )
        assert error.value.hint == "does the server listen on that port?"

    def test_breaks(self, tty: Path) -> None:
        line = self.line(tty)
        assert not line.can_break
        line.close()
