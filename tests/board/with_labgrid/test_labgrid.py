"""A board of labgrid's: `make test-labgrid`. Its machine is one that a script has started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from boards import Start, Started
from labgrid import Environment

from pytest_kgdb.board import BoardAccess, labgrid_access
from pytest_kgdb.errors import BootError, ConfigError
from pytest_kgdb.plugin._labgrid import labgrid_environment
from pytest_kgdb.settings import LabgridTarget, SerialLine, Settings, make_settings

TESTS = """
import pytest


@pytest.fixture(scope="session")
def power(target):
    return target.get_driver("PowerProtocol", activate=False)


def test_a_breakpoint(kgdb):
    kgdb.run("touch /tmp/mess")
    with kgdb.breakpoint("do_sys_openat2"):
        kgdb.type("cat /proc/version")
        assert kgdb.cont().frame.function == "do_sys_openat2"


def test_pristine(kgdb, power):
    assert kgdb.run("ls /tmp/mess").status != 0
    assert power.__class__.__name__ == "ExternalPowerDriver"


@pytest.mark.kgdb(at="kgdbwait")
def test_early(kgdb):
    assert kgdb.stop.reason == "int3"
"""


def environment(directory: Path, ports: list[dict[str, Any]], power: str | None) -> Path:
    """Write a labgrid environment and return its file."""
    drivers = []
    if power is not None:
        drivers = [
            {"ExternalPowerDriver": {"cmd_on": "true", "cmd_off": "true", "cmd_cycle": power}}
        ]
    resources = [{port.pop("class", "RawSerialPort"): port} for port in ports]
    file = directory / "lab.yaml"
    targets = {"main": {"resources": resources, "drivers": drivers}, "other": {"resources": []}}
    file.write_text(yaml.safe_dump({"targets": targets}))
    return file


def lines_of(machine: Started) -> list[dict[str, Any]]:
    """labgrid's serial ports of a machine."""
    console = {"name": "console", "port": str(machine.console), "speed": 115200}
    if not machine.kgdb.is_symlink():
        return [console]
    return [console, {"name": "kgdb", "port": str(machine.kgdb), "speed": 115200}]


@pytest.mark.parametrize("options", [("--wait",), ("--wait", "--one-line")], ids=["two", "one"])
def test_tests_with_labgrids_own_fixtures(
    start: Start, tmp_path: Path, kgdb_kernel: Any, request: pytest.FixtureRequest, options: Any
) -> None:
    machine = start(*options)
    file = environment(tmp_path, lines_of(machine), machine.reset_command)
    (tmp_path / "test_board.py").write_text(TESTS)
    argv = [sys.executable, "-m", "pytest", "-c", os.devnull, f"--rootdir={tmp_path}", "-q"]
    argv += [
        f"--lg-env={file}",
        "--kgdb-target=labgrid",
        f"--kgdb-kernel={request.config.option.kgdb_kernel[0]}",
    ]
    argv += ["--kgdb-require", str(tmp_path / "test_board.py")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


# What is found, and what is not


def settings(target: str = "labgrid", **values: Any) -> Settings:
    return make_settings(target=target, kernel=("/tmp",), **values)


def found(
    directory: Path, *ports: dict[str, Any], power: str | None = "true", **values: Any
) -> BoardAccess:
    file = environment(directory, list(ports), power)
    return labgrid_access(settings(**values), Environment(config_file=str(file)))


def test_ports_by_their_names(tmp_path: Path) -> None:
    access = found(
        tmp_path,
        {"name": "other", "port": "/dev/ttyUSB2"},
        {"name": "console", "port": "/dev/ttyUSB0", "speed": 9600},
        {"name": "kgdb", "port": "/dev/ttyUSB1"},
    )
    assert (access.target, access.console) == (
        SerialLine("/dev/ttyUSB1"),
        SerialLine("/dev/ttyUSB0", 9600),
    )
    assert access.reset is not None


def test_ports_on_the_network(tmp_path: Path) -> None:
    network = {"class": "NetworkSerialPort", "host": "lab", "speed": 57600}
    access = found(
        tmp_path,
        {**network, "port": 4001},
        {**network, "name": "kgdb", "port": 4002, "protocol": "raw"},
        power=None,
        isolation="none",
    )
    assert access.target == SerialLine("tcp:lab:4002")
    assert access.console == SerialLine("rfc2217://lab:4001", 57600)
    assert access.reset is None


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        ([], "it has none"),
        ([{"port": "/dev/a"}, {"port": "/dev/b"}], "RawSerialPort None, RawSerialPort None"),
        (
            [
                {"name": "kgdb", "port": "/dev/a"},
                {"port": "/dev/b"},
                {"name": "c", "port": "/dev/c"},
            ],
            "RawSerialPort 'kgdb', RawSerialPort None, RawSerialPort 'c'",
        ),
    ],
)
def test_which_port_is_kgdbs_is_not_known(tmp_path: Path, ports: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        found(tmp_path, *ports)
    assert error.value.hint is not None
    assert error.value.hint.startswith("name kgdb's 'kgdb', and the console's 'console'")


def test_a_target_without_power(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no driver with a PowerProtocol") as error:
        found(tmp_path, {"port": "/dev/ttyUSB0"}, power=None)
    assert "--kgdb-isolation=none" in str(error.value.hint)


def test_no_such_target(tmp_path: Path) -> None:
    file = environment(tmp_path, [], None)
    lab = Environment(config_file=str(file))
    with pytest.raises(ConfigError, match="no target 'rack'") as error:
        labgrid_access(settings("labgrid:rack"), lab)
    assert error.value.hint == "there are: main, other"
    with pytest.raises(ConfigError, match="labgrid has no environment") as error:
        labgrid_access(settings(), None)
    assert "--lg-env=FILE" in str(error.value.hint)


def test_power_that_fails(tmp_path: Path) -> None:
    access = found(tmp_path, {"port": "/dev/ttyUSB0"}, power="sh -c 'echo no power; exit 3'")
    assert access.reset is not None
    with pytest.raises(BootError, match=r"could not be cycled: ExternalPowerDriver\.cycle\(\)"):
        access.reset(tmp_path / "reset.log", 10)
    assert "ExternalPowerDriver" in (tmp_path / "reset.log").read_text()


def test_labgrids_own_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LG_ENV", raising=False)
    assert labgrid_environment(None, "--kgdb-target") is None
    monkeypatch.setenv("LG_ENV", str(environment(tmp_path, [], None)))
    lab: Any = labgrid_environment(None, "--kgdb-target")
    assert list(lab.config.get_targets()) == ["main", "other"]
    monkeypatch.setenv("LG_ENV", str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="labgrid refuses LG_ENV="):
        labgrid_environment(None, "--kgdb-target")


def test_it_is_labgrid_that_knows(tmp_path: Path) -> None:
    assert settings().target == LabgridTarget("main")
    assert settings().isolation == "reboot"
    for name in ("console", "reset"):
        with pytest.raises(ConfigError, match="labgrid knows that of labgrid:main"):
            settings(**{name: "/dev/ttyUSB0"})
