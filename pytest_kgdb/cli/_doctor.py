"""`doctor`: what this host has and lacks, and the command that fixes it."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ..disk import root
from ..errors import KgdbError
from ..host import Host
from ..initrd import is_static
from ..kernel import installed_releases
from ..machine import KVM, try_kvm
from ..process import run as run_command
from ..process import system_path
from ..settings import Settings, from_arguments

State = Literal["ok", "missing", "without"]
"""Present; absent although all tests need it; absent, and needed by some tests only."""

_MIB: Final = 1 << 20
_SECONDS: Final = 30.0
"""For a program to print its version; only a broken one takes so long."""

GDB_MINIMUM: Final = (12,)
"""gdb 12 brought MI commands written in Python (gdb manual, "GDB/MI Commands In Python")."""

BUILD_MIB: Final = 4096
"""The disk space of a kernel built with debug information, and of its cache entry."""

MEMORY_MIB: Final = 1024
"""The memory of a guest of default size, gdb with a kernel's symbols, and the linker."""

USR_SRC: Final = Path("/usr/src")

ROOT: Final = Path("/")
"""Where kernels are installed."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    state: State
    detail: str
    """What was found, or what does not work without it."""

    fix: str = ""
    """The command that fixes it, or what to do."""


def run(options: argparse.Namespace) -> int:
    """Check this host; return 1 if something is missing that all tests need."""
    settings = from_arguments(options)
    findings = list(examine(settings))
    show(findings)
    return int(any(finding.state == "missing" for finding in findings))


def examine(settings: Settings) -> Iterator[Finding]:
    """Run all checks, in the order in which a test run needs the results."""
    yield from _compilers()
    yield _header("libelf", "libelf.h", "libelf-dev", needed=True)
    yield _header("openssl", "openssl/opensslv.h", "libssl-dev", needed=False)
    yield _sources()
    yield _shipped()
    yield _installed()
    yield _busybox()
    yield _qemu()
    yield _program("qemu-img", "qemu-utils", needed=True)
    yield _gdb()
    yield _kvm()
    yield _memory()
    yield _disk_space(settings.cache_dir)
    for program, package, use in (
        ("ccache", "ccache", "building a kernel again takes as long as the first time"),
        ("git", "git", "no --kgdb-kernel=TREE@REV"),
        ("patch", "patch", "no --kgdb-patch"),
        ("depmod", "kmod", "no kernels with modules"),
        ("pahole", "dwarves", "no kernels with BTF (Debian's configuration has it)"),
        ("mmdebstrap", "mmdebstrap", "no --kgdb-disk=debian"),
        ("mke2fs", "e2fsprogs", "no --kgdb-disk=debian"),
        ("ssh-keygen", "openssh-client", "no --kgdb-disk=debian"),
        ("grub-mkimage", "grub-pc-bin", "no --kgdb-boot=disk with a Debian that is built here"),
        ("ssh", "openssh-client", "no kgdb.ssh()"),
    ):
        yield _program(program, package, needed=False, use=use)
    yield _namespaces()


def install(*packages: str) -> str:
    """Return the command that installs packages, given by Debian's names."""
    command = Host.of().install(*packages).replace("apt install", "apt-get install", 1)
    return command if os.geteuid() == 0 or command.startswith("install ") else f"sudo {command}"


# -- programs -------------------------------------------------------------------------------------


def _compilers() -> Iterator[Finding]:
    for program, package in (
        ("make", "make"),
        ("gcc", "gcc"),
        ("ld", "binutils"),
        ("flex", "flex"),
        ("bison", "bison"),
        ("bc", "bc"),
        ("perl", "perl"),
        ("tar", "tar"),
        ("xz", "xz-utils"),
    ):
        yield _program(program, package, needed=True)


def _where(program: str) -> str | None:
    return shutil.which(program, path=system_path())


def _program(program: str, package: str, *, needed: bool, use: str = "") -> Finding:
    path = _where(program)
    if path is not None:
        return Finding(program, "ok", path)
    return Finding(
        program, "missing" if needed else "without", use or "not installed", install(package)
    )


