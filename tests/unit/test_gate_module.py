"""Two revisions of an out-of-tree driver."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from test_change import git

from pytest_kgdb.cache import Cache
from pytest_kgdb.change import stand_ins
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.gate import (
    from_module,
    same_code,
)
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import make_settings


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", progress=Silent())


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """A repository with the driver in a directory below, and two commits."""
    top = tmp_path / "project"
    driver = top / "driver"
    driver.mkdir(parents=True)
    git(tmp_path, "init", "-q", str(top))
    (top / "common.h").write_text("#define X 1\n")
    for text in ("old\n", "new\n"):
        (driver / "it.c").write_text(text)
        git(top, "add", ".")
        git(top, "commit", "-q", "-m", text.strip())
    return driver


def test_both_revisions(driver: Path, cache: Cache) -> None:
    settings = make_settings(kernel=["distro:6.1"])
    change = from_module(settings, f"{driver}@HEAD~..", cache)
    paths = [side.settings.module[-1] for side in change.sides]
    assert [(path / "it.c").read_text() for path in paths] == ["old\n", "new\n"]
    assert all((path.parent / "common.h").exists() for path in paths)
    assert change.files == ("driver/it.c",)
    assert not change.of_kernel
    commit = git(driver, "rev-parse", "HEAD")
    assert change.patched.label == f"driver@{commit[:12]} on distro:6.1"
    assert from_module(settings, f"{driver}@HEAD~..", cache) == change
    assert git(driver, "status", "--porcelain") == ""
    assert git(driver, "worktree", "list").count("\n") == 0


def test_a_path_in_the_drivers_directory(
    driver: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that names it means the revision, and not what has been edited since."""
    settings = make_settings(kernel=["distro:6.1"])
    change = from_module(settings, f"{driver}@HEAD~..", cache)
    (driver / "it.c").write_text("edited\n")
    (driver / "tests").mkdir()
    for side, text in zip(change.sides, ("old\n", "new\n"), strict=True):
        instead = stand_ins(side.settings.module)
        assert (instead(driver) / "it.c").read_text() == text
        assert instead(driver / "it.c").read_text() == text
        assert instead(driver / "it.ko").parent == instead(driver)
        monkeypatch.chdir(driver.parent)
        assert instead(Path("driver")) == instead(driver)
        assert instead(driver / "tests") == driver / "tests", "the revision has none"
        assert instead(driver.parent) == driver.parent
        assert instead(Path("/none/driver")) == Path("/none/driver")
    assert stand_ins([driver])(driver) == driver


def test_the_users_own_modules(driver: Path, cache: Cache, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    settings = replace(make_settings(kernel=["distro:6.1"]), module=(other, driver))
    change = from_module(settings, f"{driver}@HEAD~..HEAD", cache)
    assert change.base.settings.module[0] == other
    assert len(change.base.settings.module) == 2


def test_the_users_own_modules_in_the_drivers_directory(driver: Path, cache: Cache) -> None:
    """What was built there is the driver as it is now, beside which a revision would be twice."""
    (driver / "helper").mkdir()
    (driver / "helper/Makefile").write_text("obj-m := helper.o\n")
    git(driver, "add", ".")
    git(driver, "commit", "-q", "-m", "helper")
    (driver / "it.ko").write_text("built")
    settings = make_settings(kernel=["distro:6.1"])
    settings = replace(settings, module=(driver / "it.ko", driver / "helper"))
    change = from_module(settings, f"{driver}@HEAD~..HEAD", cache)
    base, patched = (side.settings.module for side in change.sides)
    assert base[0] == driver / "helper", "the revision has none"
    assert patched == (patched[1] / "helper", patched[1])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("{driver}", "is not DIR@A..B"),
        ("{driver}@HEAD", "is not DIR@A..B"),
        ("{driver}/none@HEAD~..HEAD", "there is no directory"),
        ("{cache}@HEAD~..HEAD", "is in no git repository"),
        ("{driver}@none..HEAD", "has no revision none"),
    ],
)
def test_what_cannot_be(driver: Path, cache: Cache, what: str, message: str) -> None:
    (cache.root / "x").mkdir(parents=True)
    text = what.format(driver=driver, cache=cache.root / "x")
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_module(make_settings(kernel=["distro:6.1"]), text, cache)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_code_that_is_the_same(tmp_path: Path) -> None:
    def compiled(digit: str, source: str) -> list[Path]:
        directory = tmp_path / f"revision-{digit * 16}" / "driver"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "it.c").write_text(source)
        argv = ["gcc", "-g", "-c", str(directory / "it.c"), "-o", str(directory / "it.ko")]
        subprocess.run(argv, check=True)
        return [directory / "it.ko"]

    source = (
        'const char *file = __FILE__;\nchar info[] = "srcversion=%s";\nint f(void) { return %d; }\n'
    )
    more = "static int more[9];\nint *g(void) { return more; }\n"
    first = compiled("a", source % ("12AB", 1))
    assert same_code(first, compiled("b", source % ("CDEF", 1) + "// a comment\n"))
    assert not same_code(first, compiled("b", source % ("12AB", 2)))
    assert not same_code(first, compiled("b", source % ("12AB", 1) + more))
    assert not same_code(first, [])
    assert same_code([], [])
