"""A gate's outcome as JUnit XML.

It is valid by Maven Surefire's schema (surefire-test-report.xsd) and by Jenkins' (junit-10.xsd of
its xUnit plugin): properties are of the suite only, a test's elements are in Surefire's order, and
times have three decimals.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from xml.etree import ElementTree

from ._run import Outcome
from ._series import Series, Tested
from ._texts import plain, shortened, xml_text
from ._verdicts import Result, Run, Verdict, summary

__all__ = ["as_junit"]

_NAME: Final = "pytest-kgdb gate"


def as_junit(report: Outcome | Series) -> str:
    """Return the outcome as one test suite, a series as one for each step.

    A test whose verdict is not a good one is a failure; one that could not be run, an error; one
    that tests nothing of the change, skipped. One that varies is flaky in Surefire's sense.
    """
    if isinstance(report, Outcome):
        root = _suite(_NAME, Tested("", report, frozenset()))
    else:  # Surefire has no such root; Jenkins, GitLab and others do
        root = ElementTree.Element("testsuites", name=_NAME)
        root.extend(_suite(step.title, step) for step in report.steps)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _suite(name: str, step: Tested) -> ElementTree.Element:
    outcome = step.outcome
    suite = ElementTree.Element("testsuite")
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _properties(outcome):
        ElementTree.SubElement(properties, "property", name=key, value=xml_text(value))
    cases = [_case(suite, step, result) for result in outcome.results]
    if not outcome.results:
        cases.append(_unbuilt(suite, outcome))
    for key, value in {
        "name": xml_text(plain(name)),
        "time": _seconds(run for result in outcome.results for run in _runs(result)),
        "tests": str(len(cases)),
        "errors": str(cases.count("error")),
        "skipped": str(cases.count("skipped")),
        "failures": str(cases.count("failure")),
    }.items():
        suite.set(key, value)
    return suite


def _properties(outcome: Outcome) -> Iterable[tuple[str, str]]:
    yield "verdict", summary(outcome.status)
    for side, release, build_id in zip(
        outcome.change.sides, outcome.releases, outcome.build_ids, strict=True
    ):
        yield f"{side.name}.kernel", side.label
        yield f"{side.name}.release", release
        yield f"{side.name}.build_id", build_id
    for note in outcome.notes:
        yield "note", plain(note)


def _case(suite: ElementTree.Element, step: Tested, result: Result) -> str:
    """Add a test; return the name of the element that says what it came to."""
    classname, name = _names(plain(result.test))
    case = ElementTree.SubElement(
        suite,
        "testcase",
        name=xml_text(name),
        classname=xml_text(classname),
        time=_seconds(_runs(result)),
    )
    text = xml_text(f"{result.verdict.value}: {result.reason}".removesuffix(": "))
    kind = ""
    failed = [run for run in _runs(result) if run.status == "FAIL"]
    if result.verdict is Verdict.NOT_TESTED:
        kind = "skipped"
        ElementTree.SubElement(case, "skipped", message=shortened(text)).text = text
    elif result.verdict is Verdict.CANNOT_TELL:
        kind = "error"
        _add(case, "error", result.verdict, text)
    elif result.verdict is Verdict.FLAKY:
        for run in failed:
            _add_rerun(case, "flakyFailure", run)
    elif not step.is_good(result):
        kind = "failure"
        _add(case, "failure", result.verdict, text)
        for run in failed[1:]:
            _add_rerun(case, "rerunFailure", run)
    rates = "\n".join(
        f"{side.name}: {sum(run.status == 'PASS' for run in runs)} of {len(runs)} runs passed"
        for side, runs in zip(step.outcome.change.sides, (result.base, result.patched), strict=True)
    )
    ElementTree.SubElement(case, "system-out").text = xml_text(f"{text}\n{rates}\n")
    return kind


def _names(test: str) -> tuple[str, str]:
    """Return a test's class and name, as pytest's own JUnit XML has them."""
    path, bracket, parameters = test.partition("[")
    file, *names = path.split("::")
    *classes, name = names or [""]
    module = file.removesuffix(".py").replace("/", ".")
    return ".".join([module, *classes]), f"{name}{bracket}{parameters}"


def _unbuilt(suite: ElementTree.Element, outcome: Outcome) -> str:
    case = ElementTree.SubElement(suite, "testcase", name="build", classname=_NAME, time="0.000")
    error = ElementTree.SubElement(case, "error", message="no test was run", type="no test")
    error.text = xml_text("\n".join(outcome.notes))
    return "error"


def _add(case: ElementTree.Element, tag: str, verdict: Verdict, text: str) -> None:
    element = ElementTree.SubElement(case, tag, message=shortened(text), type=verdict.value)
    element.text = text


def _add_rerun(case: ElementTree.Element, tag: str, run: Run) -> None:
    text = xml_text(run.message or run.status)
    element = ElementTree.SubElement(case, tag, message=shortened(text), type=run.status)
    ElementTree.SubElement(element, "stackTrace").text = text


def _runs(result: Result) -> tuple[Run, ...]:
    return (*result.base, *result.patched)


def _seconds(runs: Iterable[Run]) -> str:
    return f"{sum(run.seconds for run in runs):.3f}"
