"""`build` and `attach`: building the artifacts, and gdb on a booted kernel."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError
from ..plugin._artifacts import Artifacts
from ..progress import Progress
from ..settings import Settings, from_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..disk import Disk
    from ..handle import Kgdb
    from ..initrd import Initrd
    from ..kernel import Kernel


_OF_SAVED: Final = frozenset(
    {"kernel", "config", "fragment", "set", "patch", "make", "source", "disk", "qemu_arg"}
    | {"timeout", "cache_dir", "remote_cache", "jobs", "stub"}
)
"""Settings with which a saved machine can be opened: the kernel, where it has no vmlinux."""


def build(options: argparse.Namespace) -> int:
    """Build what a test run would build, and print the paths."""
    settings = from_arguments(options)
    artifacts = Artifacts(settings, Progress())
    built = []
    for spec, config in itertools.product(_specs(settings), settings.configs or (None,)):
        kernel = artifacts.kernel(spec, config)
        disk = artifacts.disk(kernel)
        built.append(_described(kernel, artifacts.initrd(kernel), disk))
        if not options.json:
            _print(built[-1])
    if options.json:
        print(json.dumps(built, indent=2))
    return 0


def attach(options: argparse.Namespace) -> int:
    """Boot one kernel, or open a saved machine, and run gdb on it in the terminal."""
    settings = from_arguments(options)
    if options.file is not None:
        return _attach_to_saved(options, settings)
    specs = _specs(settings)
    if len(specs) > 1:
        raise ConfigError(f"gdb can be on one kernel only: {', '.join(specs)}")
    for name, values in (("configuration", settings.configs), ("number of CPUs", settings.smps)):
        if values:
            several = ", ".join(map(str, values))
            raise ConfigError(f"gdb can be on one kernel, with one {name}, only: {several}")
    progress = Progress()
    artifacts = Artifacts(settings, progress)
    kernel = artifacts.kernel(specs[0])
    disk = artifacts.disk(kernel)
    session = artifacts.session(kernel, artifacts.initrd(kernel), disk)
    try:
        kgdb = session.acquire(settings.for_marker({"at": options.at or "ready"}, "attach"))
        for line in session.describe():
            progress.say(line)
        if settings.print_commands:
            progress.print(session.commands())
        session.attach(commands=_prepared(kgdb, options))
    finally:
        session.close()
    return 0


def _attach_to_saved(options: argparse.Namespace, settings: Settings) -> int:
    from ..session import SavedSession

    path: Path = options.file
    given = [settings.origin(name) for name in settings.origins if name not in _OF_SAVED]
    for option in [*given, *(["--at"] if options.at else [])]:
        raise ConfigError(
            f"{option}: the machine in {path} is as it was saved",
            hint="leave it out; or leave the file out, and the kernel is booted",
        )
    progress = Progress()
    artifacts = Artifacts(settings, progress)

    def kernel() -> Kernel | None:
        return artifacts.kernel(_specs(settings)[0]) if settings.kernel else None

    with SavedSession(
        path, settings, kernel=kernel, cache=artifacts.cache, progress=progress
    ) as session:
        for line in session.describe():
            progress.say(line)
        session.attach(_prepared(session.handle, options))
    return 0


def _prepared(kgdb: Kgdb, options: argparse.Namespace) -> Sequence[str]:
    """Make the breakpoints; return the commands with which gdb begins."""
    for location in options.break_at:
        kgdb.breakpoint(location)
    if options.run_in_guest is not None:
        kgdb.type(options.run_in_guest)
    goes_on = options.break_at or options.run_in_guest is not None
    return ("continue",) if goes_on else ("frame",)


def _specs(settings: Settings) -> tuple[str, ...]:
    if not settings.kernel:
        raise ConfigError(
            "no kernel is named",
            hint="--kgdb-kernel=SPEC: a source tree, a build directory, a tarball, or distro",
        )
    return settings.kernel


def _described(kernel: Kernel, initrd: Initrd | None, disk: Disk | None) -> dict[str, str | None]:
    return {
        "spec": kernel.spec,
        "release": kernel.release,
        "build_id": kernel.build_id,
        "image": str(kernel.image),
        "vmlinux": str(kernel.vmlinux),
        "config": str(kernel.config),
        "modules": None if kernel.modules_dir is None else str(kernel.modules_dir),
        "initrd": None if initrd is None else str(initrd.path),
        "disk": None if disk is None else str(disk.path),
    }


def _print(paths: dict[str, str | None]) -> None:
    print(f"{paths['spec']}: Linux {paths['release']}")
    for name in ("image", "vmlinux", "config", "modules", "initrd", "disk"):
        if paths[name] is not None:
            print(f"  {name:<8} {paths[name]}")
