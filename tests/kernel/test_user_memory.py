"""The memory of the user program whose task stopped, in each way that the kernel's is read."""

from __future__ import annotations

import re

import pytest

from pytest_kgdb.errors import KgdbError, StaleError

PATH = "/proc/version"


@pytest.fixture(
    params=[
        pytest.param(False, id="one table"),
        pytest.param(True, id="pti", marks=pytest.mark.kgdb(append="pti=on", smp=2)),
    ]
)
def opening(request, kgdb):
    """A stop where the kernel is about to copy a path from a program."""
    kgdb.breakpoint("do_sys_openat2", temporary=True)
    kgdb.type(f"cat {PATH}")
    return kgdb.cont()


def writing(kgdb, text="hello"):
    """A stop where a program's text is about to be written to a file."""
    with kgdb.breakpoint("vfs_write", condition=f"count == {len(text) + 1}"):
        kgdb.type(f"echo {text} > /tmp/x")
        return kgdb.cont()


def test_reading(kgdb, opening):
    name = opening.frame.args["filename"]
    assert name.string() == PATH
    assert name == PATH
    assert name.string(5) == "/proc"
    assert name[1] == ord("p")
    assert name.dereference() == ord("/")
    assert repr(opening.frame.args).count(PATH) == 1
    assert kgdb.read(int(name), len(PATH)) == PATH.encode()
    assert kgdb.read_user(kgdb.current, int(name), len(PATH)) == PATH.encode()
    for command in ("x/s filename", "print filename", 'printf "%s\\n", filename', "info args"):
        assert PATH in kgdb.execute(command)
    assert kgdb.evaluate("*(long *)filename") == int.from_bytes(PATH[:8].encode(), "little")


def test_a_condition(kgdb):
    with kgdb.breakpoint("do_sys_openat2", condition=f'$_streq(filename, "{PATH}")') as opened:
        kgdb.type(f"cat /proc/uptime {PATH} /proc/stat")
        assert kgdb.cont().frame.args["filename"] == PATH
    assert opened.hits == 1
    with kgdb.breakpoint("vfs_write", condition="count == 3 && buf[0] == 'b'"):
        kgdb.type("echo aa; echo bb; echo cc")
        assert kgdb.cont().frame.args["buf"].string(2) == "bb"


@pytest.mark.kgdb(smp=2)
def test_a_spy(kgdb):
    with kgdb.spy("vfs_write", collect=["buf[0]", "*(short *)buf"]) as writes:
        kgdb.run("for n in 1 2 3 4 5; do (echo $n$n) > /dev/null; done")
    seen = [
        (call.args["buf"].string()[:2], call["buf[0]"], call["*(short *)buf"])
        for call in writes.calls
        if call.args["count"] == 3
    ]
    assert seen == [(f"{n}{n}", 0x30 + n, (0x30 + n) * 0x101) for n in range(1, 6)]


def test_an_override(kgdb):
    with kgdb.override("do_sys_openat2", "-ENOENT", when="filename[7] == 112") as opens:
        result = kgdb.run("head -c1 /proc/uptime; head -c5 /proc/version")
    assert opens.forced == 1
    assert "uptime: No such file" in result.output
    assert result.output.endswith("Linux")


def test_writing(kgdb):
    stop = writing(kgdb)
    kgdb.write(int(stop.frame.args["buf"]), b"HELLO")
    assert stop.frame.args["buf"].string(5) == "HELLO"
    assert kgdb.run("cat /tmp/x").output == "HELLO\n"
    writing(kgdb)
    kgdb.assign("*(char *)buf", ord("J"))
    kgdb.execute("set var ((char *)buf)[4] = '0'")
    assert kgdb.run("cat /tmp/x").output == "Jell0\n"


@pytest.mark.kgdb(append="pti=on")
def test_writing_over_the_end_of_a_page(kgdb):
    # The text is in the shell's heap, and so is what comes behind, or before.
    stop = writing(kgdb, "h" * 1000)
    start = int(stop.frame.args["buf"])
    end = (start | 0xFFF) + 1
    try:
        before = kgdb.read(end - 300, 600)
    except KgdbError:  # the heap ends with this page
        end -= 0x1000
        before = kgdb.read(end - 300, 600)
    kgdb.write(end - 300, bytes(range(200)) * 3)
    assert kgdb.read(end - 300, 600) == bytes(range(200)) * 3
    kgdb.write(end - 300, before)
    assert kgdb.run("cat /tmp/x").output == "h" * 1000 + "\n"


