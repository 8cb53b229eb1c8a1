"""The command line of `pytest-kgdb`, and its exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from os.path import expanduser
from pathlib import Path
from typing import Final

from .. import __version__
from ..errors import KgdbError
from ..settings import add_arguments

KERNEL: Final = (
    "kernel",
    "config",
    "fragment",
    "set",
    "patch",
    "make",
    "module-make",
    "module",
    "initrd",
    "disk",
    "disk-package",
    "disk-size",
    "cache-dir",
    "remote-cache",
    "jobs",
)
"""The options for what is built."""

BOARD: Final = ("target", "console", "reset")
MACHINE: Final = (
    "boot",
    "append",
    "smp",
    "memory",
    "qemu-arg",
    "forward",
    "accel",
    "stub",
    "timeout",
    "print-commands",
)
"""The options for what is booted."""

INTERRUPTED: Final = 130  # the status that a shell has for a command that SIGINT ended
WRONG: Final = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0: success; 1: `doctor` or `cache verify` found a problem; 2: the command failed.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if hasattr(options, "rest"):
        options.rest = rest  # pytest's
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except KgdbError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader closed the pipe (`| head`); the flush at Python's exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return WRONG
    return status


def _command(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """Return a command that imports its module when it is run."""

    def run(options: argparse.Namespace) -> int:
        status: int = getattr(import_module(f".{module}", __package__), function)(options)
        return status

    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-kgdb",
        description="Test the Linux kernel from the inside. The options are those of pytest.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pytest-kgdb {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_doctor(commands)
    _add_build(commands)
    _add_attach(commands)
    _add_gate(commands)
    _add_bisect(commands)
    _add_cache(commands)
    return parser


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="check what this host has and lacks, and print the command that fixes it",
        allow_abbrev=False,
    )
    add_arguments(parser, ["cache-dir"])
    parser.set_defaults(run=_command("_doctor", "run"))


def _add_build(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "build", help="build kernel, initrd and disk, and print their paths", allow_abbrev=False
    )
    # With those by which a kernel is refused, and a disk for its own boot loader is another.
    add_arguments(parser, (*KERNEL, "source", "boot", "append", "stub"))
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_command("_build", "build"))


def _add_attach(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "attach",
        help="boot a kernel, or open a saved machine, and run gdb on it",
        allow_abbrev=False,
    )
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="machine that was saved by kgdb.save() or --kgdb-artifacts-machine",
    )
    add_arguments(parser, (*KERNEL, "source", *MACHINE, *BOARD, "trust-scripts"))
    parser.add_argument(
        "--at",
        choices=("ready", "kgdbwait"),
        help="where the kernel is stopped: booted with a shell (default), or in early boot",
    )
    parser.add_argument(
        "--break",
        dest="break_at",
        action="append",
        default=[],
        metavar="LOCATION",
        help="make a breakpoint, and let the kernel run to it; repeatable",
    )
    parser.add_argument(
        "--run",
        dest="run_in_guest",
        metavar="COMMAND",
        help="type a command in the guest's shell, and let the kernel run",
    )
    parser.set_defaults(run=_command("_build", "attach"))


def _add_gate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "gate",
        help="run tests on a kernel without and with a change, and say what they prove of it",
        usage="pytest-kgdb gate --kgdb-kernel=SPEC (--patch FILE | --revert FILE | A..B | "
        "--module DIR@A..B) [OPTIONS] TESTS...",
        epilog="Other options and the tests are pytest's. Exit status: 0 proven, 1 not proven, "
        "6 inconclusive; 2 to 5 as pytest's; 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--patch",
        action="append",
        type=expanduser,
        metavar="FILE",
        help="patch, mbox or quilt series; repeatable",
    )
    parser.add_argument(
        "--revert",
        type=expanduser,
        metavar="FILE",
        help="patch or revision that the kernel contains, to be undone",
    )
    parser.add_argument(
        "--module",
        type=expanduser,
        metavar="DIR@A..B",
        help="two revisions of an out-of-tree driver's own repository",
    )
    parser.add_argument(
        "--each-commit",
        action="store_true",
        help="test each commit of A..B, or each patch of --patch, against the one before it",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="of a test that passes on both kernels, say what differs: calls, splats, leaks",
    )
    parser.add_argument(
        "--expect",
        metavar="VERDICTS",
        help="verdicts that are good ones, by commas: proves, passes, fails, broken, flaky, "
        "not-tested, cannot-tell",
    )
    parser.add_argument("--json", type=expanduser, metavar="FILE", help="write the outcome as JSON")
    for name, text in (
        ("markdown", "for a pull request"),
        ("junit", "as JUnit XML"),
        ("sarif", "as SARIF, on the lines of the change"),
        ("gitlab", "as GitLab's code quality report, on the lines of the change"),
        ("ktap", "as KTAP"),
    ):
        parser.add_argument(
            f"--{name}", type=expanduser, metavar="FILE", help=f"write the outcome {text}"
        )
    _add_tests(parser)
    parser.set_defaults(run=_command("_gate", "gate"), name="gate")


def _add_bisect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bisect",
        help="search for the commit that broke a test",
        usage="pytest-kgdb bisect --kgdb-kernel=SPEC (--good REV --bad REV | --patches SERIES | "
        "--configs GOOD BAD) [OPTIONS] TESTS...",
        epilog="Other options and the tests are pytest's. Exit status: 0 found, 1 an end is not "
        "what it was said to be, 6 inconclusive; 2 to 5 as pytest's. A search that was interrupted "
        "is gone on with by the same command.",
        allow_abbrev=False,
    )
    parser.add_argument("--good", metavar="REV", help="a revision on which the tests pass")
    parser.add_argument("--bad", metavar="REV", help="a later one on which they fail")
    parser.add_argument(
        "--first-parent", action="store_true", help="follow the first parent of merges only"
    )
    parser.add_argument(
        "--path", action="append", default=[], metavar="PATH", help="only commits that change it"
    )
    parser.add_argument(
        "--log", type=expanduser, metavar="FILE", help="write the log, for git bisect replay"
    )
    parser.add_argument(
        "--patches",
        action="append",
        type=expanduser,
        metavar="SERIES",
        help="search for the patch of a mailbox or a quilt series instead; repeatable",
    )
    parser.add_argument(
        "--configs",
        nargs=2,
        type=expanduser,
        metavar=("GOOD", "BAD"),
        help="search for the symbols in which two configurations differ instead",
    )
    _add_tests(parser, ", with --repeat only of the commit that is found and the one before it")
    parser.set_defaults(run=_command("_bisect", "bisect"), name="bisect")
    parser = commands.add_parser(
        "bisect-step",
        help="test the kernel as it is: the command for git bisect run",
        usage="pytest-kgdb bisect-step --kgdb-kernel=TREE [OPTIONS] TESTS...",
        epilog="Exit status: 0 good, 1 bad, 125 cannot be tested, 128 misuse.",
        allow_abbrev=False,
    )
    _add_tests(parser)
    parser.set_defaults(run=_command("_bisect", "step"), name="bisect-step")


def _add_tests(parser: argparse.ArgumentParser, where: str = "") -> None:
    """Add the options of the commands that run tests on several kernels.

    :param where: what `--confidence` holds for, if not for all.
    """
    parser.add_argument("--repeat", metavar="N", help="run each test so often on each kernel")
    parser.add_argument(
        "--confidence",
        metavar="C",
        help="run each test so often that one that fails in a tenth of its runs is seen to be "
        f"flaky with this confidence{where} (default: 0.99)",
    )
    parser.add_argument(
        "--logs", type=expanduser, metavar="DIR", help="keep what pytest printed on each kernel"
    )
    add_arguments(parser, (*KERNEL, *MACHINE, "isolation", "artifacts"))
    parser.set_defaults(rest=[])


def _add_cache(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "cache", help="manage the cache of built artifacts", allow_abbrev=False
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    shared = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_arguments(shared, ["cache-dir"])
    listing = actions.add_parser(
        "ls",
        parents=[shared],
        help="list what is in the cache, its size, last use, and why it is kept",
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    pruning = actions.add_parser(
        "prune",
        parents=[shared],
        help="remove what is old, or too much; by default, what is beyond the cache's bound",
    )
    pruning.add_argument(
        "--older-than", metavar="AGE", help="remove what was not used for so long: 12h, 30d, 4w"
    )
    pruning.add_argument(
        "--max-size",
        metavar="SIZE",
        help="remove the least recently used until so much is left: 20G",
    )
    checking = actions.add_parser(
        "verify", parents=[shared], help="read all entries, and move broken ones to the quarantine"
    )

    pushing = actions.add_parser(
        "push", parents=[shared], help="copy entries to the cache of --kgdb-remote-cache"
    )
    add_arguments(pushing, ["remote-cache"])
    for name, action in (
        ("ls", listing),
        ("prune", pruning),
        ("verify", checking),
        ("push", pushing),
    ):
        action.set_defaults(run=_command("_cache", name))
