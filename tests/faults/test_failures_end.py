"""Runs of pytest that are interrupted or killed, in a test and in a real kernel's build."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from inner_run import InnerRun, no_traceback_of_ours

from pytest_kgdb.kernel import Kernel

TESTS = """
from pathlib import Path

import pytest


def test_first(kgdb):
    kgdb.resume()
    Path("running").touch()
    kgdb.wait(timeout=1000)


def test_second(kgdb):
    pass
"""

STOPPED = """
import time
from pathlib import Path


def test_first(kgdb):
    Path("running").touch()
    time.sleep(1000)
"""

JUMPS = """
import itertools
import time

real, jumps = time.time, itertools.cycle([0.0, 1e9, -1e9, 86400.0, -86400.0])
time.time = lambda: real() + next(jumps)


def test_first(kgdb):
    kgdb.breakpoint("vfs_read")
    kgdb.type("cat /proc/version")
    assert kgdb.cont(timeout=100).reason == "breakpoint"


def test_second(kgdb):
    assert kgdb.run("date -s '2001-01-01 00:00' > /dev/null; echo fine").output == "fine\\n"
    kgdb.resume()
    assert kgdb.interrupt().reason == "interrupt"
"""

ONLY_THE_KERNEL = """
def test_it(kgdb_kernel):
    assert kgdb_kernel.vmlinux.exists()
"""


# The limit is for the test alone: a busy host may need more for its machine.
LIMITED = ("--timeout=5", "-o", "timeout_func_only=true")


class TestInATest:
    @pytest.mark.parametrize("tests", [TESTS, STOPPED], ids=["running", "stopped"])
    def test_ctrl_c(self, tmp_path: Path, session_options: list[str], tests: str) -> None:
        run = InnerRun(tmp_path, tests, session_options)
        run.wait_for("running")
        assert len(run.children()) >= 3  # QEMU, gdb and the reaper, at least
        run.interrupt()
        ended = run.end()
        assert ended.status == pytest.ExitCode.INTERRUPTED
        assert "KeyboardInterrupt" in ended.output  # with one line, of where: pytest's own
        assert "Traceback" not in ended.output
        assert ended.seconds < 120

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_kill(self, tmp_path: Path, session_options: list[str], number: signal.Signals) -> None:
        run = InnerRun(tmp_path / "killed", TESTS, session_options)
        run.wait_for("running")
        os.kill(run.process.pid, number)
        # Its directory for sockets cannot have been removed: there was nobody to do it. (Python
        # does not handle SIGTERM by itself, and neither does pytest.)
        assert run.end(leaves=r"pytest-kgdb-.*").status == -number
        left = list(run.temporary.iterdir())
        for directory in left:
            os.utime(directory, (0, 0))  # as if it were long ago
        foreign = run.temporary / "pytest-kgdb-notes"
        foreign.mkdir()
        os.utime(foreign, (0, 0))
        again = InnerRun(
            tmp_path / "again",
            STOPPED.replace("1000", "0"),
            session_options,
            temporary=run.temporary,
        ).end(leaves=foreign.name)
        assert left
        assert again.status == 0, again.output
        assert list(run.temporary.iterdir()) == [foreign]  # somebody else's stays

    @pytest.mark.slow
    def test_pytest_timeout_by_a_signal(self, tmp_path: Path, session_options: list[str]) -> None:
        options = [*session_options, *LIMITED, "--timeout-method=signal"]
        ran = InnerRun(tmp_path, TESTS, options).end()
        assert ran.status == 1, ran.output
        assert "Timeout" in ran.failure("test_first").text
        assert ran.passed("test_second"), ran.output

    def test_pytest_timeout_by_a_thread(self, tmp_path: Path, session_options: list[str]) -> None:
        # It ends pytest on the spot (os._exit).
        options = [*session_options, *LIMITED, "--timeout-method=thread"]
        ran = InnerRun(tmp_path, TESTS, options).end(leaves=r"pytest-kgdb-.*")
        assert ran.status == 1, ran.output
        assert "Timeout" in ran.output

    def test_clock_jumps(self, tmp_path: Path, session_options: list[str]) -> None:
        """The host's clock is set, forwards and backwards, all the time."""
        ran = InnerRun(tmp_path, JUMPS, session_options).end()
        assert ran.status == 0, ran.output


