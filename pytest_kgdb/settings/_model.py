"""The settings of a run, and what one test requests: frozen, each value with its origin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from ..errors import ConfigError
from ._given import BUILD, Given, read_given
from ._options import BUILD_SETTINGS, OPTIONS, ini_key
from ._options import field as field_of
from ._values import (
    PARSERS,
    CoverageTarget,
    Forward,
    LabgridTarget,
    SerialLine,
    parse_axis,
    parse_list,
)

if TYPE_CHECKING:
    import argparse

    import pytest

Point = Literal["ready", "kgdbwait"]
"""Where the kernel is stopped when a test begins: at the guest's shell, or in early boot."""

MARKER_KEYS: Final = ("at", "smp", "memory", "append", "qemu_arg", "isolation", "timeout", "stub")
"""The keyword arguments of the marker `kgdb`."""

_LISTS: Final = frozenset(field_of(name) for name, kind, *_ in OPTIONS if kind == "list")
_AXES: Final = frozenset(
    field_of(name) for name, kind, *_ in OPTIONS if kind in ("values", "numbers")
)
_FIELDS: Final = tuple(field_of(name) for name, *_ in OPTIONS)


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """What a user may choose of a machine, by option or marker: equal ones can share a machine."""

    smp: int = 1
    """Virtual CPUs."""

    memory: int = 256
    """MiB."""

    append: str = ""
    """Further parameters of the kernel."""

    qemu_arg: tuple[str, ...] = ()
    """Further arguments of QEMU."""

    @property
    def machine(self) -> MachineOptions:
        """These options alone, without what a subclass adds."""
        return MachineOptions(
            smp=self.smp, memory=self.memory, append=self.append, qemu_arg=self.qemu_arg
        )


@dataclass(frozen=True, kw_only=True)
class TestRequest(MachineOptions):
    """What one test requests: the settings merged with its marker."""

    __test__: ClassVar[bool] = False  # pytest must not take it for a test class

    at: Point
    isolation: str
    timeout: float
    """Seconds."""

    stub: str = "auto"
    """The stub that the test needs: `kgdb` or `qemu`; `auto` for any."""

    where: str = field(default="", compare=False)
    """The test's node id, for messages."""