def _output(*argv: str) -> str:
    """Return a program's output; an empty string if it fails."""
    try:
        return run_command(list(argv), timeout=_SECONDS).output
    except (KgdbError, OSError):
        return ""


def _qemu() -> Finding:
    path = _where("qemu-system-x86_64")
    if path is None:
        return Finding("QEMU", "missing", "not installed", install("qemu-system-x86"))
    version = re.search(r"version (\S+)", _output(path, "--version"))
    if version is None:
        return Finding(
            "QEMU", "missing", f"{path} does not start", install("--reinstall", "qemu-system-x86")
        )
    return Finding("QEMU", "ok", f"{version[1]} ({path})")


def _gdb() -> Finding:
    path = _where("gdb")
    if path is None:
        return Finding("gdb", "missing", "not installed", install("gdb"))
    output = _output(
        path, "--nx", "--batch", "-ex", "show version", "-ex", "python print('py' + 'ok')"
    )
    version = re.search(r"GNU gdb .*?(\d+)\.(\d+)", output)
    if version is None:
        return Finding("gdb", "missing", f"{path} does not start", install("--reinstall", "gdb"))
    program = f"{version[1]}.{version[2]} ({path})"
    if (int(version[1]),) < GDB_MINIMUM:
        return Finding(
            "gdb",
            "missing",
            f"{program} is older than {GDB_MINIMUM[0]}",
            "install a newer one (Debian 12 has 13.1)",
        )
    if "pyok" not in output:
        return Finding("gdb", "missing", f"{program} was built without Python", install("gdb"))
    return Finding("gdb", "ok", program)


def _busybox() -> Finding:
    path = _where("busybox")
    package = install("busybox-static")
    if path is None:
        return Finding("busybox", "missing", "no shell for the initrd", package)
    if not is_static(Path(path)):
        return Finding("busybox", "missing", f"{path} is linked to libraries", package)
    return Finding("busybox", "ok", path)


def _namespaces() -> Finding:
    """Check whether files can be given the owners that a Debian image needs (disk/_root.py)."""
    name = "user namespaces"
    if os.geteuid() == 0:
        return Finding(name, "ok", "not needed by root")
    if _where("newuidmap") is None:
        return Finding(name, "without", "no --kgdb-disk=debian", install("uidmap"))
    try:
        root()
    except KgdbError as error:
        return Finding(name, "without", f"no --kgdb-disk=debian: {error.message}", error.hint or "")
    return Finding(name, "ok", "a Debian can be built without root")


# -- files ----------------------------------------------------------------------------------------


def _header(name: str, header: str, package: str, *, needed: bool) -> Finding:
    compiler = _where("gcc")
    if compiler is None:
        return Finding(name, "without", "cannot be looked for without gcc", install("gcc"))
    with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
        source.write(f"#include <{header}>\n")
        source.flush()
        output = _output(compiler, "-E", "-o", os.devnull, "-H", source.name)
    for line in output.splitlines():
        if line.endswith(header) and line.startswith("."):
            return Finding(name, "ok", line.split()[-1])
    why = "no kernel can be built" if needed else "no kernels with signed modules or keys"
    return Finding(name, "missing" if needed else "without", why, install(package))


def _sources() -> Finding:
    names = sorted(path.name.split(".tar")[0] for path in USR_SRC.glob("linux-source-*.tar.*"))
    if names:
        return Finding("kernel sources", "ok", f"{', '.join(names)} (--kgdb-kernel=distro)")
    fix = install("linux-source") if Host.of().has_apt else ""
    return Finding(
        "kernel sources", "without", "no --kgdb-kernel=distro (a source tree does as well)", fix
    )


