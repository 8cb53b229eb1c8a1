"""KTAP as several kernel versions print it."""

from __future__ import annotations

from pytest_kgdb.klog import parse_ktap

# Linux 5.15, lib/kunit: a suite in a module.
OLD = """\
other message of the kernel's
    # Subtest: example
    1..3
    # example_simple_test: initializing
    ok 1 - example_simple_test
    # example_skip_test: initializing
    ok 2 - example_skip_test # SKIP this test should be skipped
    # example_bad: EXPECTATION FAILED at lib/x.c:12
    Expected 1 == 2, but
sysrq: DEBUG
    not ok 3 - example_bad
# example: pass:1 fail:1 skip:1 total:3
not ok 1 - example
ok 2 - not of ours
"""
# Linux 6.12: nested, parameters, a line of somebody else's in between.
NEW = """\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: example
    # module: kunit_example_test
    1..2
        KTAP version 1
        # Subtest: example_params_test
    # example_params_test: initializing
        ok 1 example value 3
        ok 2 example value 2 # SKIP unsupported param value
        not ok 3 example value 1
    # example_params_test: pass:1 fail:1 skip:1 total:3
    not ok 1 example_params_test
random: crng init done
    ok 2 example_slow_test
# example: pass:1 fail:1 skip:0 total:2
# Totals: pass:2 fail:1 skip:1 total:4
not ok 1 example
"""


def test_old() -> None:
    (suite,) = parse_ktap(OLD.splitlines())
    assert (suite.name, suite.status) == ("example", "failed")
    assert [(case.name, case.status, case.reason) for case in suite.cases] == [
        ("example_simple_test", "passed", ""),
        ("example_skip_test", "skipped", "this test should be skipped"),
        ("example_bad", "failed", ""),
    ]
    assert suite.failed == [suite.cases[2]]
    assert suite.cases[2].output == (
        "# example_bad: EXPECTATION FAILED at lib/x.c:12\nExpected 1 == 2, but"
    )
    assert "initializing" in suite.cases[0].output


def test_new_with_parameters() -> None:
    (suite,) = parse_ktap(NEW.splitlines())
    assert suite.status == "failed"
    first, second = suite.cases
    assert [(case.name, case.status) for case in first.cases] == [
        ("example value 3", "passed"),
        ("example value 2", "skipped"),
        ("example value 1", "failed"),
    ]
    assert (first.status, second.status) == ("failed", "passed")
    assert second.cases == ()


def test_two_suites() -> None:
    assert [suite.name for suite in parse_ktap((OLD + NEW).splitlines())] == ["example", "example"]


def test_incomplete() -> None:
    (suite,) = parse_ktap(NEW.splitlines()[:-5])
    assert (suite.status, len(suite.cases)) == ("incomplete", 1)
    (suite,) = parse_ktap([line for line in OLD.splitlines() if "ok 2 - ex" not in line])
    assert suite.status == "incomplete", "a planned case is missing"


def test_nothing() -> None:
    assert parse_ktap(["ok 1 - something", "    ok 2 x"]) == []
