"""Why a symbol got lost, read from Kconfig files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_kgdb.kernel._config import Lost, Request
from pytest_kgdb.kernel._kconfig import definitions, explain

KCONFIG = """\
menu "Debugging"

config DEEP
\tbool "Something deep"
\tdepends on NET && (INET || \\
\t\t   IPV6)
\tdepends on !UML
\thelp
\t  It says config SHALLOW in here, and
\t  depends on nothing.

\t  Even after a blank line.

config SHALLOW
\ttristate "Something shallow"

if PCI
config INSIDE
\tint "A number"
\tdefault 4
config HIDDEN
\tbool
endif # PCI

config ONLY_BUILT_IN
\tbool "No module"
endmenu
"""


def depends(name: str) -> tuple[str, ...]:
    (definition,) = (entry for entry in definitions(KCONFIG, "Kconfig") if entry.name == name)
    return definition.depends


def test_depends_over_continued_lines() -> None:
    assert depends("DEEP") == ("NET && (INET || IPV6)", "!UML")


def test_help_texts_define_nothing() -> None:
    names = [entry.name for entry in definitions(KCONFIG, "Kconfig")]
    assert names == ["DEEP", "SHALLOW", "INSIDE", "HIDDEN", "ONLY_BUILT_IN"]


def test_enclosing_blocks_count() -> None:
    assert depends("INSIDE") == ("PCI",)
    assert depends("ONLY_BUILT_IN") == ()


def test_lines_are_counted_as_an_editor_does() -> None:
    places = {entry.name: entry.where for entry in definitions(KCONFIG, "lib/Kconfig")}
    for name, where in places.items():
        line = int(where.partition(":")[2])
        assert KCONFIG.splitlines()[line - 1] == f"config {name}"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("NOWHERE", "y", "this kernel knows no such symbol"),
        ("DEEP", "y", r"on \(NET && \(INET \|\| IPV6\)\) && !UML .*; here INET=n, IPV6=m$"),
        ("HIDDEN", "y", "it cannot be set, only selected"),
        ("ONLY_BUILT_IN", "m", "it cannot be a module"),
        ("SHALLOW", "n", "another symbol selects it"),
    ],
)
def test_reasons(tmp_path: Path, name: str, value: str, reason: str) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/Kconfig.debug").write_text(KCONFIG)
    (tmp_path / "arch/arm").mkdir(parents=True)
    (tmp_path / "arch/arm/Kconfig").write_text("config NOWHERE\n\tbool 'Of another machine'\n")
    config = {"NET": "y", "IPV6": "m"}
    (only,) = explain([Lost(Request(name, value, "x"), "n")], tmp_path, "x86", config)
    assert re.search(reason, only.reason), only.reason
