"""What the commands that run tests on several kernels check before they begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.cli._main import main
from pytest_kgdb.cli._on_kernels import check_writable
from pytest_kgdb.cli._on_kernels import tests_key as key_of_tests
from pytest_kgdb.errors import ConfigError


def test_where_the_outcome_is_to_be_written(tmp_path: Path) -> None:
    check_writable(str(tmp_path / "out.json"), None)
    with pytest.raises(ConfigError, match=r"cannot write .*nonesuch/x: No such file"):
        check_writable(None, str(tmp_path / "nonesuch/x"))


def test_a_search_is_for_the_tests_as_they_are(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text("one")
    keys = [key_of_tests([f"{test}::test_a", "-k", "x"]), key_of_tests([str(tmp_path)])]
    assert keys[0] == key_of_tests([str(test)])
    test.write_text("two")
    assert keys[0] != key_of_tests([str(test)])
    assert keys[1] != key_of_tests([str(tmp_path)])


def test_a_change_is_tested_with_one_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--kgdb-kernel=distro", "--kgdb-config=minimal", "--kgdb-config=defconfig"]
    assert main(["gate", *words, "--patch=x", "tests"]) == 4
    assert "gate is about one kernel, and --kgdb-config names several" in capsys.readouterr().err
