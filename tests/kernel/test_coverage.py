"""Coverage on a real kernel: what it says ran is what ran, and nothing else changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.kernel import Kernel
from pytest_kgdb.settings import from_pytest

MODULES = Path(__file__).parent / "modules"
SECONDS = 600.0


class Run:
    """A run of pytest with coverage, and what it said."""

    def __init__(self, status: int, output: str, document: Any) -> None:
        self.status = status
        self.output = output
        self.document = document

    def lines(self, name: str) -> dict[int, dict[str, Any]]:
        """The lines of the only file whose name ends so."""
        (kernel,) = self.document["kernels"]
        (file,) = (file for path, file in kernel["files"].items() if path.endswith(name))
        return {int(number): line for number, line in file["lines"].items()}

    def tests(self, name: str) -> dict[int, set[str]]:
        """The lines that ran, and the names of the tests."""
        return {
            number: {test.partition("::test_")[2] for test in line["tests"]}
            for number, line in self.lines(name).items()
            if line["state"] == "ran"
        }

    def in_state(self, name: str, state: str) -> set[int]:
        return {number for number, line in self.lines(name).items() if line["state"] == state}


@pytest.fixture
def covered(tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel) -> Any:
    """Runs tests with coverage, as a user would."""

    def run(tests: str, *words: str) -> Run:
        (tmp_path / "test_it.py").write_text(tests)
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        settings = from_pytest(pytestconfig)
        argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        argv += [f"--kgdb-kernel={kgdb_kernel.spec}", f"--kgdb-cache-dir={settings.cache_dir}"]
        argv += ["--kgdb-cov-json=out.json", "--kgdb-require", *words]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
        output = done.stdout + done.stderr
        assert (tmp_path / "out.json").exists(), output
        return Run(done.returncode, output, json.loads((tmp_path / "out.json").read_text()))

    return run


def line_of(path: Path, text: str) -> int:
    """The number of the only line with a text."""
    (number,) = (n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)
    return number


# -- a module whose control flow is known ------------------------------------------------------

EDGES = MODULES / "edges" / "main.c"


def test_the_control_flow_of_a_module(covered: Any) -> None:
    run = covered(
        """
def step(kgdb, n):
    assert kgdb.run(f"echo {n} > /sys/module/edges/parameters/step").status == 0

def test_loaded(kgdb):
    kgdb.modules.load("edges")

def test_second(kgdb):
    kgdb.modules.load("edges")
    step(kgdb, 2)

def test_eighth(kgdb):
    assert kgdb.run("modprobe edges").status == 0
    step(kgdb, 8)
    step(kgdb, 1)

def test_none(kgdb):
    pass
""",
        f"--kgdb-module={MODULES / 'edges'}",
        "--kgdb-cov=module:edges",
    )
    assert run.status == 0, run.output
    tests = run.tests("edges/main.c")
    second, eighth = {"second"}, {"eighth"}
    for text, expected in (
        ("switch (n) {", second | eighth),
        ("case 1: return", eighth),
        ("case 2: return", second),
        ("case 8: return", eighth),
        ("return sink += irq;", second),
        ("long give_long(int x)", eighth),
    ):
        assert tests[line_of(EDGES, text)] == expected, (text, run.output)
    not_reached = run.in_state("edges/main.c", "not reached")
    for text in ("case 3: return", "case 5: return", "return a.a + b.first + b"):
        assert line_of(EDGES, text) in not_reached, text
    assert not {test for names in tests.values() for test in names} & {"none"}


def test_a_modules_init_and_exit(covered: Any) -> None:
    run = covered(
        """
def test_good(kgdb):
    kgdb.modules.load("demo")

def test_failing(kgdb):
    assert kgdb.run("modprobe demo fail=1").status != 0

def test_again(kgdb):
    # The memory of the first one's init may be the second one's.
    for _ in range(3):
        assert kgdb.run("modprobe demo && rmmod demo").status == 0
""",
        f"--kgdb-module={MODULES / 'demo'}",
        "--kgdb-cov=module:demo",
    )
    assert run.status == 0, run.output
    main = MODULES / "demo" / "main.c"
    tests = run.tests("demo/main.c")
    assert tests[line_of(main, "return amount + 1;")] == {"good", "failing", "again"}
    assert tests[line_of(main, "told to fail with")] == {"failing"}
    assert tests[line_of(main, "demo_add(demo_total, -1)")] == {"again"}
    assert run.in_state("demo/main.c", "not reached") == {line_of(main, "/* the oops */")}
    assert set(run.tests("demo/add.c")) == {7, 8, 9}


# -- against single steps ----------------------------------------------------------------------

STEPS = """
from pytest_kgdb.handle import attachment_of

