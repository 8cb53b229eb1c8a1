"""A gate's outcome as a table, as JSON and as Markdown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pytest_kgdb.change import Change, Side
from pytest_kgdb.gate import (
    Outcome,
    as_json,
    as_markdown,
    as_table,
)
from pytest_kgdb.gate._verdicts import Result, Run, Verdict, judge
from pytest_kgdb.settings import make_settings

GOOD, BAD = Run("PASS", "", 0.1), Run("FAIL", "assert a |\nb", 0.1)


def outcome(status: int = 0, notes: tuple[str, ...] = ()) -> Outcome:
    settings = make_settings(kernel=["distro:6.1"])
    change = Change(Side("base", settings), Side("patched", settings), ("mm/one.c",))
    results = (
        judge("test_a.py::test_fix", [BAD, BAD], [GOOD, GOOD]),
        judge("test_a.py::test_other", [GOOD, GOOD], [GOOD, GOOD]),
    )
    return Outcome(change, results, status, notes, ("6.1.1", "6.1.1"), ("ab", "cd"))


def test_table() -> None:
    assert as_table(outcome(notes=("mm/two.c is not compiled",))) == [
        "test                   verdict         base        patched",
        "test_a.py::test_fix    proves the fix  0/2 passed  2/2 passed",
        "    assert a |",
        "    b",
        "test_a.py::test_other  passes both     2/2 passed  2/2 passed",
        "note: mm/two.c is not compiled",
        "proven: 1 proves the fix, 1 passes both",
        "suggested trailer: Tested-by: YOUR NAME <YOU@EXAMPLE.ORG> # pytest-kgdb gate",
    ]


def test_no_trailer_where_nothing_is_proven() -> None:
    assert as_table(outcome(status=1))[-1].startswith("not proven: ")


def test_a_test_that_was_skipped() -> None:
    skipped = (Run("SKIP", "not yet"),) * 2
    result = Result("test_a.py::test_it", Verdict.NOT_TESTED, "skipped: not yet", skipped, skipped)
    lines = as_table(replace(outcome(status=1), results=(result,)))
    assert lines[1:3] == [
        "test_a.py::test_it  not tested  skipped  skipped",
        "    skipped: not yet",
    ]


def test_json() -> None:
    values = json.loads(json.dumps(as_json(outcome())))
    assert values["schema"] == "pytest-kgdb gate 1"
    assert (values["verdict"], values["status"]) == ("proven", 0)
    assert values["FAIL_TO_PASS"] == ["test_a.py::test_fix"]
    assert values["PASS_TO_PASS"] == ["test_a.py::test_other"]
    assert values["PASS_TO_FAIL"] == values["FAIL_TO_FAIL"] == []
    assert values["base"]["build_id"] == "ab"
    fix = values["tests"][0]
    assert fix["verdict"] == "proves the fix"
    assert fix["base"]["statuses"] == ["FAIL", "FAIL"]
    assert (fix["patched"]["runs"], fix["patched"]["passed"]) == (2, 2)


def test_json_is_described() -> None:
    page = (Path(__file__).parents[2] / "docs/gate.md").read_text()
    values = as_json(outcome())
    for name in {*values, *values["tests"][0], *values["tests"][0]["base"], *values["base"]}:
        assert f"`{name}`" in page


def test_markdown() -> None:
    text = as_markdown(outcome())
    assert text.startswith("### pytest-kgdb gate: proven\n")
    rates = "0/2 passed | 2/2 passed"
    row = f"| `test_a.py::test_fix` | **proves the fix** | {rates} | `assert a \\| b` |"
    assert row in text.splitlines()
