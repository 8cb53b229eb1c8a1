"""The table of options, and their registration with pytest and argparse.

Every pytest run imports this module, also one without kernel tests: it imports nothing that pytest
does not import, and defines no classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    import pytest

BUILD_SETTINGS: Final = "build-settings"
"""The option by which a command says which kernel the tests that it starts run on."""

# name, kind, metavar, help. `value`: the last one given counts; `number`: the same, and may be a
# number in a typed TOML file; `list`: repeatable; `values`, `numbers`: repeatable, and several are
# parameters of the tests; `flag`: given or not.
OPTIONS: Final = (
    (
        "kernel",
        "list",
        "SPEC",
        "kernel to test: a source tree, a build directory, a tarball, TREE@REV, distro[:VERSION], "
        "package:NAME, or release:[VERSION]; repeatable, each is a parameter of the tests",
    ),
    (
        "config",
        "values",
        "BASE",
        "base configuration: minimal (default), defconfig, distro, distro-full, or a file; "
        "repeatable, each is a parameter of the tests",
    ),
    ("fragment", "list", "FILE", "configuration fragment laid over the base; repeatable"),
    ("set", "list", "CONFIG_X=y", "one configuration symbol; repeatable"),
    ("patch", "list", "FILE", "patch, mbox, or directory with a quilt series; repeatable"),
    (
        "source",
        "value",
        "DIR",
        "where the source now is of a kernel that was built elsewhere: of a build directory, or "
        "of release:",
    ),
    (
        "make",
        "list",
        "VAR=VALUE",
        "variable for make of the kernel and of modules: LLVM=1, CC=gcc-12, KCFLAGS=-O1; "
        "repeatable",
    ),
    ("module-make", "list", "VAR=VALUE", "variable for make of modules only; repeatable"),
    ("module", "list", "DIR_OR_KO", "out-of-tree module to build and put in the guest; repeatable"),
    ("initrd", "value", "INITRD", "initrd: busybox (default), initramfs-tools, or a file"),
    ("disk", "value", "DISK", "disk: none (default), debian[:SUITE], or a qcow2 file"),
    ("disk-package", "list", "NAME", "further Debian package on the disk; repeatable"),
    ("disk-size", "number", "SIZE", "virtual size of a disk that is built (default: 4G)"),
    (
        "boot",
        "value",
        "WHAT",
        "what boots: kernel (default: QEMU loads it) or disk (the disk's own boot loader)",
    ),
    ("append", "list", "WORDS", "words added to the kernel's command line; repeatable"),
    (
        "smp",
        "numbers",
        "N",
        "CPUs of the guest (default: 1); repeatable, each is a parameter of the tests",
    ),
    ("memory", "number", "SIZE", "memory of the guest: 256 or 256M (default), 1G"),
    ("qemu-arg", "list", "ARG", "further QEMU arguments, split as in a shell; repeatable"),
    (
        "forward",
        "list",
        "PROTO:HOST:GUEST",
        "forward a loopback port of the host to the guest, as tcp:2222:22; 0 picks a free one; "
        "repeatable",
    ),
    ("accel", "value", "ACCEL", "accelerator: auto (default: KVM if a guest runs on it), kvm, tcg"),
    (
        "stub",
        "value",
        "STUB",
        "the stub gdb is attached to: auto (default: kgdb if the kernel has it), kgdb, or qemu",
    ),
    (
        "target",
        "value",
        "TARGET",
        "a board that runs: kgdb's serial line, as serial:/dev/ttyUSB1,115200, tcp:HOST:PORT or "
        "rfc2217://HOST:PORT behind serial:; or labgrid:NAME, a target of --lg-env",
    ),
    ("console", "value", "LINE", "the board's console (default: the line of --kgdb-target)"),
    ("reset", "value", "COMMAND", "command that resets the board: a power switch"),
    (
        "isolation",
        "value",
        "HOW",
        "what a test gets: snapshot (default: the kernel restored), reboot, or none (a board's "
        "default without --kgdb-reset)",
    ),
    ("timeout", "number", "SECONDS", "bound of every wait that names none (default: 60)"),
    ("cache-dir", "value", "DIR", "where what was built is kept"),
    ("remote-cache", "value", "URL", "shared cache to read from: a directory, HTTP, S3 (fsspec)"),
    ("jobs", "number", "N", "parallel jobs of a build (default: the CPUs)"),
    ("artifacts", "value", "DIR", "where the full logs of failed tests are saved"),
    ("artifacts-dump", "flag", "", "with --kgdb-artifacts: a vmcore of the kernel, too"),
    (
        "artifacts-machine",
        "flag",
        "",
        "with --kgdb-artifacts: the stopped machine, too, which `pytest-kgdb attach FILE` opens",
    ),
    ("report", "value", "DIR", "write an HTML page about the run: DIR/index.html"),
    ("gitlab", "value", "FILE", "write failed tests for GitLab's code quality report"),
    ("attach", "flag", "", "on a failure, stop there and give gdb on the live kernel"),
    (
        "trust-scripts",
        "flag",
        "",
        "when gdb is attached: run the kernel's own scripts in it, for its lx- commands",
    ),
    ("require", "flag", "", "a kernel test that is skipped is a failure"),
    ("repeat", "number", "N", "run each kernel test so often (default: 1)"),
    ("record", "value", "FILE", "write what each test came to, one JSON object in a line"),
    ("observe", "flag", "", "write into the record what spies and the kernel's log saw"),
    (
        "peer",
        "value",
        "FILE",
        "keep in step with the run that writes this record, and repeat no test that varies",
    ),
    (
        BUILD_SETTINGS,
        "value",
        "FILE",
        "take what is built from this file, and from neither options nor configuration file",
    ),
    (
        "prove",
        "flag",
        "",
        "run tests with the marker kgdb_fix without and with their fix: they must fail without it",
    ),
    (
        "cov",
        "list",
        "WHAT",
        "which lines run: patch, FILE[:LINES], function:NAME, module:NAME; repeatable",
    ),
    ("cov-lcov", "value", "FILE", "write what ran in lcov's format"),
    ("cov-json", "value", "FILE", "write what ran, and under which tests, as JSON"),
    ("cov-diff", "value", "FILE", "write the patches' diff with what ran of it"),
    ("cov-fail-under", "number", "PERCENT", "fail the run if less of the lines ran"),
    ("print-commands", "flag", "", "print the commands that the session runs, ready to paste"),
)


def field(name: str) -> str:
    """Return the name of an option's field in `Settings`."""
    return name.replace("-", "_")