@dataclass(frozen=True, kw_only=True)
class Settings(MachineOptions):
    """All options, validated; one field per option."""

    kernel: tuple[str, ...] = ()
    """SPECs; paths are absolute."""

    config: str = "minimal"
    configs: tuple[str, ...] = ()
    """All of them if there are several, as they were given; `config` is the first."""

    smps: tuple[int, ...] = ()
    """The same of `smp`."""

    fragment: tuple[Path, ...] = ()
    set: tuple[str, ...] = ()
    """`CONFIG_X=value` lines, as in a `.config`; the last line for a symbol counts."""

    patch: tuple[Path, ...] = ()
    source: Path | None = None
    """Where the source of a kernel is that was built elsewhere."""

    make: tuple[str, ...] = ()
    """Variables for make's command line, of kernels and modules: `LLVM=1`."""

    module_make: tuple[str, ...] = ()
    """The same, of modules only."""

    module: tuple[Path, ...] = ()
    initrd: str = "busybox"
    disk: str = "none"
    disk_package: tuple[str, ...] = ()
    disk_size: int = 4096
    """MiB."""

    boot: str = "kernel"
    forward: tuple[Forward, ...] = ()
    accel: str = "auto"
    stub: str = "auto"
    target: SerialLine | LabgridTarget | None = None
    """kgdb's serial line of a board, or who knows that; None for machines in QEMU."""

    console: SerialLine | None = None
    """The board's console; None where it is on kgdb's line."""

    reset: str | None = None
    """The command that resets the board."""

    isolation: str = "snapshot"
    timeout: float = 60.0
    """Seconds."""

    cache_dir: Path
    remote_cache: str | None = None
    jobs: int
    artifacts: Path | None = None
    artifacts_dump: bool = False
    artifacts_machine: bool = False
    report: Path | None = None
    gitlab: Path | None = None
    attach: bool = False
    trust_scripts: bool = False
    require: bool = False
    repeat: int = 1
    record: Path | None = None
    observe: bool = False
    peer: Path | None = None
    build_settings: Path | None = None
    prove: bool = False
    cov: tuple[CoverageTarget, ...] = ()
    cov_lcov: Path | None = None
    cov_json: Path | None = None
    cov_diff: Path | None = None
    cov_fail_under: float | None = None
    """Percent."""
    print_commands: bool = False
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)
    """Where each value comes from, by field; fields with their default are not in it."""

    def origin(self, name: str) -> str:
        """Return where a field's value comes from: an option, a file and key, or `default`."""
        return self.origins.get(name, "default")

    def with_config(self, config: str | None) -> Settings:
        """Return the settings of one kernel where there are several `config`; None: the first."""
        return self if config is None else replace(self, config=config, configs=())

    def for_marker(self, kwargs: Mapping[str, object], where: str) -> TestRequest:
        """Merge these settings with the marker of one test.

        The marker's `append` and `qemu_arg` are added after those of the session: of two values
        for one parameter, the kernel and QEMU use the last.

        :param kwargs: the marker's keyword arguments.
        :param where: the test's node id.
        :raises ConfigError: an argument is unknown, or its value is invalid.
        """
        if unknown := [name for name in kwargs if name not in MARKER_KEYS]:
            raise ConfigError(
                f"{where}: marker kgdb({unknown[0]}=…): no such argument",
                hint=f"it takes {', '.join(MARKER_KEYS)}",
            )
        parsed: dict[str, Any] = {}
        for name, value in kwargs.items():
            try:
                parsed[name] = (
                    parse_list(name, value, Path.cwd())
                    if name == "qemu_arg"
                    else PARSERS[name](value, Path.cwd())
                )
            except ValueError as error:
                raise ConfigError(f"{where}: marker kgdb({name}=…): {error}") from None
        if "append" in parsed and self.append:
            parsed["append"] = f"{self.append} {parsed['append']}"
        parsed["qemu_arg"] = (*self.qemu_arg, *parsed.get("qemu_arg", ()))
        plain = TestRequest(
            at="ready",
            **vars(self.machine),
            isolation=self.isolation,
            timeout=self.timeout,
            where=where,
        )
        return replace(plain, **parsed)


def make_settings(**values: object) -> Settings:
    """Return settings with these fields, and defaults for the others.

    Values may be as on the command line (`memory="1G"`) or already parsed.

    :raises ConfigError: a field is unknown, or its value is invalid.
    """
    if unknown := [name for name in values if name not in _FIELDS]:
        raise ConfigError(f"no such setting: {unknown[0]}", hint=f"known: {', '.join(_FIELDS)}")
    base = Path.cwd()
    return from_given({name: Given(value, name, base) for name, value in values.items()})


def from_arguments(options: argparse.Namespace) -> Settings:
    """Return the settings of a command line that was parsed by `add_arguments`.

    :raises ConfigError: an option's value is invalid.
    """
    base = Path.cwd()
    return from_given(
        {
            field_of(name): Given(value, f"--kgdb-{name}", base)
            for name, *_ in OPTIONS
            if (value := getattr(options, ini_key(name), None)) is not None
        }
    )


def from_pytest(config: pytest.Config) -> Settings:
    """Return the settings of a pytest run; its command line overrides its configuration file.

    :raises ConfigError: a value is invalid; the message has its origin.
    """
    return from_given(given_by(config))


def given_by(config: pytest.Config) -> dict[str, Given]:
    """Return what a pytest run's command line and configuration file say, by field.

    What is built is that of the file of `--kgdb-build-settings` alone, where it is given.

    :raises ConfigError: a value has a wrong type, or that file cannot be read.
    """
    given: dict[str, Given] = {}
    for name, *_ in OPTIONS:
        value = config.getoption(ini_key(name), default=None)
        if value is not None:
            given[field_of(name)] = Given(value, f"--kgdb-{name}", config.invocation_params.dir)
        elif (item := _from_file(config, ini_key(name))) is not None:
            given[field_of(name)] = item
    file = config.getoption(ini_key(BUILD_SETTINGS), default=None)
    if file is not None:
        for name in BUILD:
            given.pop(field_of(name), None)
        try:
            given |= read_given(Path(file))
        except (OSError, ValueError) as error:
            raise ConfigError(f"--kgdb-{BUILD_SETTINGS}: cannot read {file}: {error}") from error
    return given


