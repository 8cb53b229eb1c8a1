"""Configurations: read, laid over each other, and asked whether a wish came true."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel import Config, stub_for
from pytest_kgdb.kernel._config import (
    Request,
    lost,
    merge,
    missing,
    parse,
    read_fragment,
    render,
    with_required,
)

TEXT = """\
#
# Automatically generated file; DO NOT EDIT.
#
CONFIG_64BIT=y
CONFIG_DUMMY=m
CONFIG_NR_CPUS=8
# CONFIG_KASAN is not set
CONFIG_LOCALVERSION="-a \\"quoted\\" \\\\ one"
CONFIG_EMPTY=""
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / ".config").write_text(TEXT)
    return Config(tmp_path / ".config")


class TestConfig:
    def test_is_a_path(self, config: Config, tmp_path: Path) -> None:
        assert config == tmp_path / ".config"
        assert config.read_text() == TEXT
        assert hash(config) == hash(tmp_path / ".config")
        assert config.name == ".config"

    def test_maps_symbols(self, config: Config) -> None:
        assert config["CONFIG_64BIT"] == "y"
        assert config["DUMMY"] == "m"
        assert config["NR_CPUS"] == "8"
        assert dict(config)["CONFIG_DUMMY"] == "m"
        assert len(config) == 5

    def test_strings_lose_their_quotes(self, config: Config) -> None:
        assert config["LOCALVERSION"] == '-a "quoted" \\ one'
        assert config["EMPTY"] == ""

    def test_not_set_is_not_in_it(self, config: Config) -> None:
        assert "CONFIG_KASAN" not in config
        assert "64BIT" in config
        assert 7 not in config
        assert config.get("CONFIG_KASAN") is None
        with pytest.raises(KeyError, match="CONFIG_KASAN is not set in"):
            config["KASAN"]

    def test_paths_made_from_it_are_paths(self, config: Config, tmp_path: Path) -> None:
        # On some versions of Python they are of the same class: nothing may be read for that.
        assert (config.parent / "vmlinux") == tmp_path / "vmlinux"
        assert config.parent
        assert str(config.with_name("x")) == f"{tmp_path}/x"

    def test_is_never_false(self, tmp_path: Path) -> None:
        assert Config(tmp_path / "absent")


def test_render_is_what_parse_reads() -> None:
    symbols = parse(TEXT)
    assert symbols["KASAN"] == "n"
    assert parse(render(symbols)) == symbols


def test_last_line_counts_and_gives_the_place() -> None:
    symbols = parse("CONFIG_A=y\nCONFIG_B=y\nCONFIG_A=n\n")
    assert list(symbols.items()) == [("B", "y"), ("A", "n")]


def test_merge_puts_the_last_on_top() -> None:
    merged = merge([{"A": "y", "B": "y"}, {"A": "m"}])
    assert list(merged.items()) == [("B", "y"), ("A", "m")]


class TestFragment:
    def test_comments_and_blank_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "f"
        path.write_text("# why\n\nCONFIG_A=y\n# CONFIG_B is not set\n  CONFIG_C=m\n")
        assert read_fragment(path) == {"A": "y", "B": "n", "C": "m"}

    def test_what_sets_nothing_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "f"
        path.write_text("CONFIG_A=y\nKASAN=y\n")
        with pytest.raises(ConfigError, match=r"f:2: 'KASAN=y' does not set a symbol"):
            read_fragment(path)

    def test_unreadable(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot read"):
            read_fragment(tmp_path)


class TestLost:
    @pytest.mark.parametrize(
        ("value", "result"),
        [("y", "y"), ("n", "n"), ("n", None), ("0x1b6", "0x01b6"), ('""', None), ('"a"', '"a"')],
    )
    def test_kept(self, value: str, result: str | None) -> None:
        symbols = {} if result is None else {"A": result}
        assert lost([Request("A", value, "--kgdb-set")], symbols) == []

    @pytest.mark.parametrize(
        ("value", "result", "message"),
        [
            ("y", None, "CONFIG_A=y (--kgdb-set) was dropped"),
            ("y", "n", "CONFIG_A=y (--kgdb-set) was dropped"),
            ("y", "m", "CONFIG_A=y (--kgdb-set) became m"),
            ("m", "y", "CONFIG_A=m (--kgdb-set) became y"),
            ("n", "y", "# CONFIG_A is not set (--kgdb-set) came back as y"),
            ("16", "17", "CONFIG_A=16 (--kgdb-set) became 17"),
            ('"a"', '"b"', 'CONFIG_A="a" (--kgdb-set) became "b"'),
        ],
    )
    def test_lost(self, value: str, result: str | None, message: str) -> None:
        symbols = {} if result is None else {"A": result}
        (only,) = lost([Request("A", value, "--kgdb-set")], symbols)
        assert str(only) == message


class TestOurs:
    def test_needs_kgdb_and_a_console(self) -> None:
        assert set(missing({}, kgdb=True)) >= {
            "KGDB",
            "KGDB_SERIAL_CONSOLE",
            "MAGIC_SYSRQ",
            "DEBUG_INFO",
            "SERIAL_8250_CONSOLE",
        }
        assert missing(with_required({}), kgdb=True) == {}

    def test_needs_no_kgdb_on_the_other_stub(self) -> None:
        assert "KGDB" not in missing({}, kgdb=False)
        assert "DEBUG_INFO" in missing({}, kgdb=False)

    def test_leaves_the_choice_of_debug_information(self) -> None:
        assert with_required({})["DEBUG_INFO_DWARF5"] == "y"
        assert "DEBUG_INFO_DWARF5" not in with_required({"DEBUG_INFO_DWARF4": "y"})


@pytest.mark.parametrize(
    ("stub", "value", "expected"),
    [
        ("auto", "y", "kgdb"),
        ("auto", "m", "qemu"),
        ("auto", None, "qemu"),
        ("kgdb", None, "kgdb"),
        ("qemu", "y", "qemu"),
    ],
)
def test_whose_stub(stub: str, value: str | None, expected: str) -> None:
    config = {} if value is None else {"KGDB_SERIAL_CONSOLE": value}
    assert stub_for(stub, config) == expected
