"""A kernel that the disk's own boot loader starts, up to kgdbwait."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kgdb import Kgdb, disk, initrd
from pytest_kgdb.cache import Cache
from pytest_kgdb.disk import boot_area
from pytest_kgdb.errors import BootError, ConfigError
from pytest_kgdb.kernel import Kernel
from pytest_kgdb.progress import Silent
from pytest_kgdb.session import Session
from pytest_kgdb.settings import Settings, from_pytest

# What an image must give its kernel (docs/disk.md).
PARAMETERS = "console=ttyS0,115200 kgdboc=ttyS1,115200 kgdbwait nokaslr rodata=off"

MIB = 512


@pytest.fixture
def settings(pytestconfig: pytest.Config) -> Settings:
    given = from_pytest(pytestconfig)
    # The origins would have an initrd and parameters asked for that were given for other tests.
    return replace(
        given, boot="disk", memory=256, timeout=120, initrd="busybox", append="", origins={}
    )


@pytest.fixture
def make(kgdb_kernel: Kernel, settings: Settings, tmp_path: Path) -> Callable[[str], Path]:
    """Makes an image with a boot loader and nothing else."""

    def make(parameters: str) -> Path:
        cache = Cache(settings.cache_dir, progress=Silent())
        ram = initrd.prepare(settings, kgdb_kernel, [], cache, Silent())
        ours = ram.path, ram.key
        area = boot_area(kgdb_kernel, ours, parameters, MIB, cache, Silent()).path
        image = tmp_path / "mine.qcow2"
        raw = tmp_path / "mine.raw"
        raw.write_bytes(area.read_bytes())
        with raw.open("r+b") as file:
            file.truncate(MIB << 20)
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image], check=True)
        return image

    return make


@contextmanager
def at_kgdbwait(settings: Settings, kernel: Kernel, append: str = "") -> Iterator[Kgdb]:
    progress = Silent()
    cache = Cache(settings.cache_dir, progress=progress)
    image = disk.prepare(settings, kernel, cache, progress)
    ram = initrd.prepare(settings, kernel, [], cache, progress)
    marker = {"at": "kgdbwait", "isolation": "reboot"} | ({"append": append} if append else {})
    with Session(settings, kernel, ram, image, cache=cache, progress=progress) as session:
        yield session.acquire(settings.for_marker(marker, "the test"))


def test_debian(kgdb_kernel: Kernel, settings: Settings) -> None:
    with at_kgdbwait(settings, kgdb_kernel, "one='a b' two=\"c d\" three=$HOME;x") as kgdb:
        assert kgdb.stop is not None
        assert (kgdb.stop.reason, kgdb.stop.frame.function) == ("int3", "kgdb_breakpoint")
        command_line = kgdb.evaluate("saved_command_line").string()
        assert command_line.startswith(
            f"BOOT_IMAGE=/vmlinuz-{kgdb_kernel.release} console=ttyS0,115200 "
        )
        assert " root=/dev/vda2 rw " in command_line
        # As GRUB hands on what it was given.
        assert command_line.endswith(" one=\\'a b\\' \"two=c d\" three=$HOME;x")
        with kgdb.breakpoint("mount_root"):
            assert kgdb.cont().reason == "breakpoint"
            assert "vda: vda1 vda2" in kgdb.dmesg()


def test_an_image_of_the_users_own(
    kgdb_kernel: Kernel, settings: Settings, make: Callable[[str], Path]
) -> None:
    image = make(PARAMETERS)
    before = image.read_bytes()
    with at_kgdbwait(replace(settings, disk=str(image)), kgdb_kernel) as kgdb:
        assert PARAMETERS in kgdb.evaluate("saved_command_line").string()
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        (PARAMETERS.replace(" kgdbwait", ""), "started init without having waited"),
        (PARAMETERS.replace(" rodata=off", ""), "gives its kernel no rodata=off: BOOT_IMAGE="),
    ],
)
def test_an_image_whose_boot_loader_says_too_little(
    kgdb_kernel: Kernel,
    settings: Settings,
    make: Callable[[str], Path],
    parameters: str,
    problem: str,
) -> None:
    image = make(parameters)
    with (
        pytest.raises(BootError, match=problem) as caught,
        at_kgdbwait(replace(settings, disk=str(image)), kgdb_kernel),
    ):
        pass
    assert "kgdbwait nokaslr rodata=off" in str(caught.value.hint)


@pytest.mark.parametrize("reported_by", ["banner", "build id"])
def test_an_image_with_another_kernel(
    kgdb_kernel: Kernel,
    settings: Settings,
    make: Callable[[str], Path],
    tmp_path: Path,
    reported_by: str,
) -> None:
    other = replace(kgdb_kernel, build_id="00" * 20)
    if reported_by == "banner":
        banner = f"Linux version {kgdb_kernel.release}".encode()
        other = replace(other, vmlinux=tmp_path / "vmlinux")
        content = kgdb_kernel.vmlinux.read_bytes()
        other.vmlinux.write_bytes(content.replace(banner, banner[:-1] + b"x"))
    with (
        pytest.raises(BootError, match=r"in the image is not .*: its build id is not 00"),
        at_kgdbwait(replace(settings, disk=str(make(PARAMETERS))), other),
    ):
        pass


def test_by_qemus_stub_an_image_needs_no_more_than_symbols(
    kgdb_kernel: Kernel, settings: Settings, make: Callable[[str], Path]
) -> None:
    image = make("console=ttyS0,115200 nokaslr")
    with at_kgdbwait(replace(settings, disk=str(image), stub="qemu"), kgdb_kernel) as kgdb:
        assert kgdb.stop is not None
        assert kgdb.stop.frame.function == "start_kernel"


def test_an_image_without_a_boot_loader(
    kgdb_kernel: Kernel, settings: Settings, tmp_path: Path
) -> None:
    image = tmp_path / "empty.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    with (
        pytest.raises(BootError, match="not a bootable disk") as caught,
        at_kgdbwait(replace(settings, disk=str(image)), kgdb_kernel),
    ):
        pass
    assert "    SeaBIOS (" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_parameters_for_an_image_of_the_users_own(
    kgdb_kernel: Kernel, settings: Settings, tmp_path: Path
) -> None:
    image = tmp_path / "empty.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    with (
        pytest.raises(ConfigError, match=r"append='quiet': .* image's own boot loader"),
        at_kgdbwait(replace(settings, disk=str(image)), kgdb_kernel, "quiet"),
    ):
        pass
