"""The sections of a failed kernel test in JUnit's XML."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from _pytest.junitxml import bin_xml_escape, xml_key

__all__ = ["JunitSections"]


class JunitSections:
    """Puts our sections into a failed test's `system-out`; a pytest plugin.

    pytest itself writes captured output only, and none without `junit_logging`. The XML is written
    where the reports of pytest-xdist's workers arrive.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the sections of a failed test to its element."""
        xml = self._config.stash.get(xml_key, None)
        shown = [
            f"{f' {title} ':-^80}\n{text}"
            for title, text in report.sections
            if title.startswith("kgdb")
        ]
        if xml is None or not report.failed or not shown:
            return
        element = ElementTree.Element("system-out")
        element.text = bin_xml_escape("\n".join(shown))
        xml.node_reporter(report).append(element)
