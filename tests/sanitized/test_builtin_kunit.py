"""KUnit suites that are built in, and a test of the kernel's that is not of KUnit."""

from __future__ import annotations

import pytest

from pytest_kgdb.errors import KgdbError

LISTS = "list-kunit-test"
RESULTS = f"/sys/kernel/debug/kunit/{LISTS}/results"


def test_a_suite_that_ran_at_the_boot(kgdb, subtests) -> None:
    suite = kgdb.kunit(LISTS)
    assert suite.status == "passed"
    assert suite.failed == []
    assert {"list_test_list_init", "list_test_list_add"} <= {case.name for case in suite.cases}
    results = kgdb.run(f"cat {RESULTS}").output
    assert len(suite.cases) == results.count("    ok ") > 20
    suite.report(subtests)


def test_the_same_in_debugfs_and_in_the_log(kgdb) -> None:
    by_debugfs = kgdb.kunit("example")
    kgdb.run("umount /sys/kernel/debug")
    by_log = kgdb.kunit("example")
    assert by_log.status == by_debugfs.status == "passed"
    results = [
        [(item.name, item.status, item.reason) for item in suite.cases]
        for suite in (by_debugfs, by_log)
    ]
    assert results[0] == results[1]
    assert ("example_skip_test", "skipped", "this test should be skipped") in results[0]


def test_what_debugfs_has_when_the_log_has_gone_on(kgdb) -> None:
    kgdb.run("echo on > /proc/sys/kernel/printk_devkmsg")
    kgdb.run("dmesg -n 1")  # not on the console as well
    line = 200 * "x"
    kgdb.run(f"i=0; while [ $i -lt 1500 ]; do echo $i {line}; i=$((i+1)); done >/dev/kmsg")
    assert "Subtest: example" not in kgdb.dmesg()
    assert kgdb.kunit("example").status == "passed"
    kgdb.run("umount /sys/kernel/debug")
    with pytest.raises(KgdbError, match="no KUnit suite 'example' reported"):
        kgdb.kunit("example")


@pytest.mark.kunit("example")
@pytest.mark.kunit(LISTS)
def test_the_marker(kgdb) -> None:
    """Its cases are subtests."""


def test_ktap_that_something_else_writes(kgdb) -> None:
    """A program in the guest may report by the log, too."""
    kgdb.run("echo on > /proc/sys/kernel/printk_devkmsg")
    lines = [
        "KTAP version 1",
        "1..1",
        "    KTAP version 1",
        "    # Subtest: own",
        "    1..2",
        "    ok 1 good",
        "    # it is so",
        "    not ok 2 bad",
        "not ok 1 own",
    ]
    for item in lines:
        kgdb.run(f"echo '{item}' > /dev/kmsg")
    suite = kgdb.kunit("own")
    assert (suite.status, [case.name for case in suite.failed]) == ("failed", ["bad"])
    assert suite.failed[0].output == "# it is so"


def test_a_module_of_the_kernels_own_tests(kgdb) -> None:
    """Those with kselftest_module.h print no KTAP: whether the module loads is the result."""
    kgdb.modules.load("test_bitmap")
    assert "test_bitmap: all " in kgdb.dmesg()
    assert "tests passed" in kgdb.dmesg()
    with pytest.raises(KgdbError, match="no KUnit suite 'test_bitmap' reported"):
        kgdb.kunit("test_bitmap")
