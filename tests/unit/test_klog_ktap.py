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


# Linux 6.1: its suite_init returned an error; a suite behind it ran.
NOT_BEGUN = """\
    # first:     # failed to initialize (-19)
not ok 1 first
    KTAP version 1
    # Subtest: second
    1..1
    ok 1 case
ok 2 second
not ok 1 first
"""


def test_a_suite_that_could_not_be_initialised() -> None:
    first, second = parse_ktap(NOT_BEGUN.splitlines())
    assert (first.name, first.status, first.cases) == ("first", "failed", ())
    assert first.text == "    # first:     # failed to initialize (-19)\nnot ok 1 first"
    assert (second.name, second.status, len(second.cases)) == ("second", "passed", 1)
    # Behind one that did not come to its end.
    lines = [*NEW.splitlines()[:-3], *NOT_BEGUN.splitlines()]
    assert [(suite.name, suite.status) for suite in parse_ktap(lines)] == [
        ("first", "failed"),
        ("example", "incomplete"),
        ("second", "passed"),
    ]


def test_names_with_a_hash() -> None:
    text = NEW.replace("value 3", "value # 3").replace("value 1", "value # 1 # XFAIL not yet")
    (suite,) = parse_ktap(text.splitlines())
    assert [(case.name, case.status, case.reason) for case in suite.cases[0].cases] == [
        ("example value # 3", "passed", ""),
        ("example value 2", "skipped", "unsupported param value"),
        ("example value # 1", "failed", "not yet"),
    ]


def test_what_a_case_prints_is_no_result_of_the_suite() -> None:
    lines = NEW.replace("random: crng init done", "not ok 1 - other").splitlines()
    (suite,) = parse_ktap(lines)
    assert (suite.status, len(suite.cases)) == ("failed", 2)
    assert suite.cases[1].output == "not ok 1 - other"


def test_nothing() -> None:
    assert parse_ktap(["ok 1 - something", "    ok 2 x"]) == []
