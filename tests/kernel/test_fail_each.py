"""Each call of a function failing, in a driver: what is found, and what is shown of it."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest

from pytest_kgdb.errors import KgdbError, MachineDied, TimeoutError
from pytest_kgdb.handle import attachment_of

FAULTY = Path(__file__).parent / "modules/faulty"
SOURCE = FAULTY / "faulty.c"
NONE, DEVICE_STAYS, REFERENCE_STAYS, CRASH, WARNING, LOCK_STAYS, IGNORED = range(7)
RESET, UNMADE = 10, 11


def line_of(text: str) -> str:
    """File and line of what the driver's source has once."""
    (number,) = [
        number for number, line in enumerate(SOURCE.read_text().splitlines(), 1) if text in line
    ]
    return f"{SOURCE}:{number}"


def loaded(mistake):
    return lambda kgdb: kgdb.modules.load(FAULTY, mistake=mistake).unload()


def opened(mistake):
    def scenario(kgdb):
        module = kgdb.modules.load(FAULTY, mistake=mistake)
        kgdb.run("true </dev/faulty1", timeout=10)
        module.unload()

    return scenario


TEXT = {"when": "len == 5 && current->pid > 1"}


@pytest.mark.slow
def test_nothing_stays(kgdb):
    report = kgdb.fail_each("misc_register", loaded(NONE), "-EBUSY")
    assert report.ok, report
    assert report.unrepeated is None
    assert kgdb.fail_each("kmemdup", opened(NONE), "NULL", **TEXT).ok


def test_a_device_stays_registered(kgdb):
    report = kgdb.fail_each("misc_register", loaded(DEVICE_STAYS), "-EBUSY")
    (bad,) = report.bad
    assert (bad.number, bad.verdict) == (2, "leftover")
    assert "run again, without a failure: " in bad.message
    assert "faulty_init" in bad.path[0]


def test_a_reference_to_the_module_stays(kgdb):
    (bad,) = kgdb.fail_each("kmemdup", opened(REFERENCE_STAYS), "NULL", **TEXT).bad
    assert bad.verdict == "leftover"
    assert "module faulty cannot be unloaded" in bad.message


def test_a_reference_to_a_module_stays_that_the_scenario_does_not_unload(kgdb):
    kgdb.modules.load(FAULTY, mistake=REFERENCE_STAYS)
    report = kgdb.fail_each("kmemdup", "true </dev/faulty1", "NULL", **TEXT)
    (bad,) = report.bad
    assert bad.verdict == "leftover"
    assert bad.message == "references to module faulty: 1 instead of 0"
    assert "faulty_take at " in bad.path[0]


def test_a_lock_stays_locked(kgdb):
    kgdb.modules.load(FAULTY, mistake=LOCK_STAYS)

    def scenario(kgdb):
        kgdb.run("true </dev/faulty1", timeout=3)

    (bad,) = kgdb.fail_each("kmemdup", scenario, "NULL", **TEXT).bad
    assert bad.verdict == "hang"
    assert f"faulty_take at {line_of('/* hang */')}" in bad.place
    first = bad.message.splitlines()[0]
    where = r"sh\[\d+\] in faulty_take \(faulty\.c:\d+\), waiting for the mutex lock"
    # The owner has ended, and another task may have got its place in memory: the one that waits, or
    # an idle worker.
    doubted = r"held by [\w/:\[\]-]+ \(or by a task that has ended\)"
    assert re.search(
        rf"blocked: {where}(?! held by)|(?:blocked|deadlock): {where} {doubted}", first
    )


def test_the_machine_is_reset(kgdb):
    kgdb.modules.load(FAULTY, mistake=RESET)
    kgdb.snapshot("before")
    report = kgdb.fail_each("kmemdup", "true </dev/faulty1", "NULL", **TEXT)
    (bad,) = report.bad
    assert (bad.number, bad.verdict) == (1, "reset")
    assert "exit status 0, after a triple fault, while sh" in bad.message
    assert "faulty_take at " in bad.path[0]
    assert (report.ended, report.complete) == (True, False)
    assert "the machine has ended, no further call was tried" in str(report)
    with pytest.raises(MachineDied, match="QEMU ended while a test was using it"):
        kgdb.restore("before")


def test_the_next_test_gets_a_machine(kgdb):
    assert kgdb.run("echo fine").output == "fine\n"


@pytest.mark.slow
def test_places(kgdb):
    (bad,) = kgdb.fail_each("misc_register", loaded(CRASH), "-EBUSY").bad
    assert bad.verdict == "oops"
    assert bad.place == f"faulty_crash at {line_of('/* crash */')}"
    assert line_of("/* the first */") in str(bad)
    scenario = lambda kgdb: kgdb.modules.load(FAULTY, mistake=WARNING)  # noqa: E731
    (bad,) = kgdb.fail_each("misc_register", scenario, "-EBUSY").bad
    assert (bad.number, bad.verdict) == (2, "splat")
    assert bad.place == f"faulty_init at {line_of('/* warning */')}"
    assert bad.message.endswith(": faulty: refused")


