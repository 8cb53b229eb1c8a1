"""What the kernel's parameters ask of the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.arch import X86_64
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.machine import MachineSpec
from pytest_kgdb.session._machine_choice import check_boot_console

SPEC = MachineSpec(X86_64, Path("/k/bzImage"), Path("/i/initrd"), append="kgdboc_earlycon")
BOTH = {"SERIAL_EARLYCON": "y", "CONSOLE_POLL": "y"}


def kernel(version: tuple[int, ...] = (6, 1, 192), **config: str) -> Any:
    release = ".".join(map(str, version))
    return SimpleNamespace(version=version, release=release, config=BOTH | config)


@pytest.mark.parametrize("earlycon", ["", "earlycon=uart8250,io,0x2f8 "])
def test_kgdb_on_a_boot_console(earlycon: str) -> None:
    check_boot_console(replace(SPEC, append=f"{earlycon}kgdboc_earlycon"), kernel())


@pytest.mark.parametrize(
    ("kernel_", "earlycon", "message"),
    [
        (kernel((5, 4, 1)), "", "Linux 5.4.1 has no such parameter"),
        (kernel(SERIAL_EARLYCON="n"), "", "no CONFIG_SERIAL_EARLYCON"),
        (kernel(CONSOLE_POLL="n"), "", "no CONFIG_CONSOLE_POLL"),
        (kernel(), "earlycon=uart8250,io,0x3f8 ", "is not kgdb's port, which is uart8250,io,0x2f8"),
        (kernel(), "earlycon ", "earlycon is not kgdb's port"),
    ],
)
def test_kgdb_on_no_boot_console(kernel_: Any, earlycon: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_boot_console(replace(SPEC, append=f"{earlycon}kgdboc_earlycon"), kernel_)
    check_boot_console(replace(SPEC, append="earlycon"), kernel_)
