"""KUnit on a real kernel."""

from __future__ import annotations

import pytest

from pytest_kgdb.errors import KgdbError


def test_the_kernels_own_example(kgdb, subtests) -> None:
    result = kgdb.kunit("example")
    assert result.status == "passed"
    cases = {case.name: case for case in result.cases}
    assert cases["example_simple_test"].status == "passed"
    assert "initializing" in cases["example_simple_test"].output
    skipped = cases["example_skip_test"]
    assert (skipped.status, skipped.reason) == ("skipped", "this test should be skipped")
    assert result.failed == []
    # The whole of it, as pytest shows it.
    again = kgdb.kunit("example", module="kunit-example-test")
    assert [case.name for case in again.cases] == [case.name for case in result.cases]
    again.report(subtests)


@pytest.mark.kunit("example")
def test_the_marker(kgdb) -> None:
    """Its cases are subtests."""


def test_a_suite_that_is_not_there(kgdb) -> None:
    with pytest.raises(KgdbError, match="no KUnit suite 'none-such' reported") as suite:
        kgdb.kunit("none-such")
    with pytest.raises(KgdbError, match="the module none could not be loaded") as module:
        kgdb.kunit("example", module="none")
    words = r"did not run a KUnit suite 'other' \(it ran: .*example"
    with pytest.raises(KgdbError, match=words) as other:
        kgdb.kunit("other", module="kunit-example-test")
    assert [one.value.by_test for one in (suite, module, other)] == [True] * 3