WORDS = "echo {n} > /sys/module/edges/parameters/step"
seen = {}

def recorder(kgdb):
    return attachment_of(kgdb).relay._breakpoints.code._recorder

def come(kgdb, n):
    kgdb.modules.load("edges")
    breakpoint = kgdb.breakpoint("step")
    kgdb.type(WORDS.format(n=n))
    kgdb.cont()
    breakpoint.delete()
    return recorder(kgdb)

def test_call(kgdb):
    for n in range(1, 9):
        come(kgdb, n)
        before = recorder(kgdb).hits()
        kgdb.finish()
        armed = recorder(kgdb)._indexes
        seen[n] = recorder(kgdb).hits() - before, set(armed), before
        kgdb.resume()
        kgdb.console.synchronise()
        kgdb.interrupt()
        kgdb.run("rmmod edges")

def test_steps(kgdb):
    for n in range(1, 9):
        come(kgdb, n)
        register = attachment_of(kgdb).relay.register
        stack, pcs = register("sp"), set()
        while register("sp") <= stack:
            pcs.add(register("ip"))
            kgdb.stepi()
        hits, armed, before = seen[n]
        assert len(pcs & armed) > 3
        assert hits == pcs & armed - before
        assert pcs & armed <= recorder(kgdb).hits()
        kgdb.resume()
        kgdb.console.synchronise()
        kgdb.interrupt()
        kgdb.run("rmmod edges")
"""


@pytest.mark.slow
def test_each_address_against_single_steps(covered: Any) -> None:
    run = covered(STEPS, f"--kgdb-module={MODULES / 'edges'}", "--kgdb-cov=module:edges")
    assert run.status == 0, run.output


# -- with everything else ----------------------------------------------------------------------

EVERYTHING = """
import pytest

CAT = "cat /proc/version"

def test_breakpoint(kgdb):
    breakpoint = kgdb.breakpoint("version_proc_show")
    for _ in range(3):
        kgdb.type(CAT)
        stop = kgdb.cont()
        assert stop.reason == "breakpoint"
        assert "version_proc_show" in repr(stop)
        kgdb.next()
        kgdb.stepi()
        kgdb.finish()
        kgdb.resume()
        kgdb.console.expect("Linux version")
        kgdb.console.synchronise()
        kgdb.interrupt()
    breakpoint.delete()
    assert "Linux" in kgdb.run(CAT).output

def test_unused_breakpoint(kgdb):
    kgdb.breakpoint("version_proc_show").delete()
    assert "Linux" in kgdb.run(CAT).output

def test_spy(kgdb):
    with kgdb.spy("version_proc_show") as calls:
        kgdb.run(CAT)
        kgdb.run(CAT)
    assert calls.count == 2

def test_override(kgdb):
    with kgdb.override("version_proc_show", returns=-5):
        assert kgdb.run(CAT).status != 0

def test_snapshot(kgdb):
    kgdb.snapshot("before")
    assert "Linux" in kgdb.run(CAT).output
    kgdb.restore("before")
    assert "Linux" in kgdb.run(CAT).output

def test_lost_by_a_snapshot(kgdb):
    kgdb.snapshot("before")
    assert "Linux" in kgdb.run(CAT).output
    kgdb.restore("before")

def test_watchpoint(kgdb):
    kgdb.watchpoint("saved_command_line", access="read")
    assert "Linux" in kgdb.run(CAT).output

def test_code_as_it_is(kgdb, kgdb_kernel):
    from pytest_kgdb.elf import ElfFile
    address = int(kgdb.evaluate("(unsigned long)&version_proc_show"))
    code = ElfFile(kgdb_kernel.vmlinux).contents(address, 40)
    assert kgdb.read(address, 40) == code
    assert "int3" not in kgdb.execute("x/9i version_proc_show")
    assert bytes.fromhex("".join(
        word[2:] for line in kgdb.execute(f"x/40xb {address}").splitlines()
        for word in line.partition(":")[2].split()
    )) == code
    assert "Linux" in kgdb.run(CAT).output

