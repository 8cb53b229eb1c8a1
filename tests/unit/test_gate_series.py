"""A series step by step: its steps, what they come to together, and its reports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_change import FIX, git, make_tree
from test_gate_reports import check_junit

from pytest_kgdb.change import Change, Side
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.gate import (
    Outcome,
    Series,
    Step,
    as_annotations,
    as_gitlab,
    as_json,
    as_junit,
    as_ktap,
    as_markdown,
    as_sarif,
    as_table,
    each_patch,
    each_revision,
    run_each,
)
from pytest_kgdb.gate._verdicts import Run, Verdict, exit_status, judge
from pytest_kgdb.settings import Settings, make_settings

SECOND = FIX.replace("-old\n+new", "-new\n+newer")
MBOX = """\
From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001
From: A <a@example.org>
Subject: [PATCH {0}/2] mm: {1}

---
{2}
"""
_STATUS = {"p": "PASS", "f": "FAIL", "m": "MISS"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(kernel=[str(make_tree(tmp_path))])


def test_each_revision(settings: Settings) -> None:
    tree = Path(settings.kernel[0])
    for text in ("newer\n", "newest\n"):
        (tree / "mm/one.c").write_text(text)
        git(tree, "commit", "-q", "-a", "-m", f"mm: {text.strip()}")
    steps = each_revision(settings, "HEAD~2", "")
    assert [step.title.partition(" ")[2] for step in steps] == ['("mm: newer")', '("mm: newest")']
    first, second = (step.change for step in steps)
    assert first.patched.spec == second.base.spec
    assert second.patched.spec == f"{tree}@{git(tree, 'rev-parse', 'HEAD')}"
    with pytest.raises(ConfigError, match=re.escape("there are no commits in HEAD..HEAD~2")):
        each_revision(settings, "HEAD", "HEAD~2")


def test_each_patch(settings: Settings, tmp_path: Path) -> None:
    box = tmp_path / "series.mbox"
    box.write_text(MBOX.format(2, "then: this", SECOND) + MBOX.format(1, "first", FIX))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    first, second = each_patch(settings, [box], scratch)
    assert (first.title, second.title) == (
        "series.mbox: [PATCH 1/2] mm: first",
        "series.mbox: [PATCH 2/2] mm: then: this",
    )
    assert first.change.base.settings == settings
    assert first.change.patched.settings == second.change.base.settings
    names = [path.name for path in second.change.patched.settings.patch]
    assert names == ["0001-mm-first.patch", "0002-mm-then-this.patch"]


def test_patches_that_are_not_applied_as_a_file_is(
    settings: Settings,
    tmp_path: Path,
) -> None:
    quilt = tmp_path / "quilt"
    quilt.mkdir()
    (quilt / "one.diff").write_text(FIX.replace("a/mm", "mm").replace("b/mm", "mm"))
    (quilt / "two.diff").write_text(FIX)
    (quilt / "series").write_text("one.diff -p0\ntwo.diff -R\n")
    steps = each_patch(settings, [quilt], tmp_path)
    assert [step.change.files for step in steps] == [("mm/one.c",)] * 2
    one, two = (step.change.patched.settings.patch[-1] for step in steps)
    assert (one / "series").read_text() == "../0001-one.patch -p0\n"
    assert (two / "series").read_text() == "../0002-two.patch -p1 -R\n"


def series(
    *steps: dict[str, str] | Exception, expected: tuple[Verdict, ...] | None = None
) -> Series:
    """A series whose tests come to this on both sides: `{"fix": "f p"}`."""
    here = make_settings(kernel=["distro:6.1"])
    change = Change(Side("base", here), Side("patched", here), ("mm/one.c",))

    def gate(number: int, step: Step) -> Outcome:
        outcome = steps[number - 1]
        if isinstance(outcome, Exception):
            raise outcome
        results = tuple(
            judge(f"test_a.py::test_{name}", *(
                [Run(_STATUS[one], "" if one == "p" else "it failed") for one in side]
                for side in sides.split()
            ))
            for name, sides in outcome.items()
        )  # fmt: skip
        status = exit_status(results, expected) if results else 1
        notes = () if results else ("the patched kernel cannot be built: it does not compile",)
        return Outcome(change, results, status, notes, ("6.1", "6.1"), ("a", "b"), expected)

    return run_each([Step(f"commit {number}", change) for number, _ in enumerate(steps, 1)], gate)


FIXED = ({"fix": "ff ff"}, {"fix": "ff pp"}, {"fix": "pp pp"})


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        (FIXED, 0),
        (({"fix": "pp pp"},) * 2, 1),
        # It fails until the end.
        (({"fix": "ff ff"},) * 2, 1),
        (({"fix": "ff pp", "other": "ff ff"},), 1),
        # A commit that breaks what a later one fixes breaks bisection.
        (({"fix": "pp ff"}, {"fix": "ff pp"}), 1),
        ((*FIXED, {"fix": "pp pf"}), 6),
        ((*FIXED, {"fix": "pp mm"}), 6),
        ((*FIXED, {}), 1),
        ((*FIXED, ConfigError("a symbol did not survive olddefconfig")), 6),
    ],
)
def test_the_status_of_a_series(steps: tuple[dict[str, str]], status: int) -> None:
    assert series(*steps).status == status


def test_the_status_of_what_the_user_expects() -> None:
    expected = (Verdict.FAILS_BOTH, Verdict.PASSES_BOTH)
    assert series({"fix": "ff ff"}, {"fix": "pp pp"}, expected=expected).status == 0
    assert series(*FIXED, expected=expected).status == 1


def test_a_step_that_cannot_be_built_does_not_end_it() -> None:
    table = as_table(series({"fix": "ff ff"}, {}, ConfigError("there is no symbol X"), *FIXED[1:]))
    assert table == [
        "commit    verdict",
        "commit 1  1 fails both",
        "    test_a.py::test_fix: fails both: it failed",
        "commit 2  cannot tell",
        "    the patched kernel cannot be built: it does not compile",
        "commit 3  cannot tell",
        "    a kernel cannot be built: there is no symbol X",
        "commit 4  1 proves the fix",
        "    test_a.py::test_fix: proves the fix: it failed",
        "commit 5  1 passes both",
        "not proven: 5 steps",
    ]


def test_the_reports_of_a_series() -> None:
    whole = series(*FIXED, {"fix": "pp ff"}, {})
    suites = ElementTree.fromstring(as_junit(whole).encode())
    assert suites.tag == "testsuites"
    for suite in suites:
        check_junit(suite)
    assert [suite.attrib["failures"] for suite in suites] == ["0", "0", "0", "1", "0"]
    (run,) = json.loads(json.dumps(as_sarif(whole)))["runs"]
    assert [result["ruleId"] for result in run["results"]] == ["broken", "not-built"]
    assert not run["invocations"][0]["executionSuccessful"]
    assert as_gitlab(whole)[0]["description"].startswith("commit 4: test_a.py::test_fix: broken")
    assert len(as_annotations(whole)) == 2
    rows = [line for line in as_markdown(whole).splitlines() if line.startswith("| `")]
    assert len(rows) == 5
    values = as_json(whole)
    assert values["schema"] == "pytest-kgdb gate series 1"
    assert [one["title"] for one in values["commits"]] == [f"commit {i}" for i in range(1, 6)]
    assert as_gitlab(series(*FIXED)) == []


def test_the_ktap_of_a_series() -> None:
    lines = as_ktap(series(*FIXED, {})).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "KTAP version 1",
        "1..4",
        *("ok 1 commit 1", "ok 2 commit 2", "ok 3 commit 3", "not ok 4 commit 4"),
    ]
    assert lines[2:5] == ["  KTAP version 1", "  # Subtest: commit 1", "  1..1"]
    assert "  ok 1 test_a.py::test_fix" in lines


def test_a_series_that_proves_nothing() -> None:
    (entry,) = as_gitlab(series({"fix": "pp pp"}, {"fix": "pp pp"}))
    assert entry["check_name"] == "pytest-kgdb gate: not-proven"
