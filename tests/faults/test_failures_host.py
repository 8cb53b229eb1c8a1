"""What is wrong before a machine is started: the kernel that was named, the host's programs."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from fake_tree import fake_tree
from inner_run import InnerRun, Outcome, no_traceback_of_ours

from pytest_kgdb.kernel import Kernel
from pytest_kgdb.machine import try_kvm
from pytest_kgdb.process import which

TESTS = """
def test_it(kgdb):
    assert kgdb.run("echo fine").output == "fine\\n"


def test_another(kgdb):
    pass


def test_no_kernel_needed():
    pass
"""


def run(directory: Path, *options: str, path: str | None = None) -> Outcome:
    """Run pytest; whatever was wrong, a test that needs no kernel has passed."""
    ran = InnerRun(directory / "inner", TESTS, options, path=path).end()
    assert ran.passed("test_no_kernel_needed"), ran.output
    return ran


def error_text(ran: Outcome) -> str:
    """The error's message: whole at the first test, one line at the next."""
    assert ran.status == 1, ran.output
    report = ran.failure("test_it")
    assert report.when == "setup"
    no_traceback_of_ours(ran.output)
    again = ran.failure("test_another").text
    assert len(again.splitlines()) == 1
    assert "reported in full above" in again
    assert len(report.text.splitlines()) < 12, report.text
    return report.text


def programs(directory: Path, *without: str) -> Path:
    """Return a directory with links to every program on PATH, but some."""
    directory.mkdir()
    for place in os.get_exec_path():
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            link = directory / program.name
            if program.name not in without and not link.is_symlink():
                link.symlink_to(program)
    return directory


def cached(session_options: list[str]) -> str:
    """The options' cache, for runs with another kernel."""
    (option,) = [value for value in session_options if value.startswith("--kgdb-cache-dir=")]
    return option


class TestTheKernelNamed:
    def test_missing(self, tmp_path: Path) -> None:
        (tmp_path / "linux-6.1").mkdir()
        text = error_text(run(tmp_path, f"--kgdb-kernel={tmp_path}/linux-6.2"))
        assert text == (
            f"no kernel {tmp_path}/linux-6.2: there is no such file or directory\n"
            f"hint: did you mean {tmp_path}/linux-6.1?"
        )

    def test_not_a_kernel_tree(self, tmp_path: Path) -> None:
        (tmp_path / "project").mkdir()
        (tmp_path / "project/Makefile").write_text("all:\n")
        text = error_text(run(tmp_path, f"--kgdb-kernel={tmp_path}/project"))
        assert text.startswith(
            f"{tmp_path}/project is not a kernel: neither a source tree (Makefile, Kconfig, "
            "Kbuild) nor a build directory (vmlinux, .config, arch/x86/boot/bzImage)"
        )

    def test_distribution_without_its_package(self, tmp_path: Path) -> None:
        text = error_text(run(tmp_path, "--kgdb-kernel=distro:4.4"))
        assert text.startswith("distro:4.4: there is no /usr/src/linux-source-4.4.tar.*")
        assert "hint: apt install linux-source-4.4" in text

    def test_source_that_does_not_compile(self, tmp_path: Path) -> None:
        tree = fake_tree(tmp_path / "linux")
        noise = "".join(f"int f{number}(void) {{ undeclared; }}\n" for number in range(2000))
        (tree / "fs/open.c").write_text(noise)
        options = [f"--kgdb-kernel={tree}", f"--kgdb-cache-dir={tmp_path}/cache"]
        text = error_text(run(tmp_path, *options))
        assert text.startswith(f"kernel {tree} (minimal) does not compile:\n")
        assert re.search(r"open\.c:1:\d+: error: 'undeclared' undeclared", text)
        assert text.count("error:") == 1
        assert "log: " in text

    def test_prebuilt_without_kgdb(
        self, tmp_path: Path, kgdb_kernel: Kernel, session_options: list[str]
    ) -> None:
        build = built(tmp_path / "build", kgdb_kernel)
        config = (build / ".config").read_text()
        lines = [line for line in config.splitlines() if not line.startswith("CONFIG_KGDB")]
        (build / ".config").write_text("\n".join(lines) + "\n")
        stub = "--kgdb-stub=kgdb"  # by default, it would be tested through QEMU's
        options = (stub, cached(session_options))
        text = error_text(run(tmp_path, f"--kgdb-kernel={build}", *options))
        assert text.startswith(f"the kernel in {build} was built without\n")
        assert "  CONFIG_KGDB=y (" in text
        assert "  CONFIG_KGDB_SERIAL_CONSOLE=y (" in text
        assert "hint: set them in its .config and build it again" in text

    def test_vmlinux_and_image_of_different_builds(
        self, tmp_path: Path, kgdb_kernel: Kernel, session_options: list[str]
    ) -> None:
        build = built(tmp_path / "build", kgdb_kernel)
        (build / "vmlinux").unlink()
        note, other = bytes.fromhex(kgdb_kernel.build_id), bytes(20)
        (build / "vmlinux").write_bytes(kgdb_kernel.vmlinux.read_bytes().replace(note, other))
        text = error_text(run(tmp_path, f"--kgdb-kernel={build}", cached(session_options)))
        assert "vmlinux and bzImage in " in text
        assert "are of different builds" in text
        assert kgdb_kernel.build_id in text
        assert f"hint: build both: make -C {build} vmlinux bzImage" in text