def _from_file(config: pytest.Config, key: str) -> Given | None:
    here = config.invocation_params.dir
    overridden = any(
        text.partition("=")[0].strip() == key for text in config.getoption("override_ini") or ()
    )
    if overridden or config.inipath is None:
        origin, base = f"-o {key}", here
    else:
        file = config.inipath
        shown = file.relative_to(here) if file.is_relative_to(here) else file
        origin, base = f"{shown}: {key}", file.parent
    try:
        value = config.getini(key)
    except (TypeError, ValueError) as error:
        # pytest before 9.2 raises these if the value in the file has another type.
        raise ConfigError(f"{origin}: {error}") from None
    # Older versions return "" or [] for keys that are not in the file.
    return None if value is None or value == "" or value == [] else Given(value, origin, base)


def from_given(given: Mapping[str, Given]) -> Settings:
    """Return the settings that were given, by field.

    :raises ConfigError: a value is invalid; the message has its origin.
    """
    values: dict[str, Any] = {}
    for name, (value, origin, base) in given.items():
        if value is None:
            continue
        try:
            parse = PARSERS[name]
            if name in _AXES:
                several = parse_axis(name, value, base)
                values[name] = several[0]
                if len(several) > 1:
                    values[f"{name}s"] = several
            else:
                values[name] = (
                    parse_list(name, value, base) if name in _LISTS else parse(value, base)
                )
        except ValueError as error:
            raise ConfigError(f"{origin}: {error}") from None
    values["append"] = " ".join(values.get("append", ()))
    if "cache_dir" not in values:
        import platformdirs  # a run without kernel tests does not need it

        values["cache_dir"] = platformdirs.user_cache_path("pytest-kgdb")
    # The CPUs that this process may use: a container may have fewer than the host.
    values.setdefault("jobs", len(os.sched_getaffinity(0)))
    origins = {name: item.origin for name, item in given.items() if item.value is not None}
    if values.get("target") is not None:
        # Whether labgrid can cycle the power is seen when its target is; an error if not.
        resets = values.get("reset") or isinstance(values["target"], LabgridTarget)
        values.setdefault("isolation", "reboot" if resets else "none")
    settings = Settings(**values, origins=origins)
    _check_together(settings)
    return settings


# What is chosen of a machine that is started here.
_OF_QEMU: Final = (
    *("module", "initrd", "disk", "disk_package", "disk_size", "boot", "append", "smp", "memory"),
    *("qemu_arg", "forward", "accel", "stub"),
)