def test_untouched(kgdb):
    assert kgdb.run("echo fine").output == "fine\\n"

@pytest.mark.kgdb(smp=2)
def test_two_cpus(kgdb):
    text = kgdb.run("for i in 1 2 3 4; do (for j in 1 2 3; do cat /proc/version; done)& done; wait")
    assert text.output.count("Linux version") == 12
"""


@pytest.mark.slow
@pytest.mark.parametrize("stub", ["kgdb", "qemu"])
def test_with_everything_else(covered: Any, kgdb_kernel: Kernel, stub: str) -> None:
    run = covered(EVERYTHING, "--kgdb-cov=function:version_proc_show", f"--kgdb-stub={stub}")
    assert run.status == 0, run.output
    tests = run.tests("fs/proc/version.c")
    assert tests
    # All but the one that calls nothing, and the one in which no call gets anywhere.
    expected = {
        "breakpoint", "unused_breakpoint", "spy", "snapshot", "lost_by_a_snapshot", "watchpoint",
        "code_as_it_is", "two_cpus",
    }  # fmt: skip
    assert all(names == expected for names in tests.values()), tests


HOT = """
import pytest

@pytest.mark.kgdb(smp=2)
@pytest.mark.parametrize("n", range(3))
def test_hot(kgdb, n):
    text = kgdb.run(
        "for i in 1 2 3 4; do (for j in 1 2 3 4 5; do dd if=/dev/zero bs=1k count=9 2>/dev/null |"
        " cat > /dev/null; sleep 0.01; done)& done; wait; echo fine"
    ).output
    assert text == "fine\\n"
    kgdb.breakpoint("do_sys_openat2")
    kgdb.type("cat /proc/uptime")
    assert kgdb.cont().reason == "breakpoint"
"""


@pytest.mark.slow
def test_code_that_the_debugger_uses_and_interrupts_run(covered: Any) -> None:
    """kgdb itself, the scheduler, timers, the tick, the serial driver, printk, page faults."""
    files = (
        "kernel/debug/debug_core.c", "kernel/debug/gdbstub.c", "arch/x86/kernel/kgdb.c",
        "kernel/sched/core.c", "kernel/sched/fair.c", "kernel/time/timer.c", "arch/x86/mm/fault.c",
        "kernel/time/tick-sched.c", "kernel/time/hrtimer.c", "drivers/tty/serial/8250/8250_port.c",
        "kernel/printk/printk.c", "lib/vsprintf.c", "kernel/softirq.c", "mm/memory.c",
        "kernel/entry/common.c", "arch/x86/kernel/traps.c", "arch/x86/kernel/nmi.c",
        "kernel/rcu/tree.c", "kernel/locking/spinlock.c", "lib/string.c", "mm/maccess.c",
    )  # fmt: skip
    run = covered(HOT, *(f"--kgdb-cov={name}" for name in files))
    assert run.status == 0, run.output
    for name in files:
        if "locking" not in name and "string" not in name:
            assert run.tests(name), name


# -- early boot --------------------------------------------------------------------------------

BOOT = """
import pytest

@pytest.mark.kgdb(at="kgdbwait")
def test_boot(kgdb):
    kgdb.resume()
    kgdb.console.expect("pytest-kgdb: ready")

def test_ready(kgdb):
    assert "Linux" in kgdb.run("cat /proc/version").output
