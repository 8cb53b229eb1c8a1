"""Guest text made harmless, in each format."""

from __future__ import annotations

import re

import pytest

from pytest_kgdb.escape import clean, clean_name, github_command, markdown, markdown_block


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain\n\ttext\n", "plain\n\ttext\n"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[?25l\x1b[2J\x1b[Hhome", "home"),
        ("\x1b[38:2::255:0:0mred", "red"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b]8;;http://x/\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP+q544e\x1b\\after", "after"),
        ("\x1b]52;c;never ended\nnext line", "\nnext line"),
        ("\x1b(Bline\x1b)0\x1b=\x1b>\x1bM", "line"),
        ("\x9b31mred\x9d0;title\x9ctext", "redtext"),
        ("an escape at the end \x1b", "an escape at the end "),
        ("unfinished \x1b[31", "unfinished "),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("be\x07ep \x00nul \x7fdel \x08back", "beep nul del back"),
        ("user\u202etxt.exe", "usertxt.exe"),
        ("caf\u00e9 \u4e2d \U0001f427", "caf\u00e9 \u4e2d \U0001f427"),
        ("not utf-8: \udcff", "not utf-8: \ufffd"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    assert clean(cleaned) == cleaned
    cleaned.encode("utf-8")


def test_cleaning_leaves_nothing_to_obey() -> None:
    # Taking an escape out must not make another one of what stood around it.
    assert "\x1b" not in clean("\x1b\x1b[m[31mred")
    assert clean("".join(map(chr, range(0x20)))) == "\t\n\n"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("::error file=a,line=1::x", ": :error file=a,line=1::x"),
        ("one\n \t::add-mask::x\n", "one\n \t: :add-mask::x\n"),
        ("\x1b[1m::stop-commands::x", ": :stop-commands::x"),
        ("\r::error::x", "\n: :error::x"),
        ("\u00a0::error::x", "\u00a0: :error::x"),
        (":::error::x", ": ::error::x"),
        ("[ 1.0] ##[error]x", "[ 1.0] # #[error]x"),
        ("###[group]x", "## #[group]x"),
        ("#\x1b[m#[group]x", "# #[group]x"),
        ("a ##vso[task.complete result=Failed;]", "a # #vso[task.complete result=Failed;]"),
        ("##TeamCity[buildStop]", "# #TeamCity[buildStop]"),
        ("section_start:1:x\r\x1b[0Kx", "section_ start:1:x\nx"),
        ("section_end:1:x\r\x1b[0K", "section_ end:1:x\n"),
        ("travis_fold:start:x", "travis_ fold:start:x"),
        ("std::string, [::2], # #, ##x", "std::string, [::2], # #, ##x"),
    ],
)
def test_commands_for_ci_are_no_commands(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    assert clean(cleaned) == cleaned
    assert not re.search(r"^\s*::|##(vso|teamcity)?\[", clean(text), re.M | re.I)


def test_pytests_own_colours_can_stay() -> None:
    text = "\x1b[92m+ a\x1b[39;49;00m \x1b[1m\x1b[31mb\x1b[0m"
    assert clean(text, colours=True) == text
    assert clean("\x1b[8mhides\x1b[0;8m\x1b[2J\x1b]0;t\x07", colours=True) == "hides"
    assert clean("\x1b[\x1b[31m31m::x", colours=True) == "\x1b[31m31m::x\x1b[0m"
    # Without the colour it would be a command; with it, no line begins so.
    assert clean("\x1b[31m::error::x", colours=True) == "\x1b[31m::error::x\x1b[0m"
    assert clean("##\x1b[31m[error]", colours=True) == "##\x1b[31m[error]\x1b[0m"


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("kworker/0:1H", "kworker/0:1H"),
        ("two words", "two words"),
        ("x\n::error::y", "x : :error::y"),
        ("\r##[error]x\u2028", "# #[error]x"),
        ("\x1b[31mred", "red"),
        ("\n", "?"),
    ],
)
def test_the_name_of_a_task(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("\x1b[31mred\nnot red", "\x1b[31mred\x1b[0m\nnot red"),
        ("\x1b[0;1;31mred", "\x1b[0;1;31mred\x1b[0m"),
        ("\x1b[31mred\x1b[39m, and bold?", "\x1b[31mred\x1b[39m, and bold?\x1b[0m"),
        ("\x1b[31mred\x1b[39;49;00m\n", "\x1b[31mred\x1b[39;49;00m\n"),
        ("\x1b[1mbold\x1b[00;39m", "\x1b[1mbold\x1b[00;39m"),
        ("\x1b[90mgrey\x1b[40m", "\x1b[90mgrey\x1b[40m\x1b[0m"),
    ],
)
def test_colours_end_with_their_line(text: str, cleaned: str) -> None:
    assert clean(text, colours=True) == cleaned
    assert clean(cleaned, colours=True) == cleaned


def test_githubs_commands() -> None:
    assert github_command("endgroup") == "::endgroup::"
    shown = github_command("error", "100%\r\n::error::x", file="a,b:c.py", line=3, title=None)
    assert shown == "::error file=a%2Cb%3Ac.py,line=3::100%25%0A::error::x"
    assert github_command("group", "\x1b[1mx") == "::group::x"


def test_markdown_in_a_line() -> None:
    shown = markdown("<b>a|b*\n@you #1 http://x [l](u) `c` &amp; ::error")
    assert "\n" not in shown
    assert not set(shown) & set("<>@")
    assert not re.search(r"(?<!\\)[|*\[\]()`]", shown)
    assert "http://" not in shown
    assert "&#38;amp;" in shown
    assert markdown("fs/open.c") == "fs/open.c"


def test_markdown_in_a_block() -> None:
    text = "one\n```\n# out?\n`````x\n<script>"
    first, *inside, last = markdown_block(text).splitlines()
    assert first == "``````text"
    assert last == "``````"
    assert "\n".join(inside) == text