@pytest.mark.parametrize("address", [0, 0x44, 0x7FFF12345678, 1 << 47, 0x00FFFFFFFFFFFFFF])
def test_what_is_not_mapped(kgdb, opening, address):
    for use in (
        lambda: kgdb.read(address, 1),
        lambda: kgdb.write(address, b"x"),
        lambda: int(kgdb.evaluate(f"*(char *){address:#x}")),
        lambda: kgdb.evaluate(f"(char *){address:#x}").string(),
        lambda: kgdb.assign(f"*(char *){address:#x}", 1),
        lambda: kgdb.execute(f"x/xb {address:#x}"),
        lambda: kgdb.execute(f"set var *(long *){address:#x} = 1"),
    ):
        with pytest.raises(KgdbError, match=rf"{address:#x}.*mapped"):
            use()
    assert kgdb.run("echo alive").output == "alive\n"
    assert not kgdb.splats


def test_a_page_that_is_not_present(kgdb, opening):
    """The error says whose it is, and why it may not be there."""
    task = opening.task
    mapping = kgdb.evaluate("current->mm->start_stack") & ~0xFFF
    absent = int(mapping) - 100 * 4096
    with pytest.raises(
        KgdbError, match=rf"page tables of task {task.pid} \({task.comm}\)"
    ) as error:
        kgdb.read(absent, 4)
    assert "no page is present there" in str(error.value)
    with pytest.raises(KgdbError, match="no page is present there"):
        kgdb.evaluate(f"*(int *){absent}").string()


def test_a_page_that_is_read_only(kgdb, opening):
    """It may be another task's, too."""
    code = int(kgdb.evaluate("current->mm->start_code"))
    before = kgdb.read(code, 4)
    for use in (
        lambda: kgdb.write(code, b"xxxx"),
        lambda: kgdb.assign(f"*(int *){code:#x}", 0),
    ):
        with pytest.raises(KgdbError, match="mapped read-only"):
            use()
    assert kgdb.read(code, 4) == before
    assert kgdb.run("echo alive").output == "alive\n"


def test_a_kernel_thread_has_none(kgdb):
    with kgdb.breakpoint("process_one_work"):
        stop = kgdb.cont()
    assert not stop.task["mm"]
    with pytest.raises(KgdbError, match=r"task \d+ \(kworker.* has no user memory"):
        kgdb.read(0x400000, 4)
    with pytest.raises(KgdbError, match="has no user memory"):
        int(kgdb.evaluate("*(int *)0x400000"))


@pytest.mark.kgdb(stub="kgdb")
def test_another_thread_of_gdbs(kgdb, opening):
    """gdb's threads are tasks, of which kgdb knows no more than that they are there."""
    name = int(opening.frame.args["filename"])
    listed = kgdb.execute("info threads")
    assert PATH in kgdb.execute(f"x/s {name:#x}")
    (other,) = re.findall(r"^ +(\d+) +Thread 2 ", listed, re.M)
    kgdb.execute(f"thread {other}")
    with pytest.raises(KgdbError, match="gdb has selected another task"):
        kgdb.execute(f"x/xb {name:#x}")
    assert kgdb.read(name, 5) == b"/proc"


@pytest.mark.kgdb(smp=2)
def test_the_task_that_stopped_is_meant(kgdb):
    """Two programs, with the same addresses, and each stops in turn."""
    kgdb.run("for n in 1 2; do (while :; do echo $n$n$n > /dev/null; done) & done")
    seen = set()
    with kgdb.breakpoint("vfs_write", condition="count == 4"):
        for _ in range(12):
            stop = kgdb.cont()
            text = stop.frame.args["buf"].string(3)
            mine = kgdb.read_user(stop.task, int(stop.frame.args["buf"]), 3).decode()
            assert text == mine
            seen.add((stop.task.pid, text))
    assert len(seen) <= 2, "a task always writes the same"


def test_a_value_is_read_again_after_a_write_and_is_stale_later(kgdb):
    stop = writing(kgdb)
    first = stop.frame.args["buf"][0]
    assert first == ord("h")
    kgdb.write(int(first.address), b"H")
    assert first == ord("H")
    address = int(first.address)
    kgdb.resume()
    with pytest.raises(StaleError):
        kgdb.read(address, 1)