def ini_key(name: str) -> str:
    """Return an option's key in pytest's configuration file."""
    return "kgdb_" + field(name)


def add_options(parser: pytest.Parser) -> None:
    """Register every option, and its key for the configuration file, with pytest."""
    import pytest

    group = parser.getgroup("kgdb", "the Linux kernel under kgdb")
    # The number types are for pytest's typed TOML files; older versions have strings only.
    number: Any = int | float | str if pytest.version_tuple >= (9, 2) else "string"
    ini_types = {
        "value": "string",
        "values": "string",  # one in each line
        "number": number,
        "numbers": number,
        "list": "linelist",
        "flag": "bool",
    }
    for name, kind, metavar, text in OPTIONS:
        key = ini_key(name)
        group.addoption("--kgdb-" + name, **_keywords(name, kind, metavar, text))
        parser.addini(key, text, type=ini_types[kind], default=None)


def add_arguments(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Add some of the options to the parser of a command, with their names in pytest."""
    selected = set(names)
    for name, kind, metavar, text in OPTIONS:
        if name in selected:
            parser.add_argument("--kgdb-" + name, **_keywords(name, kind, metavar, text))


def _keywords(name: str, kind: str, metavar: str, text: str) -> dict[str, Any]:
    """Return the keyword arguments that argparse and pytest both take for an option."""
    # Without `dest`, pytest searches all options for a conflict, which takes time.
    keywords = {"dest": ini_key(name), "default": None, "help": text}
    if kind == "flag":
        return {**keywords, "action": "store_true"}
    several = kind in ("list", "values", "numbers")
    return {**keywords, "action": "append" if several else "store", "metavar": metavar}


def given(config: pytest.Config) -> bool:
    """Whether any of the options is on the command line or in the configuration file."""
    return any(_is_set(config, ini_key(name)) for name, *_ in OPTIONS)


def _is_set(config: pytest.Config, key: str) -> bool:
    if getattr(config.option, key, None) is not None:
        return True
    try:
        # Older versions return "" or [] for keys that are not in the file.
        return config.getini(key) not in (None, "", [])
    except Exception:
        return True  # the value has the wrong type, which is reported when it is read
