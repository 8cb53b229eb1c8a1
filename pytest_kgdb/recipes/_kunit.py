"""KUnit suites: run in the guest, their results read from KTAP in the kernel's log."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from ..errors import KgdbError
from ..escape import clean
from ..guest import Shell
from ..klog import KtapCase, KtapSuite, parse_ktap
from ..splats import SplatWatch

__all__ = ["KunitCase", "KunitRunner", "KunitSuite"]

_DEBUGFS: Final = "/sys/kernel/debug/kunit"
# include/kunit/test.h: the section of a module with suites, whose records begin with their names.
_SECTION: Final = b".kunit_test_suites"
_NAME_BYTES: Final = 256
# Of busybox and kmod.
_NO_MODULE: Final = ("not found in ", "No such file or directory")
_HINT: Final = "a larger timeout= for kunit(), if it only needs longer"
_TIME: Final = re.compile(r"^\[ *\d+\.\d+\] ")


class KunitCase(KtapCase):
    """A case of a suite, or one parameter of a case."""

    def check(self) -> None:
        """Fail or skip a pytest test as the case did.

        :raises AssertionError: the case failed.
        """
        if self.status == "skipped":
            import pytest

            skipped = pytest.skip.Exception(self.reason or "skipped by KUnit")
            setattr(skipped, "kgdb_ran", True)  # noqa: B010  --kgdb-require lets it pass
            raise skipped
        if self.status != "passed":
            raise _failed(f"{self.name} {self.status}\n{self.output}".rstrip())


class KunitSuite(KtapSuite):
    """The result of a suite."""

    cases: tuple[KunitCase, ...]

    def report(self, subtests: Any) -> None:
        """Show each case as a subtest of the present test.

        :param subtests: pytest's fixture (pytest 9; before that, the plugin pytest-subtests).
        :raises AssertionError: the suite did not come to its end, or failed where no case did.
        """
        for case in self.cases:
            with subtests.test(msg=clean(f"{self.name}.{case.name}")):
                case.check()
        if self.status == "incomplete":
            raise _failed(f"the suite {self.name} did not come to its end\n{self.text}")
        if self.status == "failed" and not self.failed:
            raise _failed(f"the suite {self.name} failed\n{self.text}")


def _failed(text: str) -> AssertionError:
    error = AssertionError(text)
    setattr(error, "kgdb_ran", True)  # noqa: B010  it is KUnit's word, and no bug of ours
    return error


def _case(case: KtapCase) -> KunitCase:
    return KunitCase(
        case.name, case.status, case.reason, case.output, tuple(map(_case, case.cases))
    )


def parse_suites(lines: Sequence[str]) -> list[KunitSuite]:
    """Return the suites whose results are in the kernel's log."""
    return [
        KunitSuite(suite.name, suite.status, tuple(map(_case, suite.cases)), suite.text)
        for suite in parse_ktap(lines)
    ]


class KernelLog(Protocol):
    """The kernel's log."""

    def dmesg(self) -> str:
        """Return it whole."""


class KunitRunner:
    """Runs the KUnit suites of one machine's kernel.

    :param modules_dir: where the kernel's own modules are on the host.
    """

    def __init__(
        self, shell: Shell, splats: SplatWatch, log: KernelLog, *, modules_dir: Path | None
    ) -> None:
        self._shell = shell
        self._splats = splats
        self._log = log
        self._modules_dir = modules_dir

    def run(self, suite: str, module: str | None, timeout: float | None) -> KunitSuite:
        """Run a suite; see :meth:`Kgdb.kunit`."""
        place = f"{_DEBUGFS}/{suite}"
        lines: Sequence[str]
        # `run` came with 6.8.
        if module is None and self._shell.run(f"[ -w {shlex.quote(place)}/run ]").status == 0:
            result = self._shell.run(
                f"echo 1 > {shlex.quote(place)}/run && cat {shlex.quote(place)}/results",
                timeout,
                hint=_HINT,
            )
            lines = result.output.splitlines()
        else:
            module = module or self._module_of(suite)
            lines = self._load(module, timeout) if module else self._of_the_boot(place)
        suites = parse_suites(lines)
        matching = [candidate for candidate in suites if candidate.name == suite]
        if matching:
            return matching[-1]
        others = ", ".join(other.name for other in suites) or "none"
        raise KgdbError(
            f"no KUnit suite {suite!r} reported in the kernel's log (suites that did: {others})"
            if module is None
            else f"the module {module} did not run a KUnit suite {suite!r} (it ran: {others})",
            log=self._shell.console.log,
            hint="a suite is in a module (name it with module=), or is built in and ran at boot; "
            "KUnit needs CONFIG_KUNIT, and kunit.enable=1 where CONFIG_KUNIT_DEFAULT_ENABLED=n",
            by_test=True,
        )

    def _of_the_boot(self, place: str) -> Sequence[str]:
        """Return the results of a suite that is built in: it runs at the boot, and only there."""
        # Where debugfs has them, they are there even when the log has gone on.
        result = self._shell.run(f"cat {shlex.quote(place)}/results 2>/dev/null")
        if result.status == 0:
            return result.output.splitlines()
        return [_TIME.sub("", line) for line in self._log.dmesg().splitlines()]

    def _load(self, module: str, timeout: float | None) -> list[str]:
        name = module.rpartition("/")[2].partition(".ko")[0].replace("-", "_")
        self._shell.run(f"[ ! -e /sys/module/{name} ] || rmmod {name}", timeout, hint=_HINT)
        cursor = self._splats.cursor()
        load = "insmod" if module.startswith("/") else "modprobe"
        prepare = "modprobe kunit 2>/dev/null; " if load == "insmod" else ""
        command = f"{prepare}{load} {shlex.quote(module)}"
        result = self._shell.run(command, timeout, hint=_HINT)
        if result.status != 0:
            raise KgdbError(
                f"the module {module} could not be loaded: {result.output.strip()}",
                log=self._shell.console.log,
                by_test=any(words in result.output for words in _NO_MODULE),
            )
        return [line.text for line in self._splats.lines(cursor)]

    def _module_of(self, suite: str) -> str | None:
        """Return the module of the kernel that has a suite, if one has."""
        name = suite.encode().ljust(_NAME_BYTES, b"\0")
        for path in self._module_files():
            contents = path.read_bytes()
            if _SECTION in contents and name in contents:
                return path.name.partition(".ko")[0]
        return None

    def _module_files(self) -> Iterator[Path]:
        if self._modules_dir is not None:
            yield from sorted(self._modules_dir.rglob("*.ko"))