@pytest.fixture(scope="module")
def source(kgdb_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This session's kernel's source with an error in it, made of links but for one file."""
    original = kgdb_kernel.source or kgdb_kernel.debug_source
    if original is None or not (original / "kernel/bounds.c").exists():
        pytest.skip("the kernel's source is not here")
    tree = tmp_path_factory.mktemp("source") / "linux"
    (tree / "kernel").mkdir(parents=True)
    for directory in (original, original / "kernel"):
        for entry in directory.iterdir():
            if entry != original / "kernel" and not entry.name.startswith(".git"):
                (tree / entry.relative_to(original)).symlink_to(entry)
    # The first file that is compiled for the kernel: Kbuild, offsets-file bounds.h.
    bounds = tree / "kernel/bounds.c"
    text = bounds.read_text()
    bounds.unlink()
    bounds.write_text(text.replace("int main(void)\n{", "int main(void)\n{\n\tno_such_thing;", 1))
    assert "no_such_thing" in bounds.read_text()
    return tree


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def no_entry(cache: Path) -> None:
    """See that nothing was taken for a kernel, and that nothing is broken or half made."""
    assert list(cache.glob("v1/kernel/*")) == []
    assert list(cache.glob("v1/quarantine/*")) == []
    assert list(cache.glob("v1/tmp/*")) == []


class TestInABuild:
    """Of a real kernel, which is not built to its end."""

    def run(self, directory: Path, source: Path, cache: Path, *options: str) -> InnerRun:
        words = [f"--kgdb-kernel={source}", f"--kgdb-cache-dir={cache}", *options]
        return InnerRun(directory, ONLY_THE_KERNEL, words)

    @pytest.mark.slow
    def test_source_that_does_not_compile(self, tmp_path: Path, source: Path, cache: Path) -> None:
        ended = self.run(tmp_path, source, cache).end()
        assert ended.status == 1
        text = ended.failure("test_it").text
        no_traceback_of_ours(text)
        assert text.startswith(f"kernel {source} (minimal) does not compile:\n")
        assert re.search(r"kernel/bounds\.c:\d+:\d+: error: 'no_such_thing' undeclared", text)
        assert text.count("error:") == 1
        assert "make[" not in text
        assert len(text.splitlines()) < 12
        (log,) = re.findall(r"^log: (.*)$", text, re.M)
        assert "no_such_thing" in Path(log).read_text()
        no_entry(cache)

    @pytest.mark.slow
    def test_symbol_that_does_not_survive(self, tmp_path: Path, source: Path, cache: Path) -> None:
        wish = "--kgdb-set=CONFIG_KVM_INTEL=y"
        ended = self.run(tmp_path, source, cache, wish).end()
        text = ended.failure("test_it").text
        no_traceback_of_ours(text)
        assert "a symbol did not survive olddefconfig:\n" in text
        # Why, is not found where the source's directories are links.
        assert "CONFIG_KVM_INTEL=y (--kgdb-set) was dropped: " in text
        assert "hint: ask for what they depend on" in text
        no_entry(cache)

    def test_ctrl_c(self, tmp_path: Path, source: Path, cache: Path) -> None:
        bounds = source / "kernel/bounds.c"
        bounds.write_text(bounds.read_text().replace("no_such_thing;", ""))
        run = self.run(tmp_path, source, cache)

        def is_compiling() -> bool:
            # An object of the kernel's own, not of the programs that help to build it.
            return any(
                re.search(r"^  CC      (?!scripts/|kernel/bounds|arch/x86/kernel/asm-)", text, re.M)
                for log in cache.glob("v1/work/build/*/make.log")
                if (text := log.read_text(errors="replace"))
            )

        run.until(is_compiling, "no compiler ran")
        assert any("make" in child for child in run.children())
        run.interrupt()
        ended = run.end()
        assert ended.status == pytest.ExitCode.INTERRUPTED
        assert "Traceback" not in ended.output
        no_entry(cache)
        assert list(cache.glob("v1/work/build/*/running")) == []
