"""Failure reports: cleaned of terminal escapes, bounded, saved to files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.report import HEAD_LINES, MAX_LINE, TAIL_LINES, bound, clean, save, sections


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


def test_short_texts_are_whole() -> None:
    text = "\n".join(str(n) for n in range(HEAD_LINES + TAIL_LINES))
    assert bound(text) == text
    assert bound("") == ""


def test_long_texts_keep_both_ends() -> None:
    lines = [str(n) for n in range(1000)]
    shown = bound("\n".join(lines)).splitlines()
    assert shown[:HEAD_LINES] == lines[:HEAD_LINES]
    assert shown[HEAD_LINES] == f"… {1000 - HEAD_LINES - TAIL_LINES} lines left out …"
    assert shown[HEAD_LINES + 1 :] == lines[-TAIL_LINES:]


def test_long_lines_are_cut() -> None:
    assert bound("x" * 5000) == "x" * MAX_LINE + " … (5000 characters)"


def test_sections_are_clean_and_not_empty() -> None:
    texts = [
        ("kgdb console", "\n\x1b[1mboot\x1b[0m\n\n"),
        ("kgdb stop", ""),
        ("kgdb gdb", "\x1b[m"),
    ]
    assert sections(texts) == [("kgdb console", "boot")]


def test_everything_is_saved(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"\x1b[2Jraw\xff")
    text = "\n".join(str(n) for n in range(1000))
    saved = save(
        tmp_path / "out",
        "tests/test_x.py::TestY::test_z[a-1]",
        [("kgdb console", text + "\x1b[m"), ("odd: title/", "\udc80")],
        [log, tmp_path / "absent.log"],
    )
    assert saved == tmp_path / "out/tests/test_x.py/TestY/test_z[a-1]"
    assert (saved / "kgdb-console.txt").read_text() == text + "\n"
    assert (saved / "odd-title.txt").read_text() == "\ufffd\n"
    assert (saved / "console.log").read_bytes() == b"\x1b[2Jraw\xff"
    # A second failure of the same test takes the first one's place.
    again = save(
        tmp_path / "out", "tests/test_x.py::TestY::test_z[a-1]", [("kgdb console", "")], []
    )
    assert again == saved
    assert (saved / "kgdb-console.txt").read_text() == "\n"


@pytest.mark.parametrize(
    "test",
    [
        "../../etc/test_x.py::test_y",
        "test_x.py::test_y[../../../root]",
        "test_x.py::test_y[..]",
        "test_x.py::test_y[" + "long " * 100 + "]",
        "test_x.py::test_y[\u4e2d \x00 \n $(reboot)]",
        "/absolute::..::.",
    ],
)
def test_a_tests_name_leads_nowhere_else(tmp_path: Path, test: str) -> None:
    out = tmp_path / "out"
    saved = save(out, test, [("x", "y")], [])
    assert saved.resolve().is_relative_to(out)
    assert ".." not in saved.parts
    assert (saved / "x.txt").exists()


def test_different_tests_have_different_directories(tmp_path: Path) -> None:
    names = ["t.py::a[x y]", "t.py::a[x_y]", "t.py::a[x$y]", "t.py::a[" + "z" * 300 + "1]"]
    names.append(names[-1].replace("1]", "2]"))
    assert len({save(tmp_path, name, [], []) for name in names}) == len(names)