def built(path: Path, kernel: Kernel) -> Path:
    """Make a build directory of this session's kernel, as a user's would be."""
    image = path / kernel.arch.image
    image.parent.mkdir(parents=True)
    image.symlink_to(kernel.image)
    (path / "vmlinux").symlink_to(kernel.vmlinux)
    shutil.copyfile(kernel.config, path / ".config")
    (path / "include/config").mkdir(parents=True)
    (path / "include/config/kernel.release").write_text(f"{kernel.release}\n")
    return path


class TestTheHost:
    def test_qemu_absent(self, tmp_path: Path, session_options: list[str]) -> None:
        path = programs(tmp_path / "bin", "qemu-system-x86_64")
        text = error_text(run(tmp_path, *session_options, path=str(path)))
        assert text == (
            "qemu-system-x86_64 is needed, and is not installed (or not on PATH)\n"
            "hint: apt install qemu-system-x86"
        )

    def test_gdb_absent(self, tmp_path: Path, session_options: list[str]) -> None:
        path = programs(tmp_path / "bin", "gdb")
        text = error_text(run(tmp_path, *session_options, path=str(path)))
        assert text == (
            "gdb is needed, and is not installed (or not on PATH)\nhint: apt install gdb"
        )

    def test_gdb_too_old(self, tmp_path: Path, session_options: list[str]) -> None:
        path = programs(tmp_path / "bin", "gdb")
        (path / "gdb").write_text("#!/bin/sh\necho 'GNU gdb (Debian 8.2.1-2+b3) 8.2.1'\n")
        (path / "gdb").chmod(0o755)
        text = error_text(run(tmp_path, *session_options, path=str(path)))
        assert text.startswith(f"{path}/gdb is version 8.2.1; pytest-kgdb needs 12.0 or newer")
        assert "hint: install a newer gdb" in text

    def test_qemu_that_does_not_start(self, tmp_path: Path, session_options: list[str]) -> None:
        options = [*session_options, "--kgdb-qemu-arg=-device no-such-device"]
        ran = run(tmp_path, *options)
        text = ran.failure("test_it").text
        no_traceback_of_ours(ran.output)
        assert text.startswith("QEMU ended as it started: exit status 1\n")
        assert "'no-such-device' is not a valid device model name" in text
        assert "command: " in text
        assert "log: " in text

    @pytest.mark.parametrize("program", ["qemu-system-x86_64", "gdb"])
    def test_programs_that_end_at_once(
        self, tmp_path: Path, session_options: list[str], program: str
    ) -> None:
        """It tells its version, as the real one does, and cannot do more."""
        path = programs(tmp_path / "bin", program)
        real = shutil.which(program)
        (path / program).write_text(
            f'#!/bin/sh\ncase "$*" in *-version) exec {real} --version ;; esac\n'
            "echo 'this cannot be' >&2\nexit 3\n"
        )
        (path / program).chmod(0o755)
        ran = run(tmp_path, *session_options, path=str(path))
        text = ran.failure("test_it").text
        no_traceback_of_ours(ran.output)
        assert "exit status 3" in text
        assert "this cannot be" in text
        assert "log: " in text

    @pytest.mark.slow
    def test_a_qemu_without_seccomp(self, tmp_path: Path, session_options: list[str]) -> None:
        name = "qemu-system-x86_64"
        path = programs(tmp_path / "bin", name)
        (path / name).write_text(
            f'#!/bin/sh\ncase "$*" in *-sandbox*) '
            f'echo "{name}: -sandbox: -sandbox support is not enabled in this QEMU binary" >&2; '
            f'exit 1 ;; esac\nexec {shutil.which(name)} "$@"\n'
        )
        (path / name).chmod(0o755)
        ran = run(tmp_path, *session_options, path=str(path))
        text = ran.failure("test_it").text
        assert text.startswith("this QEMU cannot confine itself: it was built without seccomp\n")
        option = "--kgdb-qemu-arg=-sandbox off"
        assert '--kgdb-qemu-arg="-sandbox off"' in text
        ran = run(tmp_path, *session_options, option, path=str(path))
        assert ran.status == 0, ran.output

    def test_more_memory_than_there_is(self, tmp_path: Path, session_options: list[str]) -> None:
        text = error_text(run(tmp_path, *session_options, "--kgdb-memory=1000000000"))
        assert re.search(r"the guest wants 1000000000 MiB of memory; the host has \d+ MiB", text)
        assert "lower --kgdb-memory" in text

    def test_two_at_once(self, tmp_path: Path, session_options: list[str]) -> None:
        path = programs(tmp_path / "bin", "gdb", "qemu-system-x86_64")
        text = error_text(run(tmp_path, *session_options, path=str(path)))
        assert text.count("is needed, and is not installed") == 1

    def test_afterwards_all_is_well(self, tmp_path: Path, session_options: list[str]) -> None:
        ran = run(tmp_path, *session_options)
        assert ran.status == 0, ran.output


def test_the_guest_that_kvm_is_tried_with() -> None:
    """It ends in time where guests run, and is told from one that does not."""
    qemu = which("qemu-system-x86_64", package="qemu-system-x86")
    assert try_kvm(qemu, 30.0, accel="tcg") == ""
    assert "million instructions" in try_kvm(qemu, 0.0, accel="tcg")
    assert "invalid accelerator" in try_kvm(qemu, 30.0, accel="none")
