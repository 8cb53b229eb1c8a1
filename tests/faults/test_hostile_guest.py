"""A guest that prints commands for terminals, CI systems, XML, HTML and Markdown, for real.

Whatever it prints, and wherever a test's author shows it, it changes nothing outside its place.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from inner_run import InnerRun, Outcome

# As printf(1) writes it. No single quote, no %: it stands in a command of the guest's shell.
HOSTILE = (
    r"::error file=x,line=1::HOSTILE\n \t::add-mask::HOSTILE\n##[error]HOSTILE\n"
    r"x ##vso[task.complete result=Succeeded;]HOSTILE\n##teamcity[buildStop HOSTILE]\n"
    r"section_start:1:HOSTILE\r\033[0Kx\n\033]0;HOSTILE\007\033[2J\033[8mHOSTILE\n"
    r"\033[31m::error::HOSTILE\n\001\013\014\022\n]]>HOSTILE</system-out>\n"
    r"<script>alert(1)</script>HOSTILE<img src=x onerror=alert(1)>\n{{ 7 * 7 }}\n"
    r"```\n# HOSTILE\n| a | @HOSTILE |\n\r::warning::HOSTILE\r\n"
)

TESTS = f"""
import sys
import pytest

HOSTILE = {HOSTILE!r}


def hostile(kgdb):
    kgdb.run("printf '%b' '" + HOSTILE.replace("\\\\n", "\\\\\\\\n") + "' > /dev/kmsg; true")
    return kgdb.run("printf '%b' '" + HOSTILE + "'").output


def test_asserted(kgdb):
    text = hostile(kgdb)
    assert "HOSTILE" in text and "\\x1b" in text
    assert text == ""


def test_message(kgdb):
    assert False, hostile(kgdb)


def test_failed(kgdb):
    pytest.fail(hostile(kgdb), pytrace=False)


def test_printed(kgdb):
    text = hostile(kgdb)
    print(text)
    print(text, file=sys.stderr)
    raise ValueError(text)


def test_passed(kgdb):
    print(hostile(kgdb))


def test_skipped(kgdb):
    pytest.skip(hostile(kgdb))


def test_console(kgdb):
    hostile(kgdb)
    kgdb.type("printf '%b' '" + HOSTILE + "'")
    kgdb.resume()
    kgdb.console.wait_for(b"onerror=alert.*7 . 7.*warning::HOSTILE", mark=0, timeout=1)
"""


@pytest.fixture(scope="module", params=["auto", "native"])
def ran(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    session_options: list[str],
) -> tuple[Path, Outcome]:
    """A run that writes all formats."""
    directory = tmp_path_factory.mktemp("hostile")
    options = ["-rA", f"--tb={request.param}", "--color=yes", "--showlocals"]
    options += ["--junitxml=junit.xml", "--html=out.html", "--self-contained-html"]
    options += ["--kgdb-report=page", "--kgdb-record=record", "-o", "junit_logging=all"]
    return directory, InnerRun(directory, TESTS, [*session_options, *options]).end()


def test_nothing_in_the_log_of_a_job_is_a_command(ran: tuple[Path, Outcome]) -> None:
    output = ran[1].output
    assert output.count("HOSTILE") > 50, output
    assert not re.search(r"^\s*::", output, re.M), output
    assert not re.search(r"##(vso|teamcity)?\[", output, re.I)
    assert not re.search(r"section_(start|end):", output)


def test_no_escape_reaches_the_terminal_but_pytests_colours(ran: tuple[Path, Outcome]) -> None:
    escapes = set(re.findall(r"\x1b(?:\[[0-9;]*m)?", ran[1].output))
    assert escapes  # pytest's own
    assert {number for escape in escapes for number in re.findall(r"\d+", escape)} <= {
        *("0", "00", "1", "01", "31", "32", "33", "34", "35", "36", "39", "49"),
        *map(str, range(90, 98)),
    }
    assert not re.search(r"\x1b(?!\[[0-9;]*m)", ran[1].output)
    assert not re.search(r"[\x00-\x08\x0b-\x1a\x7f]", ran[1].output)


def test_junits_xml(ran: tuple[Path, Outcome]) -> None:
    tree = ElementTree.parse(ran[0] / "junit.xml")
    cases = {case.get("name"): case for case in tree.iter("testcase")}
    assert len(cases) == 7
    assert {element.tag for element in tree.iter()} <= {
        *("testsuites", "testsuite", "testcase", "failure", "skipped", "system-out", "system-err"),
    }
    assert "<script>alert(1)</script>HOSTILE" in "".join(cases["test_message"].itertext())


def test_pytest_html(ran: tuple[Path, Outcome]) -> None:
    parts = [(ran[0] / "out.html").read_text()]

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            for name, value in attrs:
                assert name != "onerror"
                assert (name, value) != ("src", "x")
                if name == "data-jsonblob":  # a script of the page makes elements of it
                    parts.append(json.dumps(json.loads(value or ""), ensure_ascii=False))

    Reader().feed(parts[0])
    assert "HOSTILE" in parts[1]
    Reader().feed(parts[1])
    assert "alert(1)</script>" not in parts[1]


def test_the_page_of_the_run(ran: tuple[Path, Outcome]) -> None:
    text = (ran[0] / "page/index.html").read_text()
    elements: set[str] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            elements.add(tag)
            assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)

    Reader().feed(text)
    assert elements <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "div", "p", "span", "b"),
        *("code", "pre", "details", "summary", "i", "ol", "li", "time"),
    }
    assert text.count("HOSTILE") > 50
    assert "{{ 7 * 7 }}" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)


def test_the_record(ran: tuple[Path, Outcome]) -> None:
    lines = (ran[0] / "record").read_text().splitlines()
    *tests, end = [json.loads(line) for line in lines]
    assert len(tests) == 7
    assert end == {"finished": True}
