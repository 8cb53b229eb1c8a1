"""Options, configuration file and marker: what they take, which wins, and what is refused."""

from __future__ import annotations

import argparse
import os
import pickle
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.errors import ConfigError
from pytest_kgdb.settings import (
    MARKER_KEYS,
    OPTIONS,
    Forward,
    MachineOptions,
    Settings,
    add_arguments,
    from_arguments,
    from_pytest,
    make_settings,
)


def settings_of(pytester: pytest.Pytester, *args: str) -> Settings:
    """The settings of a pytest run with these arguments, in the pytester's directory."""
    return from_pytest(pytester.parseconfig("-p", "kgdb_options", *args))


@pytest.fixture
def options(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A pytester whose runs have the options, whether or not the plugin is installed."""
    pytester.makepyfile(
        kgdb_options="from pytest_kgdb.settings import add_options as pytest_addoption"
    )
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.syspathinsert()
    return pytester


def test_defaults(options: pytest.Pytester) -> None:
    settings = settings_of(options)
    assert settings == make_settings()
    assert settings.kernel == ()
    assert (settings.config, settings.initrd, settings.disk) == ("minimal", "busybox", "none")
    assert (settings.smp, settings.memory, settings.timeout) == (1, 256, 60.0)
    assert (settings.accel, settings.stub, settings.isolation) == ("auto", "auto", "snapshot")
    assert settings.jobs == len(os.sched_getaffinity(0))
    assert settings.cache_dir.name == "pytest-kgdb"
    assert settings.origins == {}
    assert settings.origin("smp") == "default"


def test_every_option_has_a_field_and_a_parser() -> None:
    from pytest_kgdb.settings._values import PARSERS

    fields = {name.replace("-", "_") for name, *_ in OPTIONS}
    assert fields | {"origins", "configs", "smps"} == set(Settings.__dataclass_fields__)
    assert fields | {"at"} == set(PARSERS)
    assert set(MARKER_KEYS) <= set(PARSERS)


def test_settings_are_frozen_and_can_be_sent_to_another_process() -> None:
    settings = make_settings(forward="tcp:0:22", memory="1G")
    with pytest.raises(FrozenInstanceError):
        settings.smp = 3  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings
    assert again.origins == {"forward": "forward", "memory": "memory"}


def test_the_command_line_wins_over_the_file(options: pytest.Pytester) -> None:
    options.makeini(
        """
        [pytest]
        kgdb_smp = 4
        kgdb_memory = 512M
        kgdb_kernel =
            distro:6.1
            trees/linux
        kgdb_require = true
        """
    )
    settings = settings_of(options, "--kgdb-smp=2", "--kgdb-timeout=5")
    assert (settings.smp, settings.memory, settings.timeout) == (2, 512, 5.0)
    assert settings.kernel == ("distro:6.1", str(options.path / "trees/linux"))
    assert settings.require
    assert settings.origin("smp") == "--kgdb-smp"
    assert settings.origin("memory") == "tox.ini: kgdb_memory"
    # A list on the command line is the whole list.
    assert settings_of(options, "--kgdb-kernel=distro").kernel == ("distro",)


def test_paths_are_meant_from_where_they_were_written(options: pytest.Pytester) -> None:
    options.makeini("[pytest]\nkgdb_fragment = mine.config\nkgdb_artifacts = out")
    (options.path / "mine.config").touch()
    sub = options.mkdir("sub")
    (sub / "theirs.config").touch()
    os.chdir(sub)
    assert settings_of(options).fragment == (options.path / "mine.config",)
    assert settings_of(options).artifacts == options.path / "out"
    settings = settings_of(options, "--kgdb-fragment=theirs.config", "--kgdb-kernel=tree@v6.1")
    assert settings.fragment == (sub / "theirs.config",)
    assert settings.kernel == (str(sub / "tree@v6.1"),)


def test_override_ini(options: pytest.Pytester) -> None:
    options.makeini("[pytest]\nkgdb_smp = 4")
    settings = settings_of(options, "-o", "kgdb_smp=3")
    assert settings.smp == 3
    assert settings.origin("smp") == "-o kgdb_smp"
    with pytest.raises(ConfigError, match=r"^-o kgdb_smp: 'x' is not a whole number"):
        settings_of(options, "-o", "kgdb_smp=x")


@pytest.mark.skipif(pytest.version_tuple < (9, 2), reason="typed TOML files came later")
def test_typed_toml(options: pytest.Pytester) -> None:
    (options.path / "pytest.toml").write_text(
        "[pytest]\nkgdb_smp = 2\nkgdb_memory = '1G'\nkgdb_timeout = 1.5\n"
        "kgdb_require = true\nkgdb_set = ['X=y', 'CONFIG_Y=n']\n"
    )
    settings = settings_of(options)
    assert (settings.smp, settings.memory, settings.timeout) == (2, 1024, 1.5)
    assert settings.require
    assert settings.set == ("CONFIG_X=y", "CONFIG_Y=n")


BAD: list[tuple[str, str, str]] = [
    ("kernel", "", "the value is empty"),
    ("kernel", "package:", "'' is not the name of a Debian package"),
    ("kernel", "package:linux-image=6.1", "'linux-image=6.1' is not the name of a Debian package"),
    ("kernel", "release:6.1 x", "'6.1 x' is not a kernel's release"),
    ("kernel", "release:../6.1", "'../6.1' is not a kernel's release"),
    ("config", "minimum", "neither minimal, defconfig, distro, distro-full, nor a file"),
    ("fragment", "absent.config", "no such file: "),
    ("fragment", ".", "not a file: "),
    ("set", "X", "does not set a symbol: write CONFIG_X=y"),
    ("set", "X=", "does not set a symbol"),
    ("set", "A-B=y", "does not set a symbol"),
    ("patch", "absent.patch", "no such file or directory: "),
    ("module", "absent.ko", "no such file or directory: "),
    ("initrd", "dracut", "neither busybox, initramfs-tools, nor a file"),
    ("disk", "debian:../x", "not the name of a Debian suite"),
    ("disk", "absent.qcow2", "neither none, debian, debian:SUITE, nor a file"),
    ("disk-package", "Firefox!", "'Firefox!' is not the name of a Debian package"),
    ("disk-size", "4T", "'4T' is not a size"),
    ("boot", "bios", "'bios' is not one of kernel, disk"),
    ("append", "quiet\x1b[2J", "control characters"),
    ("smp", "0", "0 is less than 1"),
    ("smp", "two", "'two' is not a whole number"),
    ("smp", "1000", "more than the 255"),
    ("memory", "1", "less than the 32"),
    ("memory", "256K", "write 256 or 256M (MiB), or 1G"),
    ("memory", "-1", "-1"),
    ("qemu-arg", "-device 'x", "cannot be split into arguments: No closing quotation"),
    ("forward", "2222:22", "write tcp:HOSTPORT:GUESTPORT"),
    ("forward", "tcp:70000:22", "outside 1..65535"),
    ("forward", "tcp:1:0", "outside 1..65535"),
    ("cov", "fs/open.c:x", "names no lines"),
    ("cov", "fs/open.c:9-3", "names no lines: 9 to 3"),
    ("cov-fail-under", "101", "is not a number from 0 to 100"),
    ("accel", "hvf", "'hvf' is not one of auto, kvm, tcg"),
    ("stub", "gdb", "'gdb' is not one of auto, kgdb, qemu"),
    ("isolation", "fork", "'fork' is not one of snapshot, reboot, none"),
    ("timeout", "0", "0 is not a bound"),
    ("timeout", "inf", "inf is not a bound"),
    ("timeout", "nan", "nan is not a bound"),
    ("timeout", "1m", "'1m' is not a number of seconds"),
    ("jobs", "-2", "-2 is less than 1"),
    ("cache-dir", "", "the value is empty"),
]


@pytest.mark.parametrize(("name", "value", "problem"), BAD)
def test_a_bad_value_is_reported_with_its_option(
    options: pytest.Pytester, name: str, value: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(options, f"--kgdb-{name}={value}")
    assert str(caught.value).startswith(f"--kgdb-{name}: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [row for row in BAD if row[1] and "\x1b" not in row[1]],
)
def test_a_bad_value_is_reported_with_its_file(
    options: pytest.Pytester, name: str, value: str, problem: str
) -> None:
    key = "kgdb_" + name.replace("-", "_")
    options.makeini(f"[pytest]\n{key} = {value}")
    with pytest.raises(ConfigError) as caught:
        settings_of(options)
    assert str(caught.value).startswith(f"tox.ini: {key}: ")
    assert problem in str(caught.value)


def test_a_flag_in_the_file_that_is_none(options: pytest.Pytester) -> None:
    options.makeini("[pytest]\nkgdb_require = perhaps")
    # pytest itself refuses it from 9.2 on, before that we do.
    with pytest.raises((ConfigError, pytest.UsageError), match="perhaps"):
        settings_of(options)


@pytest.mark.parametrize(
    ("value", "mib"),
    [("256", 256), ("256M", 256), ("1G", 1024), ("2GiB", 2048), ("512 mb", 512), (384, 384)],
)
def test_memory(value: object, mib: int) -> None:
    assert make_settings(memory=value).memory == mib


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("CONFIG_X=y", "CONFIG_X=y"),
        ("X=m", "CONFIG_X=m"),
        ("X=n", "CONFIG_X=n"),
        ("LOG_BUF_SHIFT=17", "CONFIG_LOG_BUF_SHIFT=17"),
        ("PHYSICAL_START=0x1000000", "CONFIG_PHYSICAL_START=0x1000000"),
        ('CMDLINE="quiet a=b"', 'CONFIG_CMDLINE="quiet a=b"'),
        ("CMDLINE=quiet a=b", 'CONFIG_CMDLINE="quiet a=b"'),
        (r'CMDLINE=say "\"', r'CONFIG_CMDLINE="say \"\\\""'),
    ],
)
def test_set(written: str, line: str) -> None:
    assert make_settings(set=[written]).set == (line,)


def test_lists() -> None:
    settings = make_settings(
        append=["quiet", "slub_debug=P  loglevel=8"],
        qemu_arg=["-device virtio-rng-pci", "-name 'a b'"],
        forward=["tcp:2222:22", "udp:0:53"],
        disk="debian:trixie",
        disk_package=["gdb,strace", "firefox-esr"],
    )
    assert settings.append == "quiet slub_debug=P  loglevel=8"
    assert settings.qemu_arg == ("-device", "virtio-rng-pci", "-name", "a b")
    assert settings.forward == (Forward("tcp", 2222, 22), Forward("udp", 0, 53))
    assert str(settings.forward[0]) == "tcp:2222:22"
    assert settings.disk_package == ("gdb", "strace", "firefox-esr")


def test_remote_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_settings(remote_cache="s3://bucket/x").remote_cache == "s3://bucket/x"
    assert make_settings(remote_cache="shared").remote_cache == str(tmp_path / "shared")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"boot": "disk"}, "boot: there is no disk to boot from"),
        (
            {"boot": "disk", "disk": __file__, "append": ["x"]},
            "append: the boot loader of .*py decides",
        ),
        (
            {"boot": "disk", "disk": __file__, "initrd": "busybox"},
            "initrd: the boot loader of .* decides",
        ),
        ({"initrd": "initramfs-tools"}, "initrd: initramfs-tools runs in the disk's own tree"),
        ({"disk_size": "8G"}, "disk_size: only a disk that is built here"),
        ({"colour": "red"}, "no such setting: colour"),
    ],
)
def test_what_cannot_be_had_together(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_settings(**values)


def test_marker() -> None:
    settings = make_settings(append="quiet", smp=2)
    request = settings.for_marker({}, "test_x.py::test_y")
    assert (request.at, request.smp, request.memory, request.append) == ("ready", 2, 256, "quiet")
    assert (request.isolation, request.timeout) == ("snapshot", 60.0)
    assert request.machine == MachineOptions(smp=2, memory=256, append="quiet")
    other = settings.for_marker(
        {
            "at": "kgdbwait",
            "memory": "1G",
            "append": "debug",
            "isolation": "reboot",
            "timeout": 2,
        },
        "test_x.py::test_z",
    )
    assert (other.at, other.isolation, other.timeout) == ("kgdbwait", "reboot", 2.0)
    assert other.machine == MachineOptions(smp=2, memory=1024, append="quiet debug")
    # The test's name is for messages: it does not make two tests want different things.
    assert settings.for_marker({}, "test_x.py::test_z") == request


def test_a_markers_devices() -> None:
    settings = make_settings(qemu_arg="-device edu")
    assert settings.for_marker({}, "x").qemu_arg == ("-device", "edu")
    both = settings.for_marker({"qemu_arg": ["-device virtio-rng-pci", "-S"]}, "x")
    assert both.qemu_arg == ("-device", "edu", "-device", "virtio-rng-pci", "-S")
    assert both.machine != settings.for_marker({}, "x").machine


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [
        ({"cpus": 2}, r"marker kgdb\(cpus=…\): no such argument\nhint: it takes at, smp, memory"),
        ({"smp": "two"}, r"marker kgdb\(smp=…\): 'two' is not a whole number"),
        ({"smp": True}, r"marker kgdb\(smp=…\): True is not a whole number"),
        ({"smp": None}, r"marker kgdb\(smp=…\): None is not a whole number"),
        ({"at": "init"}, r"marker kgdb\(at=…\): 'init' is not one of ready, kgdbwait"),
        ({"memory": 1.5}, r"marker kgdb\(memory=…\): 1.5 is not a size"),
        ({"append": 3}, r"marker kgdb\(append=…\): 3 is not a text"),
        ({"qemu_arg": 3}, r"marker kgdb\(qemu_arg=…\): 3 is not a list"),
        ({"qemu_arg": "'x"}, r"marker kgdb\(qemu_arg=…\): \"'x\" cannot be split"),
        ({"isolation": []}, r"marker kgdb\(isolation=…\): \[\] is not one of"),
        ({"timeout": "soon"}, r"marker kgdb\(timeout=…\): 'soon' is not a number of seconds"),
        ({"timeout": True}, r"marker kgdb\(timeout=…\): True is not a number of seconds"),
    ],
)
def test_a_bad_marker(kwargs: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^test_x.py::test_y: {problem}"):
        make_settings().for_marker(kwargs, "test_x.py::test_y")


def test_a_commands_own_line() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, ["kernel", "smp", "require"])
    settings = from_arguments(
        parser.parse_args(["--kgdb-kernel=distro", "--kgdb-kernel=distro:6.12", "--kgdb-smp=2"])
    )
    assert settings.kernel == ("distro", "distro:6.12")
    assert settings.origin("smp") == "--kgdb-smp"
    assert not settings.require
    with pytest.raises(ConfigError, match=r"^--kgdb-smp: 0 is less than 1"):
        from_arguments(parser.parse_args(["--kgdb-smp=0"]))
    with pytest.raises(SystemExit):
        parser.parse_args(["--kgdb-disk=debian"])