"""


def test_boot(covered: Any, kgdb_kernel: Kernel) -> None:
    run = covered(
        BOOT,
        "--kgdb-cov=fs/proc/version.c",
        "--kgdb-cov=init/main.c",
        "--kgdb-cov=arch/x86/kernel/alternative.c",
        "--kgdb-cov=kernel/sched/core.c",
    )
    assert run.status == 0, run.output
    assert kgdb_kernel.source is not None
    # The kernel stops at kgdbwait when its serial port is there, in a device_initcall.
    source = kgdb_kernel.source
    shown = line_of(source / "fs/proc/version.c", "seq_printf(")
    registered = line_of(source / "fs/proc/version.c", 'proc_create_single("version"')
    assert run.tests("fs/proc/version.c")[shown] == {"ready"}
    assert registered in run.in_state("fs/proc/version.c", "not reached")
    tests = run.tests("init/main.c")
    assert tests[line_of(source / "init/main.c", "	console_on_rootfs();")] == {"boot"}  # __init
    assert tests[line_of(source / "init/main.c", "	rcu_end_inkernel_boot();")] == {"boot"}
    assert {"boot", "ready"} in run.tests("kernel/sched/core.c").values()


# -- a patch -----------------------------------------------------------------------------------

PATCH = """\
--- a/fs/proc/uptime.c
+++ b/fs/proc/uptime.c
@@ -11,2 +11,19 @@
~
+static noinline int kgdb_weigh(int n)
+{
+	int sum = 0;
+
+	/* a comment */
+	if (n < 0)
+		return -1;
+#ifdef CONFIG_KGDB_NONESUCH
+	sum += 3;
+#endif
+	for (; n > 0; n--)
+		sum += READ_ONCE(jiffies) & 1;
+	if (READ_ONCE(jiffies) == 99)
+		pr_info("never %d\\n", n);
+	return sum;
+}
+
~static int uptime_proc_show(struct seq_file *m, void *v)
@@ -36,4 +53,7 @@
~			(unsigned long) idle.tv_sec,
~			(idle.tv_nsec / (NSEC_PER_SEC / 100)));
+	kgdb_weigh(3);
+	if (m->count > 1 << 20)
+		kgdb_weigh(-1);
~	return 0;
~}
--- a/fs/proc/version.c
+++ b/fs/proc/version.c
@@ -15,4 +15,3 @@
~		utsname()->version);
-	return 0;
-}
+	return 0; }
~
--- /dev/null
+++ b/drivers/media/usb/gspca/kgdb.c
@@ -0,0 +1,4 @@
+int kgdb(void)
+{
+	return 1;
+}
""".replace("~", " ")
"""A diff: the blanks at the beginnings of lines are written as ~."""

UPTIME = """
def test_uptime(kgdb):
    assert "." in kgdb.run("cat /proc/uptime").output

def test_other(kgdb):
    assert "Linux" in kgdb.run("cat /proc/version").output
"""


@pytest.mark.slow
def test_a_patch(covered: Any, tmp_path: Path) -> None:
    (tmp_path / "fix.patch").write_text(PATCH)
    run = covered(
        UPTIME,
        "--kgdb-patch=fix.patch",
        "--kgdb-cov=patch",
        "--kgdb-cov-lcov=out.info",
        "--kgdb-cov-diff=out.diff",
        "--kgdb-cov-fail-under=90",
    )
    assert run.status == 1, run.output
    assert "--kgdb-cov-fail-under=90: of " in run.output
    added = (tmp_path / "out.diff").read_text().splitlines()

    def state(text: str) -> str:
        (line,) = (line for line in added if line.endswith(text))
        return line[:17].strip()

    assert state("+	if (n < 0)") == "ran"
    assert state("+	kgdb_weigh(3);") == "ran"
    assert state("+		sum += READ_ONCE(jiffies) & 1;") == "ran"
    assert state("+		kgdb_weigh(-1);") == "not reached"
    assert state("+		return -1;") in ("not reached", "optimised away")
    assert state('never %d\\n", n);') == "not reached"
    assert state("+	sum += 3;") == "not compiled"
    assert state("+	return 1;") == "not compiled"
    assert state("+	/* a comment */") == ""
    assert run.tests("version.c") == {16: {"other"}}
    assert {"uptime"} in run.tests("uptime.c").values()
    assert "not compiled (CONFIG_KGDB_NONESUCH): 20" in run.output
    info = (tmp_path / "out.info").read_text()
    assert info.count("end_of_record") == 2
    assert "\nDA:16,1\n" in info


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("fs/opne.c", "there is no such file in the source of * did you mean fs/open.c"),
        ("function:do_truncat", "has no such function * did you mean do_truncate"),
        ("module:nonesuch", "has such a module"),
    ],
)
def test_what_is_not_there(covered: Any, what: str, says: str) -> None:
    run = covered("def test_one(kgdb): pass\n", f"--kgdb-cov={what}")
    assert run.status == 1
    for text in says.split(" * "):
        assert text in run.output
    assert "Traceback" not in run.output


def test_a_file_that_is_not_compiled(covered: Any) -> None:
    run = covered("def test_one(kgdb): pass\n", "--kgdb-cov=fs/ext2/super.c:100-200")
    assert run.status == 0, run.output
    assert "not compiled (CONFIG_EXT2_FS)" in run.output
