"""A gate's outcome for other programs: JUnit, SARIF, GitLab, GitHub, KTAP.

The texts come from tests, and through them from a guest: some of these are made to be taken for
something else.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_kgdb.change import Change, ChangedLines, Side, changed_lines
from pytest_kgdb.gate import (
    Outcome,
    Verdict,
    as_annotations,
    as_gitlab,
    as_json,
    as_junit,
    as_ktap,
    as_markdown,
    as_sarif,
    as_table,
    without_commands,
)
from pytest_kgdb.gate._formats import patchset_hash
from pytest_kgdb.gate._texts import code_span
from pytest_kgdb.gate._verdicts import Run, exit_status, judge
from pytest_kgdb.kernel import Patch
from pytest_kgdb.settings import make_settings

EVIL = (
    "\x1b[31mred\x1b[0m\x00\x08\ud800]]>&lt;<b>&\"'`a``b`|c\n::error::no %0A:,\r\n"
    "ok 1 no # SKIP\n# Subtest: no\n<img src=x> @user #1 | \u202e"
)
GOOD, BAD = Run("PASS", "", 0.1), Run("FAIL", EVIL, 0.1)
MISS, SKIP = Run("MISS", "BootError: it panicked"), Run("SKIP", EVIL)
LINES = (ChangedLines("mm/one,two:3.c", 7, 9), ChangedLines("mm/two.c", 1, 1))


def outcome(status: int | None = None, **values: Any) -> Outcome:
    settings = make_settings(kernel=["distro:6.1"])
    change = Change(
        Side("base", settings), Side("patched", settings), ("mm/one,two:3.c", "mm/two.c"), LINES
    )
    results = (
        judge("a/test_a.py::TestA::test_fix[x]", [BAD, BAD], [GOOD, GOOD]),
        judge(f"test_a.py::test_{EVIL}", [GOOD, GOOD], [GOOD, GOOD]),
        judge("test_a.py::test_broken", [GOOD, GOOD], [BAD, BAD]),
        judge("test_a.py::test_fails", [BAD, BAD], [BAD, BAD]),
        judge("test_a.py::test_flaky", [BAD, GOOD, BAD], [GOOD, GOOD]),
        judge("test_a.py::test_lost", [MISS, MISS], [GOOD, GOOD]),
        judge("test_a.py::test_skipped", [SKIP], [SKIP]),
    )
    of_results = exit_status(results, None) if status is None else status
    whole = Outcome(change, results, of_results, (EVIL,), ("6.1.1", "6.1.1"), ("ab", "cd"))
    return replace(whole, **values)


def proven() -> Outcome:
    result = judge("test_a.py::test_fix", [BAD], [GOOD])
    return outcome(0, results=(result,), notes=())


def unbuilt() -> Outcome:
    return outcome(1, results=(), notes=("the tree is dirty", f"it does not compile: {EVIL}"))


# JUnit, by the rules of surefire-test-report.xsd and of junit-10.xsd (Jenkins' xUnit plugin)

ORDER = (
    *("failure", "rerunFailure", "flakyFailure", "skipped", "error", "rerunError", "flakyError"),
    *("system-out", "system-err"),
)
TIME = re.compile(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]{0,3})?")
ATTRIBUTES = {  # required, then allowed
    "testsuite": (
        {"name", "tests", "errors", "skipped", "failures"},
        {"time", "group"},
    ),
    "properties": (set(), set()),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "time"}, {"classname", "group"}),
    "failure": ({"type"}, {"message"}),
    "error": ({"type"}, {"message"}),
    "skipped": (set(), {"message"}),
    "rerunFailure": ({"type"}, {"message"}),
    "flakyFailure": ({"type"}, {"message"}),
    "stackTrace": (set(), set()),
    "system-out": (set(), set()),
}
CHILDREN = {
    "testsuite": ("properties", "testcase"),
    "properties": ("property",),
    "testcase": ORDER,
    "rerunFailure": ("stackTrace", "system-out", "system-err"),
    "flakyFailure": ("stackTrace", "system-out", "system-err"),
}
ONCE = {"properties", "skipped", "error", "stackTrace", "system-out", "system-err"}


def check_junit(element: ElementTree.Element) -> None:
    required, allowed = ATTRIBUTES[element.tag]
    assert required <= set(element.keys()) <= required | allowed, element.tag
    if "time" in element.keys():  # noqa: SIM118 # an Element is no mapping
        assert TIME.fullmatch(element.attrib["time"])
    order = CHILDREN.get(element.tag, ())
    tags = [child.tag for child in element]
    assert set(tags) <= set(order), element.tag
    assert tags == sorted(tags, key=order.index)
    assert all(tags.count(tag) <= 1 for tag in ONCE)
    if element.tag in ("rerunFailure", "flakyFailure"):
        assert "stackTrace" in tags
    for child in element:
        check_junit(child)


@pytest.mark.parametrize("make", [outcome, proven, unbuilt])
def test_junit_is_valid(make: Callable[[], Outcome]) -> None:
    suite = ElementTree.fromstring(as_junit(make()).encode())
    assert suite.tag == "testsuite"
    check_junit(suite)
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases)
    for attribute, tag in (("errors", "error"), ("skipped", "skipped"), ("failures", "failure")):
        assert int(suite.attrib[attribute]) == sum(case.find(tag) is not None for case in cases)


def test_what_junit_says_of_each_verdict() -> None:
    suite = ElementTree.fromstring(as_junit(outcome()).encode())
    kinds = [[child.tag for child in case] for case in suite.findall("testcase")]
    assert kinds == [
        ["system-out"],
        ["system-out"],
        ["failure", "rerunFailure", "system-out"],
        ["failure", *["rerunFailure"] * 3, "system-out"],
        ["flakyFailure", "flakyFailure", "system-out"],
        ["error", "system-out"],
        ["skipped", "system-out"],
    ]
    first = suite.find("testcase")
    assert first is not None
    assert first.attrib["classname"] == "a.test_a.TestA"
    assert first.attrib["name"] == "test_fix[x]"
    names = {one.attrib["name"] for one in suite.iter("property")}
    assert {"verdict", "base.kernel", "patched.build_id", "note"} <= names


def test_junit_of_what_the_user_expects() -> None:
    expected = (Verdict.BROKEN, Verdict.FAILS_BOTH)
    suite = ElementTree.fromstring(as_junit(outcome(expected=expected)).encode())
    failed = [
        case.attrib["name"] for case in suite.iter("testcase") if case.find("failure") is not None
    ]
    assert "test_broken" not in failed
    assert "test_fix[x]" in failed


def test_junit_without_characters_that_xml_cannot_have() -> None:
    result = judge("test_a.py::test_a", [Run("FAIL", "a\ufffeb\uffffc\x0bd")], [GOOD])
    (case,) = ElementTree.fromstring(as_junit(outcome(results=(result,)))).iter("testcase")
    assert "abcd" in str(case.findtext("system-out"))


def test_junit_of_a_kernel_that_cannot_be_built() -> None:
    suite = ElementTree.fromstring(as_junit(unbuilt()).encode())
    error = suite.find("testcase/error")
    assert error is not None
    assert "it does not compile" in str(error.text)


# Findings


def test_sarif() -> None:
    values = json.loads(json.dumps(as_sarif(outcome())))
    assert values["version"] == "2.1.0"
    (run,) = values["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    results = run["results"]
    assert [result["ruleId"] for result in results] == [
        *("broken", "fails-both", "flaky", "cannot-tell"),
    ]
    for result in results:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("error", "warning")
        assert result["message"]["text"]
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        # RFC 3986: a colon in a relative reference's first part would be a scheme's.
        assert physical["artifactLocation"]["uri"] == "mm/one,two%3A3.c"
        assert physical["region"] == {"startLine": 7, "endLine": 9}
        (related,) = result["relatedLocations"]
        assert related["physicalLocation"]["artifactLocation"]["uri"] == "mm/two.c"
    prints = [result["partialFingerprints"]["pytestKgdbGate/v1"] for result in results]
    assert len(set(prints)) == len(prints)


def test_what_is_proven_has_no_findings() -> None:
    assert as_sarif(proven())["runs"][0]["results"] == []
    assert as_gitlab(proven()) == as_annotations(proven()) == []


def test_what_is_not_proven() -> None:
    both = judge("test_a.py::test_other", [GOOD], [GOOD])
    (entry,) = as_gitlab(outcome(1, results=(both,)))
    assert entry["check_name"] == "pytest-kgdb gate: not-proven"
    assert entry["description"] == "no test proves this change: 1 do not fail without it"
    (entry,) = as_gitlab(unbuilt())
    assert entry["check_name"] == "pytest-kgdb gate: not-built"
    assert entry["description"].startswith("it does not compile: red")


def test_a_change_without_lines() -> None:
    change = replace(outcome().change, lines=(), files=())
    entries = as_gitlab(replace(outcome(), change=change))
    assert {entry["location"]["path"] for entry in entries} == {"test_a.py"}
    (entry,) = as_gitlab(replace(unbuilt(), change=change))
    assert entry["location"]["path"] == "Makefile"


def test_gitlab() -> None:
    entries = as_gitlab(outcome())
    assert len({entry["fingerprint"] for entry in entries}) == len(entries) == 4
    for entry in entries:
        assert set(entry) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert entry["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert entry["location"] == {"path": "mm/one,two:3.c", "lines": {"begin": 7, "end": 9}}
        assert entry["description"].isprintable()


def test_annotations() -> None:
    lines = as_annotations(outcome())
    assert [line.partition(" ")[0] for line in lines] == [
        *("::error", "::error", "::warning", "::warning"),
    ]
    head = "::error file=mm/one%2Ctwo%3A3.c,line=7,endLine=9,title=pytest-kgdb gate%3A broken::"
    assert lines[0].startswith(f"{head}test_a.py::test_broken: broken by the change: red")
    assert "no %250A:," in lines[0]
    assert all(line.isprintable() for line in lines)


def test_no_more_annotations_than_github_shows() -> None:
    results = tuple(judge(f"test_a.py::test_{i}", [GOOD], [BAD]) for i in range(25))
    lines = as_annotations(outcome(results=results))
    assert len(lines) == 10
    assert lines[-1].endswith("(and 16 more: see the report)")


def test_no_line_of_the_table_is_a_command() -> None:
    table = without_commands(as_table(outcome()))
    first, last = table[0], table[-1]
    token = first.removeprefix("::stop-commands::")
    assert len(token) >= 32
    assert last == f"::{token}::"
    assert token not in "\n".join(table[1:-1])
    assert without_commands([])[0] != first


# Texts


def test_the_table_has_no_escapes() -> None:
    for line in "\n".join(as_table(outcome())).split("\n"):
        assert line.isprintable(), line


def test_markdown_rows() -> None:
    rows = [line for line in as_markdown(outcome()).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(outcome().results)
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 6, row


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("a", "`a`"),
        ("", ""),
        ("a`b", "``a`b``"),
        ("`a``", "``` `a`` ```"),
        ("a|b", "`a\\|b`"),
        ("a\n<b>", "`a <b>`"),
    ],
)
def test_code_span(text: str, span: str) -> None:
    assert code_span(text, table=True) == span


def test_code_span_outside_of_a_table() -> None:
    assert code_span("a|b") == "`a|b`"
    assert len(code_span("x" * 1000)) == 402


# KTAP (Documentation/dev-tools/ktap.rst)

RESULT = re.compile(
    r"(?:not )?ok (\d+)(?: [^#\n]*)?(?: # (?:(?:SKIP|TODO|XFAIL|TIMEOUT|ERROR).*)?)?"
)


@pytest.mark.parametrize("make", [outcome, proven, unbuilt])
def test_ktap_is_valid(make: Callable[[], Outcome]) -> None:
    head, *lines = as_ktap(make()).splitlines()
    assert head == "KTAP version 1"
    plan = [line for line in lines if line.startswith("1..")]
    assert len(plan) == 1
    rest = [line for line in lines if line not in plan]
    results = [line for line in rest if not line.startswith("# ")]
    assert not any(line.startswith("# Subtest") for line in rest)
    matches = [RESULT.fullmatch(line) for line in results]
    numbers = [int(match[1]) for match in matches if match]
    assert numbers == list(range(1, int(plan[0][3:]) + 1))
    assert len(numbers) == len(results)


def test_what_ktap_says_of_each_verdict() -> None:
    results = [line for line in as_ktap(outcome()).splitlines() if re.match("(not )?ok", line)]
    assert [line.partition(" test_")[0].partition(" a/")[0] for line in results] == [
        *("ok 1", "ok 2", "not ok 3", "not ok 4", "not ok 5", "not ok 6", "ok 7"),
    ]
    assert results[5].endswith("# ERROR on the base: BootError: it panicked")
    assert " # SKIP skipped: red" in results[6]


# The change


def test_changed_lines() -> None:
    first = """\