def _shipped() -> Finding:
    for program, package in (("apt-get", "apt"), ("apt-cache", "apt"), ("dpkg-deb", "dpkg")):
        if _where(program) is None:
            return Finding(
                "shipped kernels",
                "without",
                f"no --kgdb-kernel=package:NAME, which needs Debian's {program}",
                # Elsewhere it would have no Debian among its sources.
                install(package) if Host.of().has_apt else "",
            )
    return Finding("shipped kernels", "ok", "apt downloads them (--kgdb-kernel=package:NAME)")


def _installed() -> Finding:
    releases = installed_releases(ROOT)
    if releases:
        return Finding("installed kernels", "ok", f"{', '.join(releases)} (--kgdb-kernel=release:)")
    return Finding("installed kernels", "without", "none is installed: no --kgdb-kernel=release:")


# -- the host -------------------------------------------------------------------------------------


def _kvm() -> Finding:
    slow = "tests run without it (TCG), several times slower"
    if not KVM.exists():
        return Finding(
            "KVM", "without", f"no {KVM}: {slow}", "modprobe kvm_intel or kvm_amd, on bare metal"
        )
    if not os.access(KVM, os.R_OK | os.W_OK):
        return Finding(
            "KVM",
            "without",
            f"{KVM} cannot be opened by this user: {slow}",
            f"sudo usermod -aG kvm {os.environ.get('USER', '$USER')}, and log in again",
        )
    qemu = _where("qemu-system-x86_64")
    if qemu is None:
        return Finding("KVM", "without", "cannot be tried without QEMU")
    if problem := try_kvm(qemu):
        return Finding(
            "KVM",
            "without",
            f"{KVM} opens, but no guest runs on it ({problem}): {slow}",
            "on a virtual machine, have its host allow nested virtualisation",
        )
    return Finding("KVM", "ok", f"{KVM} runs a guest")


def _memory() -> Finding:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            mib = int(line.split()[1]) // 1024
            if mib >= MEMORY_MIB:
                return Finding("memory", "ok", f"{mib} MiB available")
            return Finding(
                "memory",
                "missing",
                f"{mib} MiB available, {MEMORY_MIB} MiB needed",
                "end other programs, or lower --kgdb-memory",
            )
    return Finding("memory", "without", "/proc/meminfo does not say")


def _disk_space(directory: Path) -> Finding:
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    mib = shutil.disk_usage(existing).free // _MIB
    fix = "pytest-kgdb cache prune, or --kgdb-cache-dir=DIR elsewhere"
    if not os.access(existing, os.W_OK):
        return Finding("cache", "missing", f"{existing} cannot be written by this user", fix)
    if mib < BUILD_MIB:
        return Finding(
            "cache", "missing", f"{mib} MiB free in {directory}, a build takes {BUILD_MIB}", fix
        )
    return Finding("cache", "ok", f"{mib} MiB free in {directory}")


# -- the table ------------------------------------------------------------------------------------

_SIGNS: Final = {"ok": "ok", "missing": "MISSING", "without": "without"}


def show(findings: Sequence[Finding]) -> None:
    """Print a table on a terminal, plain lines elsewhere; then a summary."""
    (_show_table if sys.stdout.isatty() else _show_lines)(findings)
    missing = [finding for finding in findings if finding.state == "missing"]
    if missing:
        print(f"\n{len(missing)} of these are needed and missing: {_names(missing)}")
    else:
        print("\nThis host can run kernel tests.")


def _names(findings: Sequence[Finding]) -> str:
    return ", ".join(finding.name for finding in findings)


def _show_lines(findings: Sequence[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{_SIGNS[finding.state]:<8} {finding.name:<{width}}  {finding.detail}")
        if finding.fix:
            print(f"{'':<8} {'':<{width}}  fix: {finding.fix}")


def _show_table(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "missing": "bold red", "without": "yellow"}
    table = Table(box=None, pad_edge=False)
    for title in ("", "what", "found", "fix"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        table.add_row(
            Text(_SIGNS[finding.state], colours[finding.state]),
            Text(finding.name),
            Text(finding.detail),
            Text(finding.fix),
        )
    Console().print(table)
