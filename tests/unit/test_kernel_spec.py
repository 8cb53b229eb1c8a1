"""What a SPEC names, and what is said where it names nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.arch import X86_64
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel import _spec
from pytest_kgdb.kernel._spec import BuildDir, Revision, SourceTree, Tarball, parse, version

MAKEFILE = """\
# SPDX-License-Identifier: GPL-2.0
VERSION = 6
PATCHLEVEL = 1
SUBLEVEL = 192
EXTRAVERSION =
NAME = Curry Ramen
"""


def source(path: Path, extra: str = "") -> Path:
    path.mkdir(parents=True)
    (path / "Makefile").write_text(MAKEFILE.replace("EXTRAVERSION =", f"EXTRAVERSION ={extra}"))
    for name in ("Kconfig", "Kbuild"):
        (path / name).touch()
    return path


def built(path: Path) -> Path:
    (path / X86_64.image).parent.mkdir(parents=True)
    for name in ("vmlinux", ".config", X86_64.image):
        (path / name).touch()
    return path


def test_source_tree(tmp_path: Path) -> None:
    tree = source(tmp_path / "linux")
    assert parse(str(tree), X86_64) == SourceTree(tree, dirty=False, built=False)


@pytest.mark.parametrize("name", [".config", "include/config/", "arch/x86/include/generated/"])
def test_tree_that_kbuild_would_call_not_clean(tmp_path: Path, name: str) -> None:
    tree = source(tmp_path / "linux")
    if name.endswith("/"):
        (tree / name).mkdir(parents=True)
    else:
        (tree / name).touch()
    assert parse(str(tree), X86_64) == SourceTree(tree, dirty=True, built=False)


def test_tree_built_in_place(tmp_path: Path) -> None:
    tree = built(source(tmp_path / "linux"))
    assert parse(str(tree), X86_64) == SourceTree(tree, dirty=True, built=True)


def test_build_directory(tmp_path: Path) -> None:
    path = built(tmp_path / "build")
    assert parse(str(path), X86_64) == BuildDir(path)


@pytest.mark.parametrize("name", ["linux-6.1.tar.xz", "linux.tgz", "v6.1.tar", "l.tar.zst"])
def test_tarball(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.touch()
    assert parse(str(path), X86_64) == Tarball(path)


@pytest.mark.parametrize("revision", ["v6.1", "HEAD~3", "fix/a@b", "HEAD@{1}"])
def test_revision(tmp_path: Path, revision: str) -> None:
    tree = source(tmp_path / "linux")
    assert parse(f"{tree}@{revision}", X86_64) == Revision(tree, revision)


def test_at_sign_in_the_path_itself(tmp_path: Path) -> None:
    tree = source(tmp_path / "user@host")
    assert parse(str(tree), X86_64) == SourceTree(tree, dirty=False, built=False)
    assert parse(f"{tree}@v6.1", X86_64) == Revision(tree, "v6.1")


def test_version(tmp_path: Path) -> None:
    assert version(source(tmp_path / "a")) == "6.1.192"
    assert version(source(tmp_path / "b", " -rc1")) == "6.1.192-rc1"
    assert version(tmp_path) == ""


class TestDistro:
    @pytest.fixture(autouse=True)
    def sources(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(_spec, "DISTRO_SOURCES", tmp_path)
        return tmp_path

    def test_takes_the_version(self, sources: Path) -> None:
        for name in ("linux-source-6.1.tar.xz", "linux-source-6.12.tar.xz"):
            (sources / name).touch()
        spec = parse("distro:6.1", X86_64)
        assert spec == Tarball(sources / "linux-source-6.1.tar.xz")

    def test_takes_the_newest_by_number(self, sources: Path) -> None:
        for name in ("linux-source-6.9.tar.xz", "linux-source-6.12.tar.xz", "linux-source-x.tar"):
            (sources / name).touch()
        assert parse("distro", X86_64) == Tarball(sources / "linux-source-6.12.tar.xz")

    def test_absent_names_the_package(self, sources: Path) -> None:
        with pytest.raises(ConfigError, match=r"apt install linux-source-6\.1$"):
            parse("distro:6.1", X86_64)
        with pytest.raises(ConfigError, match=r"apt install linux-source$"):
            parse("distro", X86_64)

    def test_absent_tells_what_there_is(self, sources: Path) -> None:
        (sources / "linux-source-6.12.tar.xz").touch()
        with pytest.raises(ConfigError, match=r"there is 6\.12"):
            parse("distro:6.1", X86_64)

    def test_not_a_version(self) -> None:
        with pytest.raises(ConfigError, match="is not a version"):
            parse("distro:bookworm", X86_64)


class TestRefused:
    def test_nothing_there(self, tmp_path: Path) -> None:
        source(tmp_path / "linux-6.1")
        with pytest.raises(ConfigError, match=r"no such file(?s:.*)did you mean .*linux-6\.1\?"):
            parse(str(tmp_path / "linux-6.2"), X86_64)

    def test_nothing_there_by_far(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=f"there is no src in {tmp_path}"):
            parse(str(tmp_path / "src/kernel/linux"), X86_64)

    def test_revision_of_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such file"):
            parse(f"{tmp_path}/linux@v6.1", X86_64)

    def test_no_kernel_tree(self, tmp_path: Path) -> None:
        (tmp_path / "Makefile").write_text("all:\n")
        with pytest.raises(ConfigError, match="is not a kernel"):
            parse(str(tmp_path), X86_64)

    def test_kernel_one_level_below(self, tmp_path: Path) -> None:
        source(tmp_path / "linux")
        with pytest.raises(ConfigError, match="it contains linux: name that"):
            parse(str(tmp_path), X86_64)

    def test_unfinished_build(self, tmp_path: Path) -> None:
        (tmp_path / ".config").touch()
        with pytest.raises(ConfigError, match=r"has no vmlinux and no arch/x86/boot/bzImage"):
            parse(str(tmp_path), X86_64)

    def test_vmlinux_itself(self, tmp_path: Path) -> None:
        (tmp_path / "vmlinux").touch()
        with pytest.raises(ConfigError, match=f"name the build directory: {tmp_path}"):
            parse(str(tmp_path / "vmlinux"), X86_64)
