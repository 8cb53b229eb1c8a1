"""The command that runs a failed test again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.plugin._rerun import rerun_command


def config(tmp_path: Path, args: list[str], tests: list[str], **more: Any) -> Any:
    return SimpleNamespace(
        invocation_params=SimpleNamespace(dir=tmp_path, args=tuple(args)),
        rootpath=tmp_path,
        option=SimpleNamespace(file_or_dir=tests),
        **more,
    )


@pytest.mark.parametrize(
    ("args", "tests", "command"),
    [
        ([], [], "pytest a/test_x.py::test_y"),
        (["--kgdb-kernel=distro:6.1", "a"], ["a"], "pytest --kgdb-kernel=distro:6.1 {}"),
        (["-n", "2", "a", "-x"], ["a"], "pytest -x {}"),
        (["-n2", "--dist=load", "--maxprocesses", "3"], [], "pytest {}"),
        (["-nauto", "--numprocesses=4"], [], "pytest {}"),
        (["-k", "a and b", "a", "a"], ["a"], "pytest -k 'a and b' a {}"),
        (["--new-first", "-no"], [], "pytest --new-first {}"),
    ],
)
def test_rerun(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    tests: list[str],
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = rerun_command(config(tmp_path, args, tests), "a/test_x.py::test_y")
    assert shown == command.format("a/test_x.py::test_y")


def test_it_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "a b"
    below.mkdir()
    monkeypatch.chdir("/")
    its = config(tmp_path, [], [])
    its.rootpath = below
    shown = rerun_command(its, "test_x.py::test_y[$(reboot) 'x']")
    assert shown == f"cd {tmp_path} && pytest 'a b/test_x.py::test_y[$(reboot) '\"'\"'x'\"'\"']'"


def test_a_worker_has_the_controllers_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    worker = config(tmp_path, ["internal"], ["t"], workerinput={"mainargv": ["pytest", "-n2", "t"]})
    assert rerun_command(worker, "t/test_x.py::test_y") == "pytest t/test_x.py::test_y"
