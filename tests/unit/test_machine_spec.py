"""A machine's specification: its identity, which is a part of cache keys."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.arch import X86_64
from pytest_kgdb.machine import MachineSpec, by_hand, kernel_command_line
from pytest_kgdb.session._snapshot import key_of

SPEC = MachineSpec(X86_64, Path("/k/bzImage"), Path("/i/initrd"))
RICH = replace(
    SPEC,
    append="quiet a=b",
    smp=4,
    memory=512,
    disk=Path("/d"),
    forwards=("tcp:127.0.0.1:0-:22",),
    qemu_arg=("-device", "virtio-rng-pci"),
    stub="qemu",
)
LOADER = replace(
    SPEC,
    image=None,
    initrd=None,
    disk=Path("/d"),
    boot_area=Path("/b"),
    boot_key="key",
    root="/dev/vda1",
)
CONFINED = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        (SPEC, "3902a6a2495a647c5acd67c5b95707ef5e43e97e468953844065d0ffbb87b4e1"),
        (RICH, "81222a97ba0871fd755c025baefdaa4faed76947a958c5bfc4fddef091c5ec40"),
        (LOADER, "12f1f89bb9ff941b35b92eddf4feebbf216f2579481644b98346b6752c802561"),
        (
            replace(SPEC, qemu_arg=("-rtc", "base=utc")),
            "488d61f919fdb4b163bb4dc17f0842deef4876e0a1c9b2a1f84d16f999a2f744",
        ),
    ],
    ids=["plain", "rich", "loader", "arguments"],
)
def test_the_key_stays(spec: MachineSpec, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved snapshots are found again; raise the recipe's number where they must not be."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert key_of(spec, kernel="K", initrd="I", disk="D", qemu="7.2.22") == key


def test_the_identity() -> None:
    parameters = (
        "console=ttyS0,115200 nokaslr printk.time=1 ignore_loglevel sysrq_always_enabled "
        "tsc=unstable clocksource=hpet no_timer_check root=/dev/vda rw quiet a=b"
    )
    identity = RICH.identity(snapshot_extras=["pci"])
    assert identity == [
        parameters,
        "pc",
        4,
        512,
        "tcg",
        ["user,restrict=on"],
        ["-device", "virtio-rng-pci", "pci"],
    ]
    assert json.loads(json.dumps(identity)) == identity
    assert LOADER.identity()[1] == ["pc", "key"]


OTHERS: dict[str, Any] = {
    "arch": replace(X86_64, machine="q35"),
    "append": "quiet",
    "smp": 2,
    "memory": 64,
    "accel": "kvm",
    "root": "/dev/vda2",
    "boot_key": "another",
    "forwards": ("tcp:127.0.0.1:0-:22",),
    "qemu_arg": ("-rtc", "base=utc"),
    "stub": "qemu",
}
BY_CONTENT_KEY = {"image", "initrd", "disk", "boot_area"}


def test_every_field_counts() -> None:
    assert {field.name for field in fields(MachineSpec)} == {*OTHERS, *BY_CONTENT_KEY}
    for name, value in OTHERS.items():
        assert replace(LOADER, **{name: value}).identity() != LOADER.identity(), name


def test_ports_of_the_host_do_not_count() -> None:
    one, other = (replace(SPEC, forwards=(f"tcp::{port}-:22",)) for port in (1, 2))
    assert one.identity() == other.identity()


EARLYCON = "earlycon=uart8250,io,0x2f8,115200"


def test_kgdb_on_a_boot_console() -> None:
    assert not SPEC.begins_early
    early = replace(SPEC, append="quiet kgdboc_earlycon=uart")
    assert early.begins_early
    assert kernel_command_line(early).endswith(f"{EARLYCON} quiet kgdboc_earlycon=uart")
    given = replace(SPEC, append=f"{EARLYCON} kgdboc_earlycon")
    assert kernel_command_line(given).count("earlycon=") == 1
    other_stub = replace(early, stub="qemu")
    assert not other_stub.begins_early
    assert "earlycon=uart8250" not in kernel_command_line(other_stub)


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        ((), ["-sandbox", CONFINED]),
        (("-device", "edu"), ["-sandbox", CONFINED, "-device", "edu"]),
        (("-sandbox", "on"), ["-sandbox", "on"]),
        (("-sandbox", "off", "-device", "edu"), ["-device", "edu"]),
        (("-snapshot", "--sandbox", "off"), ["-snapshot"]),
        (("-sandbox",), ["-sandbox"]),
    ],
)
def test_the_sandbox(words: tuple[str, ...], rest: list[str]) -> None:
    argv = by_hand(replace(SPEC, qemu_arg=words))
    assert argv[len(by_hand(replace(SPEC, qemu_arg=("-sandbox", "off")))) :] == rest
