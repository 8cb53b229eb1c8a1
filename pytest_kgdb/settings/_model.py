"""The settings of a run, and of one test: frozen, and each value with its origin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ..errors import ConfigError
from ._options import OPTIONS, ini_key
from ._options import field as field_of
from ._values import PARSERS, Forward, parse_list

if TYPE_CHECKING:
    import argparse

    import pytest

Point = Literal["ready", "kgdbwait"]
"""Where a test finds the kernel: booted with a shell, or stopped in early boot."""

MARKER_KEYS: Final = ("at", "smp", "memory", "append", "qemu_arg", "isolation", "timeout")
"""What the marker `kgdb` takes."""

_LISTS: Final = frozenset(field_of(name) for name, kind, *_ in OPTIONS if kind == "list")
_FIELDS: Final = tuple(field_of(name) for name, *_ in OPTIONS)


class _Given(NamedTuple):
    """A value as somebody wrote it."""

    value: object
    origin: str
    base: Path


@dataclass(frozen=True)
class Wanted:
    """What one test asks for: the settings merged with its marker."""

    at: Point
    smp: int
    memory: int
    """MiB."""

    append: str
    isolation: str
    timeout: float
    """Seconds."""

    qemu_arg: tuple[str, ...] = ()
    where: str = field(default="", compare=False)
    """The test, for messages."""

    @property
    def machine(self) -> tuple[int, int, str, tuple[str, ...]]:
        """What tests that can share a machine have in common."""
        return (self.smp, self.memory, self.append, self.qemu_arg)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that the user can choose, checked; one field per option."""

    kernel: tuple[str, ...] = ()
    """SPECs; those that are paths are absolute."""

    config: str = "minimal"
    fragment: tuple[Path, ...] = ()
    set: tuple[str, ...] = ()
    """`CONFIG_X=value` lines, as in a `.config`; the last one about a symbol counts."""

    patch: tuple[Path, ...] = ()
    module: tuple[Path, ...] = ()
    initrd: str = "busybox"
    disk: str = "none"
    disk_package: tuple[str, ...] = ()
    disk_size: int = 4096
    """MiB."""

    boot: str = "kernel"
    append: str = ""
    smp: int = 1
    memory: int = 256
    """MiB."""

    qemu_arg: tuple[str, ...] = ()
    forward: tuple[Forward, ...] = ()
    accel: str = "auto"
    stub: str = "kgdb"
    isolation: str = "snapshot"
    timeout: float = 60.0
    """Seconds."""

    cache_dir: Path
    remote_cache: str | None = None
    jobs: int
    artifacts: Path | None = None
    attach: bool = False
    require: bool = False
    print_commands: bool = False
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)
    """Where each field's value comes from; a field that is not here has its default."""

    def origin(self, name: str) -> str:
        """Return where a field's value comes from: an option, a file and key, or `default`."""
        return self.origins.get(name, "default")

    def for_marker(self, kwargs: Mapping[str, object], where: str) -> Wanted:
        """Return these settings as one test's marker changes them.

        The marker's `append` is added behind the session's words: the kernel takes the last. So
        is its `qemu_arg` behind the session's arguments.

        :param kwargs: the marker's keyword arguments.
        :param where: the test, as pytest names it.
        :raises ConfigError: an argument is unknown or its value cannot be.
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
        plain = Wanted(
            at="ready",
            smp=self.smp,
            memory=self.memory,
            append=self.append,
            isolation=self.isolation,
            timeout=self.timeout,
            where=where,
        )
        return replace(plain, **parsed)


def make_settings(**values: object) -> Settings:
    """Return settings with the given fields, the others at their defaults.

    Values may be as on the command line (`memory="1G"`) or already parsed.

    :raises ConfigError: a field is unknown or its value cannot be.
    """
    if unknown := [name for name in values if name not in _FIELDS]:
        raise ConfigError(f"no such setting: {unknown[0]}", hint=f"known: {', '.join(_FIELDS)}")
    base = Path.cwd()
    return _settings({name: _Given(value, name, base) for name, value in values.items()})


def from_arguments(options: argparse.Namespace) -> Settings:
    """Return the settings that a command's own line asks for (see `add_arguments`).

    :raises ConfigError: an option's value cannot be.
    """
    base = Path.cwd()
    return _settings(
        {
            field_of(name): _Given(value, f"--kgdb-{name}", base)
            for name, *_ in OPTIONS
            if (value := getattr(options, ini_key(name), None)) is not None
        }
    )


def from_pytest(config: pytest.Config) -> Settings:
    """Return the settings of a pytest run: its command line over its configuration file.

    :raises ConfigError: a value cannot be; the message names the origin.
    """
    given: dict[str, _Given] = {}
    for name, *_ in OPTIONS:
        value = config.getoption(ini_key(name), default=None)
        if value is not None:
            given[field_of(name)] = _Given(value, f"--kgdb-{name}", config.invocation_params.dir)
        elif (found := _from_file(config, ini_key(name))) is not None:
            given[field_of(name)] = found
    return _settings(given)


def _from_file(config: pytest.Config, key: str) -> _Given | None:
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
        # pytest before 9.2 lets these through where the file's value has another type.
        raise ConfigError(f"{origin}: {error}") from None
    # Older versions answer "" or [] for what the file does not have.
    return None if value is None or value == "" or value == [] else _Given(value, origin, base)


def _settings(given: Mapping[str, _Given]) -> Settings:
    values: dict[str, Any] = {}
    for name, (value, origin, base) in given.items():
        if value is None:
            continue
        try:
            parse = PARSERS[name]
            values[name] = parse_list(name, value, base) if name in _LISTS else parse(value, base)
        except ValueError as error:
            raise ConfigError(f"{origin}: {error}") from None
    values["append"] = " ".join(values.get("append", ()))
    if "cache_dir" not in values:
        import platformdirs  # a run without kernel tests has no need of it

        values["cache_dir"] = platformdirs.user_cache_path("pytest-kgdb")
    # The CPUs that we may use: in a container they are fewer than the host has.
    values.setdefault("jobs", len(os.sched_getaffinity(0)))
    origins = {name: item.origin for name, item in given.items() if item.value is not None}
    settings = Settings(**values, origins=origins)
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    """Refuse what cannot be had at once."""
    if settings.boot == "disk" and settings.disk == "none":
        raise ConfigError(
            f"{settings.origin('boot')}: there is no disk to boot from",
            hint="name one: --kgdb-disk=debian, or --kgdb-disk=FILE.qcow2",
        )
    if settings.boot == "disk" and not settings.disk.startswith("debian"):
        for name in ("append", "initrd"):
            if name in settings.origins:
                raise ConfigError(
                    f"{settings.origin(name)}: what {settings.disk} boots is for its own boot "
                    "loader to say",
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
