"""A copy of a module's directory sees what is around the original, and writes nothing there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_kgdb.kernel._module_inputs import dependencies
from pytest_kgdb.kernel._surroundings import Surroundings


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    driver = tmp_path / "user/project/driver"
    (tmp_path / "user/project/common/deep").mkdir(parents=True)
    driver.mkdir()
    (driver.parent / "common/shared.h").write_text("shared\n")
    (driver.parent / "common/deep/part.c").write_text("part\n")
    (driver.parent / "common/part.o").write_text("an object of the user's\n")
    return driver


@pytest.fixture
def around(tmp_path: Path, driver: Path) -> Surroundings:
    surroundings = Surroundings(tmp_path / "cache/tree", driver, tmp_path / "cache")
    surroundings.sync()
    return surroundings


def test_relative_paths_lead_to_the_users_files(around: Surroundings, driver: Path) -> None:
    assert (around.root / "../common/shared.h").read_text() == "shared\n"
    assert os.path.realpath(around.root / "../common") == str(driver.parent / "common")
    assert list(around.root.iterdir()) == []
    assert around.in_original(f"{around.root}/a.c:1: and {around.root}/../common/shared.h") == (
        f"{driver}/a.c:1: and {driver}/../common/shared.h"
    )


def test_links_follow_what_is_there(around: Surroundings, driver: Path) -> None:
    (driver.parent / "later").mkdir()
    (driver.parent / "common").rename(driver.parent / "other")
    around.sync()
    assert {path.name for path in around.root.parent.iterdir()} == {"driver", "later", "other"}


def test_what_is_built_elsewhere_is_not_beside_the_users_file(
    around: Surroundings, driver: Path
) -> None:
    common = around.root.parent / "common"
    around.sync([driver.parent / "common/deep"])
    assert not common.is_symlink()
    (common / "deep/part.o").write_text("an object of ours\n")
    assert (common / "deep/part.c").read_text() == "part\n"
    assert not (common / "part.o").exists(), "an object that make would take for new"
    (driver.parent / "common/shared.h").unlink()
    around.sync()
    assert (common / "deep/part.o").exists(), "it would be compiled again"
    assert not (common / "shared.h").is_symlink()
    assert [path.name for path in driver.parent.rglob("*.o")] == ["part.o"]


@pytest.mark.parametrize("linked", [False, True])
def test_a_cache_beside_the_driver(driver: Path, *, linked: bool) -> None:
    """What is around the driver has the copy in it."""
    state = driver.parent / "state"
    (state / "deep").mkdir(parents=True)
    (state / "deep/part.c").write_text("part\n")
    (state / "cache").mkdir()
    cache = state / "cache"
    if linked:
        cache = driver.parent / "cache"
        cache.symlink_to(state / "cache")
    around = Surroundings(cache / "one/tree", driver, cache)
    other = Surroundings(cache / "other/tree", driver, cache)
    for _ in range(2):
        for one in (around, other):
            one.sync([state / "deep"])
            assert (one.root / "../state/deep/part.c").read_text() == "part\n"
            assert not (one.root / "../state/cache").exists()


def test_a_driver_in_the_cache(tmp_path: Path) -> None:
    """As a revision's is: the copies are around it."""
    work = tmp_path / "cache/work"
    (work / "revision/driver/common").mkdir(parents=True)
    (work / "revision/driver/common/part.c").write_text("part\n")
    ours = work / "module"
    copies = [
        Surroundings(ours / name / "tree", work / "revision/driver", ours) for name in ("a", "b")
    ]
    for _ in range(2):
        for one in copies:
            one.sync([one.root, one.root / "common"])
            assert not list(one.top.rglob("module"))


def test_copies_of_copies_are_removed(tmp_path: Path) -> None:
    """Earlier versions made them."""
    driver, ours = tmp_path / "work/revision/driver", tmp_path / "work/module"
    driver.mkdir(parents=True)
    around = Surroundings(ours / "a/tree", driver, ours)
    around.sync()
    stale = around.root.parents[1] / "module"
    (stale / "b/tree/module/b/tree").mkdir(parents=True)
    around.sync()
    assert not stale.exists()


def test_names_that_kbuild_refuses(tmp_path: Path) -> None:
    driver = tmp_path / "my project: new/driver"
    driver.mkdir(parents=True)
    (driver.parent / "shared.h").write_text("shared\n")
    around = Surroundings(tmp_path / "ours/tree", driver, tmp_path / "ours")
    around.sync()
    assert not set(" :") & set(str(around.root.relative_to(tmp_path)))
    assert (around.root / "../shared.h").read_text() == "shared\n"
    assert around.in_original(f"{around.root}/a.c") == f"{driver}/a.c"


def test_dependencies_of_objects(tmp_path: Path) -> None:
    headers, root = tmp_path / "headers", tmp_path / "tree/m"
    for path in (headers / "include/linux.h", root / "m.c", tmp_path / "shared.h", root / "own.h"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (root / ".m.o.cmd").write_text(
        f"cmd_{root}/m.o := gcc -c {root}/m.c\n\nsource_{root}/m.o := {root}/m.c\n\n"
        f"deps_{root}/m.o := \\\n    $(wildcard include/config/X) \\\n  include/linux.h \\\n"
        f"  {root}/../../shared.h \\\n  own.h \\\n\n{root}/m.o: $(deps_{root}/m.o)\n"
    )
    assert dependencies(tmp_path / "tree", root, headers) == {
        headers / "include/linux.h",
        root / "m.c",
        root / "own.h",
        tmp_path / "shared.h",
    }
