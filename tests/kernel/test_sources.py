"""Source lines: of what was compiled, whatever the files on the host have become since."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pytest_kgdb import KgdbError
from pytest_kgdb.kernel import Kernel

DEMO = Path(__file__).parent / "modules/demo"


def test_a_frame_and_gdb_show_the_same_lines(kgdb, kgdb_kernel: Kernel) -> None:
    kgdb.breakpoint("vfs_read")
    kgdb.type("cat /proc/version")
    frame = kgdb.cont().frame
    lines = kgdb_kernel.sources.read(frame.file).decode().splitlines()
    shown = text_of(frame.source(context=2))
    assert shown == [line.rstrip() for line in lines[frame.line - 3 : frame.line + 2]]
    listed = kgdb.execute(f"list {frame.line - 2},{frame.line + 2}").splitlines()
    assert [line.partition("\t")[2].rstrip() for line in listed] == shown


def test_lines_that_gdb_can_read_after_the_stop_only(
    kgdb, kgdb_kernel: Kernel, tmp_path: Path
) -> None:
    """As of a source that is unpacked, or downloaded, when its lines are first asked for."""
    kgdb.execute(f'set substitute-path "{kgdb_kernel.debug_source}" "{tmp_path}"')
    kgdb.breakpoint("vfs_read")
    kgdb.type("cat /proc/version")
    frame = kgdb.cont().frame
    later = tmp_path / frame.file
    assert not later.exists()
    later.parent.mkdir(parents=True)
    later.write_bytes(kgdb_kernel.sources.read(frame.file))
    assert f"{frame.line}\t" in kgdb.execute("list")


def test_other_files(kgdb_kernel: Kernel) -> None:
    assert b"list_add" in kgdb_kernel.sources.read("include/linux/list.h")
    with pytest.raises(KgdbError, match=r"no/such\.c is not available"):
        kgdb_kernel.sources.read("no/such.c")


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """The demo module, at a place where it may be edited."""
    return Path(shutil.copytree(DEMO, tmp_path / "demo"))


def test_a_driver_that_is_edited_while_it_runs(kgdb, driver: Path) -> None:
    demo = kgdb.modules.load_stopped(driver)
    kgdb.breakpoint("demo_prepare")
    frame = kgdb.cont().frame
    before = frame.source(context=2)
    listed = kgdb.execute(f"list {frame.line},{frame.line}")
    assert f"{frame.line}\t" in listed
    main = driver / "main.c"
    main.write_text("/* one line more */\n" + main.read_text())
    assert frame.source(context=2) == before
    assert kgdb.execute(f"list {frame.line},{frame.line}") == listed
    assert kgdb.run("true").status == 0
    demo.unload()
    # And as it is built now.
    kgdb.modules.load_stopped(driver)
    again = kgdb.cont().frame
    assert again.line == line_of(before) + 1
    assert text_of(again.source(context=2)) == text_of(before)
    shown = kgdb.execute(f"list {again.line},{again.line}")
    assert shown.partition("\t")[2] == listed.partition("\t")[2]


def line_of(text: str) -> int:
    match = re.search(r"^> *(\d+)  ", text, re.M)
    assert match is not None
    return int(match[1])


def text_of(text: str) -> list[str]:
    return [line[9:] for line in text.splitlines()]
