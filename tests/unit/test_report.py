"""Failure reports: cleaned, bounded, saved to files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_kgdb.report import HEAD_LINES, MAX_LINE, TAIL_LINES, Section, bound, save, sections


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
    parts = [
        Section("kgdb console", "\n\x1b[1mboot\x1b[0m\n\n"),
        Section("kgdb stop", ""),
        Section("kgdb gdb", "\x1b[m"),
    ]
    assert sections(parts) == sections(parts, -2) == [("kgdb console", "boot")]


def test_verbosity_shows_more() -> None:
    lines = [str(n) for n in range(1000)]
    parts = [
        Section("long", "\n".join(lines), head=1, tail=2),
        Section("brief", "all of it", brief="all"),
        Section("gdb", "> 1-exec-continue", verbosity=2),
    ]
    assert sections(parts) == [("long", "0\n… 997 lines left out …\n998\n999"), ("brief", "all")]
    (_, long), *others = sections(parts, 1)
    assert len(long.splitlines()) == HEAD_LINES + 1 + TAIL_LINES
    assert others == [("brief", "all of it")]
    (_, long), *_, (last, _) = sections(parts, 2)
    assert long.splitlines() == lines
    assert last == "gdb"


def test_everything_is_saved(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"\x1b[2Jraw\xff")
    text = "\n".join(str(n) for n in range(1000))
    saved = save(
        tmp_path / "out",
        "tests/test_x.py::TestY::test_z[a-1]",
        [Section("kgdb console", text + "\x1b[m", brief=""), Section("odd: title/", "\udc80")],
        [log, tmp_path / "absent.log"],
    )
    assert saved == tmp_path / "out/tests/test_x.py/TestY/test_z[a-1]"
    assert (saved / "kgdb-console.txt").read_text() == text + "\n"
    assert (saved / "odd-title.txt").read_text() == "\ufffd\n"
    assert (saved / "console.log").read_bytes() == b"\x1b[2Jraw\xff"
    # A second failure of the same test takes the first one's place.
    again = save(
        tmp_path / "out", "tests/test_x.py::TestY::test_z[a-1]", [Section("kgdb console", "")], []
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
    saved = save(out, test, [Section("x", "y")], [])
    assert saved.resolve().is_relative_to(out)
    assert ".." not in saved.parts
    assert (saved / "x.txt").exists()


def test_different_tests_have_different_directories(tmp_path: Path) -> None:
    names = ["t.py::a[x y]", "t.py::a[x_y]", "t.py::a[x$y]", "t.py::a[" + "z" * 300 + "1]"]
    names.append(names[-1].replace("1]", "2]"))
    assert len({save(tmp_path, name, [], []) for name in names}) == len(names)


def test_what_is_saved_is_the_users_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        target = save(tmp_path / "a/b", "tests/test_x.py::test_y", [], [])
        (tmp_path / "public").mkdir(mode=0o755)
        other = save(tmp_path / "public", "tests/test_x.py::test_y", [], [])
    finally:
        os.umask(old)
    for path in (tmp_path / "a", target, tmp_path / "public/tests", other):
        assert path.stat().st_mode & 0o777 == 0o700, path
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o755, "the user made it"
