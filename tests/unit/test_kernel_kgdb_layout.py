"""The layout of kgdb's variables, from a file that a compiler wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.cache import Cache
from pytest_kgdb.elf import ElfFile
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel import KgdbLayout
from pytest_kgdb.kernel._kgdb_layout import kgdb_layout
from pytest_kgdb.process import run
from pytest_kgdb.progress import Silent

# As in kernel/debug/debug_core.h, include/linux/sched.h, mm_types.h and serial_core.h, with other
# members around.
DEBUGGER = """
struct debuggerinfo_struct { void *debuggerinfo; long more; void *task; int exception_state; };
struct debuggerinfo_struct kgdb_info[4];
int kgdb_active = -1;
struct mm_struct { struct { long users; long *pgd; }; };
struct task_struct { long state; struct mm_struct *mm; int pid; char comm[16]; } init_task;
"""
SERIAL = """
struct uart_icount { unsigned cts, dsr, rng, dcd, rx, tx; };
struct console { char name[16]; unsigned long seq; };
struct uart_port { long lock; struct uart_icount icount; struct console *cons; };
struct uart_8250_port { struct uart_port port; long more; };
static struct uart_8250_port serial8250_ports[4] __attribute__((used));
"""


def compiled(path: Path, text: str, *options: str) -> Path:
    path.with_suffix(".c").write_text(text + "int _start(void) { return 0; }\n")
    argv = ["gcc", "-nostdlib", "-static", *options, "-o", path, path.with_suffix(".c")]
    run(argv, timeout=60)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vmlinux"


def test_a_kernel_with_kgdb(path: Path) -> None:
    layout = KgdbLayout.read(compiled(path, DEBUGGER + SERIAL, "-g"))
    elf = ElfFile(path)
    assert layout == KgdbLayout(
        kgdb_active=elf.need("kgdb_active"),
        kgdb_info=elf.need("kgdb_info"),
        info_size=32,
        debuggerinfo=0,
        task=16,
        task_mm=8,
        task_pid=16,
        task_comm=20,
        mm_pgd=8,
        console_rx=elf.need("serial8250_ports") + 8 + 16,
        console_driver=elf.need("serial8250_ports") + 8 + 24,
        console_seq=16,
    )
    assert KgdbLayout.load(layout.dump()) == layout


def test_another_console_driver(path: Path) -> None:
    layout = KgdbLayout.read(compiled(path, DEBUGGER, "-g"))
    assert layout is not None
    assert layout.console_rx is None


def test_a_kernel_without_kgdb(path: Path) -> None:
    assert KgdbLayout.read(compiled(path, SERIAL)) is None


def test_no_debug_information(path: Path) -> None:
    with pytest.raises(ConfigError, match="no usable debug information"):
        KgdbLayout.read(compiled(path, DEBUGGER))
    run(["strip", path], timeout=60)
    with pytest.raises(ConfigError, match="was it stripped"):
        KgdbLayout.read(path)


def test_it_is_read_once(path: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", progress=Silent())
    layout = kgdb_layout(compiled(path, DEBUGGER, "-g"), "key", cache)
    path.unlink()
    assert kgdb_layout(path, "key", cache) == layout
    assert kgdb_layout(compiled(path, SERIAL), "another", cache) is None
    path.unlink()
    assert kgdb_layout(path, "another", cache) is None