def test_modules_that_the_scenario_leaves(kgdb):
    """They are no reason for the next run to fail."""
    report = kgdb.fail_each(
        "misc_register", lambda kgdb: kgdb.modules.load(FAULTY, mistake=NONE), "-EBUSY"
    )
    assert report.ok, report
    assert report.unrepeated is None
    did = {line.split()[2] for line in kgdb._actions.lines()}
    assert did == {"fail_each", "modules.load"}, "unloading them is none of the test's calls"


def test_scenario_that_cannot_be_repeated(kgdb):
    report = kgdb.fail_each("version_proc_show", "mkdir /tmp/once && cat /proc/version", "-EIO")
    assert report.ok, report
    assert "does not pass twice" in report.unrepeated
    assert "what stays behind was not looked for" in str(report)
    command = "mkdir /tmp/d && cat /proc/version >/dev/null && rmdir /tmp/d"
    cat = {"when": lambda call: call.task.comm == "cat"}
    report = kgdb.fail_each("do_sys_openat2", command, "-EMFILE", again=False, **cat)
    assert report.ok, report
    assert report.unrepeated == "again=False"
    bad = kgdb.fail_each("do_sys_openat2", command, "-EMFILE", **cat).bad[-1]
    assert "status 1 instead of 0: mkdir:" in bad.message


def test_a_condition_that_raises(kgdb):
    with pytest.raises(KgdbError) as caught:
        kgdb.fail_each("version_proc_show", "cat /proc/version", "-EIO", when=lambda call: 1 / 0)
    assert caught.value.message.startswith("an instrument stopped the kernel: ZeroDivisionError: ")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert kgdb.run("cat /proc/version").status == 0


def test_a_function_that_returns_nothing(kgdb):
    with pytest.raises(KgdbError, match="wakeup_flusher_threads returns nothing") as caught:
        kgdb.fail_each("wakeup_flusher_threads", "sync")
    assert "with returns=None its calls are left out" in caught.value.hint
    own = {"when": lambda call: call.task.comm == "sync"}
    report = kgdb.fail_each("wakeup_flusher_threads", "sync", None, **own)
    assert (report.ok, report.calls) == (True, 1), report


def test_how_a_pointer_fails(kgdb):
    """As its callers have it: one of them that compares with the other takes it for success."""
    kgdb.modules.load(FAULTY, mistake=UNMADE)
    fails = attachment_of(kgdb).instruments.default_failure
    for function in ("kthread_create_on_node", "getname_flags", "faulty_make"):
        assert fails(function) == -12, function
    for function in ("kmemdup", "alloc_workqueue", "kstrdup", "faulty_find"):
        assert fails(function) == 0, function
    report = kgdb.fail_each("faulty_make", "true </dev/faulty1")
    assert report.ok, report
    assert report[0].result.status == 1


def test_a_patch_within_a_call(kgdb, kgdb_kernel, tmp_path):
    """It changes only an argument, on a line of its own, which has no code."""
    source = (kgdb_kernel.source / "fs/pipe.c").read_text()
    call = "	pipe->bufs = kcalloc(pipe_bufs, sizeof(struct pipe_buffer),\n"
    before, behind = source.split(call)
    flags, rest = behind.split("\n", 1)
    old = f"{before}{call}{flags.replace('_ACCOUNT', '')}\n{rest}"
    lines = (text.splitlines(keepends=True) for text in (old, source))
    patch = tmp_path / "fix.patch"
    patch.write_text("".join(difflib.unified_diff(*lines, "a/fs/pipe.c", "b/fs/pipe.c")))
    report = kgdb.fail_each.of_patch("true | true", patch, when="current->pid > 1")
    (of_kcalloc,) = report
    assert of_kcalloc.function in ("__kmalloc", "__kmalloc_noprof"), "since 6.10"
    assert report.ok, report
    assert [outcome.result.status for outcome in of_kcalloc] == [2]


def test_where_a_command_hangs(kgdb):
    kgdb.modules.load(FAULTY, mistake=LOCK_STAYS)
    with kgdb.override("kmemdup", "NULL", when="len == 5"):
        kgdb.run("true </dev/faulty1")
    with pytest.raises(TimeoutError) as caught:
        kgdb.run("true </dev/faulty1", timeout=3)
    text = str(caught.value)
    assert re.search(r"CPU 0, task 0 \(swapper/0\), idle\n", text)
    assert f"faulty_take at {line_of('/* hang */')}" in text
    assert "sysrq" not in text.partition("what the kernel does")[2]
    with pytest.raises(TimeoutError) as caught:
        kgdb.cont(timeout=1)
    assert f"faulty_take at {line_of('/* hang */')}" in str(caught.value)


def test_who_runs(kgdb):
    with pytest.raises(TimeoutError) as caught:
        kgdb.run("while :; do :; done", timeout=2)
    text = str(caught.value)
    assert re.search(r"did not end in 2 s: running in user mode: sh\[\d+\] on CPU 0\n", text)
    assert "(sh)\n  in user mode" in text
