"""Whether KVM works here: proved by a guest that runs on it."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..deadline import WaitLimit
from ..errors import ConfigError, KgdbError
from ..machine import MachineSpec
from ..process import run, which

if TYPE_CHECKING:
    from ..cache import Cache

__all__ = ["choose", "cpu_model", "qemu_version"]

_DEVICE: Final = Path("/dev/kvm")
# A guest on KVM shows its first line within a second; one that hangs shows none.
_PATIENCE: Final = 10.0
_FIRST_LINE: Final = re.compile(rb"Linux version ")


def qemu_version(program: str) -> str:
    """Return QEMU's version, such as `7.2.22`.

    :raises ConfigError: QEMU is not there.
    """
    text = run([which(program, package="qemu-system-x86"), "--version"], timeout=30).output
    match = re.search(r"version (\S+)", text)
    return match[1] if match else text.strip()


def choose(choice: str, spec: MachineSpec, cache: Cache) -> tuple[str, str]:
    """Return the accelerator to use, and why.

    :param choice: `auto`, `kvm` or `tcg`.
    :raises ConfigError: `kvm` was asked for and does not work.
    """
    if choice == "tcg":
        return "tcg", "asked for"
    if not _DEVICE.exists():
        verdict = f"there is no {_DEVICE}"
    elif not os.access(_DEVICE, os.R_OK | os.W_OK):
        verdict = f"{_DEVICE} may not be opened by this user (group kvm?)"
    else:
        program = qemu_version(spec.arch.qemu)
        key = f"{cpu_model()} {platform.release()} {program} {_DEVICE.stat().st_rdev}"
        verdict = cache.memo("kvm", key, lambda: _prove(spec))
    if verdict == "works":
        return "kvm", "proved by running this kernel on it"
    if choice == "kvm":
        raise ConfigError(f"KVM does not work here: {verdict}", hint="--kgdb-accel=auto takes TCG")
    return "tcg", f"KVM does not work here: {verdict}"


def _prove(spec: MachineSpec) -> str:
    """Run the kernel on KVM until its first line; return `works`, or what happened instead."""
    from ..machine import Machine  # once for each host

    try:
        probe = replace(spec, accel="kvm", disk=None)
        with Machine(probe, waits=WaitLimit(_PATIENCE)) as machine:
            machine.cont()
            machine.console.wait_for(_FIRST_LINE, mark=0, timeout=_PATIENCE)
    except KgdbError as error:
        lines = error.message.splitlines()
        errors = [line for line in lines if line.startswith("qemu-system")]
        return (errors or lines)[0].strip()
    return "works"


def cpu_model() -> str:
    """Return the host processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
