"""A session and artifacts that write down what they are asked for, for runs inside pytest."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pytest_kgdb import errors
from pytest_kgdb.plugin._artifacts import SOURCE
from pytest_kgdb.plugin._failures import INTERNAL
from pytest_kgdb.progress import Progress
from pytest_kgdb.report import Section, Story
from pytest_kgdb.settings import Settings, TestRequest

EVENTS = Path("events")
"""Where it is written down; the inner run's conftest.py says where that is."""

build_errors: list[BaseException] = []

build_time: dict[str, float] = {}
"""Seconds that a `kernel` or a `boot` takes."""


def event(*words: object) -> None:
    with EVENTS.open("a") as stream:
        print(*words, file=stream)


def _raise_os_error() -> None:
    raise OSError("an inner affair")


class Handle:
    """What tests get."""

    def fail(self, error: BaseException, cause: bool = False) -> None:
        if cause:
            try:
                _raise_os_error()
            except OSError as reason:
                raise error from reason
        raise error

    def call_back(self, function: Callable[[], object]) -> object:
        return function()


class Session:
    """A :class:`pytest_kgdb.plugin._artifacts.KernelSession`."""

    acquire_errors: ClassVar[list[BaseException | None]] = []
    acquire_seconds: ClassVar[list[float]] = []
    check_seconds: ClassVar[list[float]] = []
    sections: ClassVar = [Section("kgdb console", "Linux version 6.1\x1b[31m red\x1b[0m\nready")]
    splats: ClassVar[list[str]] = []
    its_story: ClassVar[Story] = {
        "seconds": 0.05,
        "dropped": 0,
        "runs": [(0.01, 0.02)],
        "actions": [],
        "calls": [],
        "console": [(0.015, "<b>a line</b>")],
    }

    def __init__(self, settings: Settings, kernel: object, initrd: object, disk: object) -> None:
        self.console_log = EVENTS.with_name("console.log")
        self.transcript = EVENTS.with_name("gdb.log")
        self.kernel = kernel
        self.stub = "qemu" if settings.stub == "auto" else settings.stub
        self.booted: object = None
        event("session", kernel, initrd, disk)

    def lacks(self, request: TestRequest) -> str | None:
        return None

    def acquire(self, request: TestRequest) -> Any:
        if request.machine != self.booted:
            machine = request.machine
            time.sleep(build_time.get("boot", 0))
            event("boot", self.kernel, machine.smp, machine.memory, machine.append)
            self.booted = request.machine
        time.sleep(self.acquire_seconds.pop(0) if self.acquire_seconds else 0)
        if self.acquire_errors and (error := self.acquire_errors.pop(0)) is not None:
            raise error
        event("acquire", request.at, request.isolation, request.timeout)
        return Handle()

    @property
    def handle(self) -> Any:
        event("shared")
        return Handle()

    def release(self) -> None:
        event("release")

    coverage: Any = None

    def end_test(self, nodeid: str) -> None:
        event("ended", nodeid)
        if self.coverage is not None:
            self.coverage.ended(nodeid)

    def begin_test(self) -> None:
        pass

    def check_splats(self) -> None:
        time.sleep(self.check_seconds.pop(0) if self.check_seconds else 0)
        if self.splats:
            raise errors.SplatError(self.splats.pop(0), log="/console.log")

    def describe(self) -> list[str]:
        return ["kernel 6.1, QEMU 7.2 with TCG, gdb 13.1"]

    def commands(self) -> list[str]:
        return ["qemu-system-x86_64  -append 'a  b' &", "gdb vmlinux"]

    def report_sections(self) -> list[Section]:
        return self.sections

    def story(self) -> Story:
        return self.its_story

    def save_artifacts(self, directory: Path, *, dump: bool, machine: bool) -> None:
        event("save_artifacts", directory.name, dump, machine)
        if machine:
            (directory / "machine.kgdb").touch()

    ends_at_prompt = False

    def attach(self, *, tests: bool) -> bool:
        event("attach")
        return self.ends_at_prompt

    def close(self) -> None:
        event("close", self.kernel)


class FakeKernel(str):
    """The name of a kernel, with what the marker `kgdb_kernel` asks of it."""

    releases: ClassVar[dict[str, str]] = {}
    configs: ClassVar[dict[str, dict[str, str]]] = {}
    headers = "headers.tar.gz"

    @property
    def spec(self) -> str:
        return str(self)

    name = spec

    @property
    def release(self) -> str:
        return self.releases.get(self, "6.1.192")

    @property
    def config(self) -> dict[str, str]:
        return self.configs.get(self, {"KGDB": "y"})


class Artifacts:
    """A :class:`pytest_kgdb.plugin._artifacts.ArtifactSource`."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress

    def kernel(self, spec: str, config: str | None = None, settings: Settings | None = None) -> Any:
        time.sleep(build_time.get("kernel", 0))
        event("build", *filter(None, (spec, config)))
        patches = settings.patch if settings is not None else ()
        name = "-".join(filter(None, (spec.rpartition("/")[2], config)))
        name = "+".join([name, *(path.name for path in patches)])
        self._progress.say(f"building {name}")
        for error in build_errors:
            raise error
        return FakeKernel(name)

    def initrd(self, kernel: object) -> Any:
        return "initrd"

    def disk(self, kernel: object) -> Any:
        return None

    def session(self, kernel: object, initrd: object, disk: object) -> Session:
        return Session(self._settings, kernel, initrd, disk)


def install(config: pytest.Config) -> None:
    """Use these in a run; their frames are not the user's."""
    config.stash[SOURCE] = Artifacts
    config.stash[INTERNAL] = (Path(__file__),)
