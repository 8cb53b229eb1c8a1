"""Whether KVM works here: proved by a guest that runs on it."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..deadline import WaitLimit
from ..errors import ConfigError, KgdbError, TimeoutError
from ..machine import KVM, MachineSpec, try_kvm
from ..process import program_key, run, which

if TYPE_CHECKING:
    from ..cache import Cache

__all__ = ["Accelerator", "cpu_model", "qemu_version"]

# A guest on KVM shows its first line within a second; one that hangs shows none.
_PATIENCE: Final = 10.0
_FIRST_LINE: Final = re.compile(rb"Linux version ")
_WORKS: Final = "works"


def qemu_version(program: str) -> str:
    """Return QEMU's version, such as `7.2.22`.

    :raises ConfigError: QEMU is not there.
    """
    text = run([which(program, package="qemu-system-x86"), "--version"], timeout=30).output
    match = re.search(r"version (\S+)", text)
    return match[1] if match else text.strip()


class Accelerator:
    """Chooses between KVM and TCG; what came of a try is kept for this host, for a day.

    A try that took too long may have had a busy host, and an administrator may have repaired KVM.

    :param choice: `auto`, `kvm` or `tcg`.
    :param device: KVM's.
    """

    def __init__(self, choice: str, cache: Cache, *, device: Path = KVM) -> None:
        self._choice, self._cache = choice, cache
        self._device = device
        self._day = datetime.date.today().isoformat()  # noqa: DTZ011 # the user's
        self._begun: threading.Thread | None = None

    def begin(self, program: str) -> None:
        """Begin to try KVM while other work is done: seconds where a guest hangs on it.

        :param program: the name of the QEMU that guests will run in.
        """
        if self._choice == "tcg" or self._obstacle() or self._begun is not None:
            return
        try:
            path, key = self._key(program)
        except ConfigError:  # there is no QEMU, which is said when one is to run
            return
        if self._cache.remembered("kvm", key) is None:
            self._begun = threading.Thread(
                target=self._try, args=(path, key), name="kgdb-kvm", daemon=True
            )
            self._begun.start()

    def choose(self, spec: MachineSpec) -> tuple[str, str]:
        """Return the accelerator to use, and why.

        :raises ConfigError: `kvm` was asked for and does not work.
        """
        if self._choice == "tcg":
            return "tcg", "asked for"
        verdict = self._obstacle() or self._verdict(spec)
        if verdict == _WORKS:
            return "kvm", "proved by running this kernel on it"
        if self._choice == "kvm":
            raise ConfigError(
                f"KVM does not work here: {verdict}", hint="--kgdb-accel=auto takes TCG"
            )
        return "tcg", f"KVM does not work here: {verdict}"

    def _obstacle(self) -> str:
        """Return why KVM need not be tried; "" if it must be."""
        if not self._device.exists():
            return f"there is no {self._device}"
        if not os.access(self._device, os.R_OK | os.W_OK):
            return f"{self._device} may not be opened by this user (group kvm?)"
        return ""

    def _verdict(self, spec: MachineSpec) -> str:
        path, key = self._key(spec.arch.qemu)
        if self._begun is not None:
            self._begun.join()  # its guest is ended after seconds

        def prove() -> str:
            problem = self._try(path, key)
            return f"no guest runs on it ({problem})" if problem else _prove(spec)

        return self._cache.memo("kvm", key, prove)

    def _try(self, path: Path, key: str) -> str:
        """Return what is wrong with a guest that needs no kernel."""
        return self._cache.memo("kvm-guest", key, lambda: try_kvm(str(path)))

    def _key(self, program: str) -> tuple[Path, str]:
        """Return QEMU's path, and what a verdict holds for."""
        path = Path(which(program, package="qemu-system-x86")).resolve()
        device = self._device.stat().st_rdev
        host = f"{cpu_model()} {platform.release()} {program_key(path)} {device}"
        return path, f"{host} {self._day}"


def _prove(spec: MachineSpec) -> str:
    """Run the kernel on KVM until its first line; return `works`, or what happened instead."""
    from ..machine import Machine  # once for each host

    try:
        probe = replace(spec, accel="kvm", disk=None)
        with Machine(probe, waits=WaitLimit(_PATIENCE)) as machine:
            machine.cont()
            machine.console.wait_for(_FIRST_LINE, mark=0, timeout=_PATIENCE)
    except TimeoutError:
        return f"this kernel shows nothing on it within {_PATIENCE:g} s"
    except KgdbError as error:
        lines = error.message.splitlines()
        errors = [line for line in lines if line.startswith("qemu-system")]
        return (errors or lines)[0].strip()
    return _WORKS


@functools.cache
def cpu_model() -> str:
    """Return the host processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
