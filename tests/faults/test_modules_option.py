"""--kgdb-module: modules that are in the guest from the beginning, and those that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from inner_run import InnerRun, Outcome, no_traceback_of_ours

from pytest_kgdb.cache import Cache
from pytest_kgdb.kernel import Kernel, build_module
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import from_pytest

MODULES = Path(__file__).parents[1] / "kernel" / "modules"
DEMO = MODULES / "demo"

TESTS = rf"""
import pytest


def test_the_guest_has_it(kgdb):
    path = f"/lib/modules/{{kgdb.kernel.release}}/extra/demo.ko"
    assert kgdb.run(f"ls {{path}}").status == 0
    kgdb.modules.load(path, answer=4)
    assert kgdb.evaluate("demo_total") == 12
    kgdb.modules.unload("demo")
    kgdb.modules.load("demo", answer=5)
    assert kgdb.evaluate("demo_total") == 13
    assert kgdb.run("ls /run").output.count(".ko") == 0


def test_a_breakpoint_waits_for_it(kgdb):
    prepare = kgdb.breakpoint("demo_prepare")
    kgdb.type("modprobe demo answer=7")
    stop = kgdb.cont()
    assert stop.breakpoint is prepare
    assert stop.frame.file == {str(DEMO / "main.c")!r}
    assert stop.frame.args["amount"] == 7
    assert kgdb.program["answer"].value_() == 7


@pytest.mark.kgdb(at="kgdbwait")
def test_from_early_boot_on(kgdb):
    assert not list(kgdb.modules)
    prepare = kgdb.breakpoint("demo_prepare")
    kgdb.resume()
    kgdb.console.expect_exact("pytest-kgdb: ready")
    kgdb.type("modprobe demo")
    assert kgdb.wait().breakpoint is prepare


def test_symbols_of_what_the_guest_loads(kgdb):
    kgdb.run("modprobe demo; modprobe user-two")
    assert kgdb.evaluate("demo_total") == 9
    assert kgdb.evaluate("user_two_sum") == 1111
    assert kgdb.breakpoint("demo_add").address
"""

NOTHING = "def test_it(kgdb):\n    pass\n"


def test_they_are_in_the_guest(tmp_path: Path, session_options: list[str]) -> None:
    options = [*session_options, f"--kgdb-module={DEMO}", f"--kgdb-module={MODULES / 'users'}"]
    ran = InnerRun(tmp_path, TESTS, options).end()
    assert ran.status == 0, ran.output
    assert len(ran.reports) == 4


LISTING = r"""
from pathlib import Path
import pytest

FILES = "find . -type f -exec md5sum {} + && stat -c '%n %a %u %g' $(find .)"


def listing(kgdb, name):
    lines = kgdb.run(f"cd /lib/modules && {FILES}").output.splitlines(True)
    Path(__file__).with_name(name).write_text("".join(sorted(lines)))


def test_put_in(kgdb):
    listing(kgdb, "put in")
    assert kgdb.breakpoint("vfs_read").number == 1


def test_put_in_once(kgdb):
    kgdb.run("rm -r /lib/modules")


def test_pristine(kgdb):
    listing(kgdb, "pristine")


@pytest.mark.kgdb(isolation="reboot")
def test_booted(kgdb):
    listing(kgdb, "booted")
"""


def test_they_are_as_if_it_had_booted_with_them(tmp_path: Path, session_options: list[str]) -> None:
    ran = InnerRun(tmp_path, LISTING, [*session_options, f"--kgdb-module={DEMO}"]).end()
    assert ran.status == 0, ran.output
    put_in, pristine, booted = (
        (tmp_path / name).read_text() for name in ("put in", "pristine", "booted")
    )
    assert "extra/demo.ko" in booted
    assert put_in == pristine == booted


ANSWER = """
def test_it(kgdb):
    kgdb.modules.load("edited")
    assert kgdb.evaluate("edited_answer") == {answer}
"""


@pytest.mark.slow
def test_one_that_is_edited_costs_no_boot(
    tmp_path: Path, session_options: list[str], kgdb_kernel: Kernel, pytestconfig: pytest.Config
) -> None:
    snapshots = from_pytest(pytestconfig).cache_dir / "v1/snapshot"
    memory = 261  # another worker makes snapshots meanwhile, of other sizes
    source = tmp_path / "edited"
    source.mkdir()
    (source / "Makefile").write_text("obj-m := edited.o\n")
    left = []
    for answer in (42, 43):
        (source / "edited.c").write_text(
            f'#include <linux/module.h>\nint edited_answer = {answer};\nMODULE_LICENSE("GPL");\n'
        )
        test = ANSWER.format(answer=answer)
        run = tmp_path / str(answer)
        options = [f"--kgdb-module={source}", f"--kgdb-memory={memory}"]
        ran = InnerRun(run, test, [*session_options, *options]).end()
        assert ran.status == 0, ran.output
        manifests = [json.loads(path.read_text()) for path in snapshots.glob("*/manifest.json")]
        left.append([one["key"] for one in manifests if one["about"]["memory"] == memory])
    assert left[0] == left[1]
    assert len(left[0]) == 1


WITHOUT = """
import pytest_kgdb.session._vm as vm
from pytest_kgdb.errors import KgdbError


def refuse(*_):
    raise KgdbError("the guest has no cpio\\nand so on")


vm.unpack = refuse


def test_it(kgdb):
    kgdb.modules.load("demo")
"""


def test_where_they_cannot_be_put_in(tmp_path: Path, session_options: list[str]) -> None:
    ran = InnerRun(tmp_path, WITHOUT, [*session_options, f"--kgdb-module={DEMO}"]).end()
    assert ran.status == 0, ran.output
    assert (
        "the modules could not be put into the guest (the guest has no cpio); "
        "booting one that has them" in ran.output
    )


def refused(tmp_path: Path, options: list[str], module: Path) -> Outcome:
    ran = InnerRun(tmp_path / "run", NOTHING, [*options, f"--kgdb-module={module}"]).end()
    assert ran.status == 1, ran.output
    no_traceback_of_ours(ran.failure("test_it").text)
    assert "QEMU" not in ran.output, "it was booted all the same"
    return ran


def test_for_another_kernel(
    tmp_path: Path, session_options: list[str], kgdb_kernel: Kernel, pytestconfig: pytest.Config
) -> None:
    cache = Cache(from_pytest(pytestconfig).cache_dir, progress=Silent())
    (built,) = build_module(kgdb_kernel, DEMO, cache, Silent())
    release = kgdb_kernel.release.encode()
    other = tmp_path / "demo.ko"
    other.write_bytes(built.read_bytes().replace(b"=" + release, b"=9" + release[1:]))
    text = refused(tmp_path, session_options, other).failure("test_it").text
    assert f"{other} was built for 9" in text
    assert f"this one is {kgdb_kernel.release}" in text


def test_that_does_not_compile(tmp_path: Path, session_options: list[str]) -> None:
    source = tmp_path / "broken"
    source.mkdir()
    (source / "Makefile").write_text("obj-m := broken.o\n")
    (source / "broken.c").write_text('#include "nonesuch.h"\n')
    text = refused(tmp_path, session_options, source).failure("test_it").text
    assert f"{source}/broken.c:1:10: fatal error: nonesuch.h: No such file" in text


def test_that_is_no_source(tmp_path: Path, session_options: list[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    text = refused(tmp_path, session_options, empty).failure("test_it").text
    assert f"{empty} is not the source of a module" in text