--- a/mm/one.c
+++ b/mm/one.c
@@ -1,3 +1,3 @@
 a
-old
+new
 b
@@ -10,3 +10,2 @@
 x
-gone
 y
--- /dev/null
+++ b/mm/two.c
@@ -0,0 +1,2 @@
+int a;
+int b;
"""
    # It moves what the first one changed by two lines, as far as it is behind.
    second = """\
--- a/mm/one.c
+++ b/mm/one.c
@@ -4,2 +4,4 @@
 c
+more
+lines
 d
"""
    patches = [Patch("first", first.encode()), Patch("second", second.encode())]
    assert changed_lines(patches[:1]) == (
        ChangedLines("mm/one.c", 2, 2),
        ChangedLines("mm/one.c", 10, 10),
        ChangedLines("mm/two.c", 1, 2),
    )
    assert changed_lines(patches) == (
        ChangedLines("mm/one.c", 2, 2),
        ChangedLines("mm/one.c", 12, 12),
        ChangedLines("mm/two.c", 1, 2),
        ChangedLines("mm/one.c", 5, 6),
    )
    assert changed_lines([Patch("malformed", b"--- a\n+++ b\n@@ -1,9 +1 @@\n-x\n")]) == ()


def test_patchset_hash_as_kcidb_has_it(tmp_path: Path) -> None:
    assert patchset_hash([]) == ""
    for name in ("1.patch", "2.patch"):
        (tmp_path / name).write_text(f"--- {name}\n")
    command = "sha256sum *.patch | cut -c-64 | sha256sum | cut -c-64"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    names = [tmp_path / "1.patch", tmp_path / "2.patch"]
    assert patchset_hash(names) == done.stdout.strip()
    assert patchset_hash(names) != patchset_hash(names[::-1])
    series = tmp_path / "quilt"
    series.mkdir()
    (series / "series").write_text("../1.patch -p1\n# a comment\n../2.patch\n")
    assert patchset_hash([series]) == done.stdout.strip()
    empty = hashlib.sha256(hashlib.sha256(b"").hexdigest().encode() + b"\n").hexdigest()
    (tmp_path / "3.patch").touch()
    assert patchset_hash([tmp_path / "3.patch"]) == empty


def test_json_has_the_lines() -> None:
    values = json.loads(json.dumps(as_json(outcome())))
    assert values["lines"][0] == {"file": "mm/one,two:3.c", "first": 7, "last": 9}
    assert values["patchset_hash"] == ""


def test_a_long_message_is_whole_where_there_is_room() -> None:
    result = judge("test_a.py::test_a", [GOOD], [Run("FAIL", "x" * 5000)])
    whole = outcome(results=(result,))
    assert max(map(len, as_table(whole))) < 500
    failure = ElementTree.fromstring(as_junit(whole)).find("testcase/failure")
    assert failure is not None
    assert len(failure.attrib["message"]) <= 400
    assert "x" * 5000 in str(failure.text)
    assert as_json(whole)["tests"][0]["reason"] == "x" * 5000
