"""KUnit on a real kernel."""

from __future__ import annotations

import pytest
from guest_files import built_from

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


# Its first suite cannot be initialised; a case of the second prints what looks like a result.
SUITES = """
#include <kunit/test.h>
#include <linux/module.h>
static int refuse(struct kunit_suite *suite) { return -ENODEV; }
static void speaks(struct kunit *test) { pr_info("ok 1 - another\\n"); }
struct number { int number; char *text; };
static struct number numbers[] = { { 1, "number # 1" }, { 2, "number # 2" } };
static void describe(struct number *n, char *text) { strscpy(text, n->text, 16); }
KUNIT_ARRAY_PARAM(number, numbers, describe);
static void is_one(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, ((const struct number *)test->param_value)->number, 1);
}
static struct kunit_case cases[] = {
	KUNIT_CASE(speaks), KUNIT_CASE_PARAM(is_one, number_gen_params), {}
};
static struct kunit_suite refused = {
	.name = "refused", .suite_init = refuse, .test_cases = cases
};
static struct kunit_suite speaking = { .name = "speaking", .test_cases = cases };
kunit_test_suites(&refused, &speaking);
MODULE_LICENSE("GPL");
"""


def test_suites_of_a_module_of_ones_own(kgdb, kgdb_kernel, tmp_path_factory, subtests) -> None:
    kgdb.put(built_from(SUITES, "suites", kgdb_kernel, tmp_path_factory), "/run/suites.ko")
    refused = kgdb.kunit("refused", module="/run/suites.ko")
    assert (refused.status, refused.cases) == ("failed", ())
    with pytest.raises(AssertionError, match=r"suite refused failed\n.*initialize \(-19\)"):
        refused.report(subtests)
    speaking = kgdb.kunit("speaking", module="/run/suites.ko")
    assert speaking.status == "failed"
    speaks, is_one = speaking.cases
    assert (speaks.status, speaks.output) == ("passed", "ok 1 - another")
    assert [(case.name, case.status) for case in is_one.cases] == [
        ("number # 1", "passed"),
        ("number # 2", "failed"),
    ]


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