def _check_board(settings: Settings) -> None:
    """Refuse options of a board that contradict each other, or those of machines in QEMU."""
    if settings.target is None:
        for name in ("console", "reset"):
            if name in settings.origins:
                raise ConfigError(
                    f"{settings.origin(name)}: there is no board that it could be of",
                    hint="name kgdb's line: --kgdb-target=serial:/dev/ttyUSB1,115200",
                )
        return
    labgrid = isinstance(settings.target, LabgridTarget)
    for name in ("console", "reset"):
        if labgrid and name in settings.origins:
            raise ConfigError(
                f"{settings.origin(name)}: labgrid knows that of {settings.target}",
                hint="leave it out, or name kgdb's line: --kgdb-target=serial:/dev/ttyUSB1,115200",
            )
    for name in _OF_QEMU:
        if name in settings.origins:
            raise ConfigError(
                f"{settings.origin(name)}: the board of {settings.origin('target')} is as it is",
                hint="leave it out"
                + (
                    "; modules.load(PATH) builds a module and puts it on the board"
                    if name == "module"
                    else ""
                ),
            )
    for name, what in (
        ("cov", "coverage"),
        ("artifacts_dump", "a vmcore"),
        ("artifacts_machine", "a saved machine"),
    ):
        if getattr(settings, name):
            raise ConfigError(
                f"{settings.origin(name)}: {what} needs the machine's memory as a file, as that of "
                "a guest in QEMU is, and not of a board",
                hint=f"leave it out, or {settings.origin('target')}",
            )
    for name, count in (("kernel", len(settings.kernel)), ("config", len(settings.configs))):
        if count > 1:
            raise ConfigError(
                f"{settings.origin(name)}: one kernel runs on the board, not {count}",
                hint="name the build directory of that one",
            )
    if settings.prove:
        raise ConfigError(
            f"{settings.origin('prove')}: one kernel runs on the board, and not the other that is "
            "without the fix",
            hint=f"leave it out, or {settings.origin('target')}",
        )
    if settings.isolation == "snapshot":
        raise ConfigError(
            f"{settings.origin('isolation')}: a board has no snapshots",
            hint="reboot, with --kgdb-reset=COMMAND; or none",
        )
    if settings.isolation == "reboot" and settings.reset is None and not labgrid:
        raise ConfigError(
            f"{settings.origin('isolation')}: how the board is reset is not known",
            hint="--kgdb-reset=COMMAND",
        )


def _check_together(settings: Settings) -> None:
    """Refuse options that contradict each other."""
    _check_board(settings)
    if any(target.kind == "patch" for target in settings.cov) and not settings.patch:
        raise ConfigError(
            f"{settings.origin('cov')}=patch: the kernel has no patches",
            hint="name them: --kgdb-patch; or the lines: --kgdb-cov=FILE:FIRST-LAST",
        )
    for name in ("cov_lcov", "cov_json", "cov_diff", "cov_fail_under"):
        if name in settings.origins and not settings.cov:
            raise ConfigError(
                f"{settings.origin(name)}: nothing is covered",
                hint="say what: --kgdb-cov=patch, FILE[:LINES], function:NAME or module:NAME",
            )
    if "cov_diff" in settings.origins and not any(t.kind == "patch" for t in settings.cov):
        raise ConfigError(
            f"{settings.origin('cov_diff')}: there is no diff to annotate",
            hint="it is that of --kgdb-patch: --kgdb-cov=patch",
        )
    for name, what in (("artifacts_dump", "dumps"), ("artifacts_machine", "machines")):
        if getattr(settings, name) and settings.artifacts is None:
            raise ConfigError(
                f"{settings.origin(name)}: there is no place for the {what}",
                hint="name one: --kgdb-artifacts=DIR",
            )
    if settings.artifacts_machine and settings.cov:
        raise ConfigError(
            f"{settings.origin('artifacts_machine')}: with {settings.origin('cov')} the memory of "
            "the machine has int3s in it",
            hint="leave one of them out",
        )
    if settings.boot == "disk" and settings.disk == "none":
        raise ConfigError(
            f"{settings.origin('boot')}: there is no disk to boot from",
            hint="name one: --kgdb-disk=debian, or --kgdb-disk=FILE.qcow2",
        )
    if settings.boot == "disk" and not settings.disk.startswith("debian"):
        for name in ("append", "initrd"):
            if name in settings.origins:
                raise ConfigError(
                    f"{settings.origin(name)}: the boot loader of {settings.disk} decides that",
                    hint="leave it out; or leave --kgdb-boot=disk out, and QEMU loads the kernel",
                )
    if settings.initrd == "initramfs-tools" and settings.disk == "none":
        raise ConfigError(
            f"{settings.origin('initrd')}: initramfs-tools runs in the disk's own tree, "
            "and there is no disk",
            hint="name one: --kgdb-disk=debian",
        )
    for name in ("disk_package", "disk_size"):
        if name in settings.origins and not settings.disk.startswith("debian"):
            raise ConfigError(
                f"{settings.origin(name)}: only a disk that is built here can have it",
                hint="--kgdb-disk=debian builds one",
            )
