"""What is read at a stop, and where, from a file that a compiler wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_kgdb.cache import Cache
from pytest_kgdb.elf import ElfFile
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel import KgdbLayout, PatchedSites, SiteTable, StopLayout
from pytest_kgdb.kernel._stop_layout import stop_layout
from pytest_kgdb.process import run
from pytest_kgdb.progress import Silent

# As in kernel/debug/debug_core.h, include/linux/sched.h, mm_types.h and serial_core.h, with other
# members around.
DEBUGGER = """
struct debuggerinfo_struct { void *debuggerinfo; long more; void *task; int exception_state; };
struct debuggerinfo_struct kgdb_info[4];
int kgdb_active = -1;
"""
TASKS = """
struct mm_struct { struct { long users; long *pgd; }; };
struct task_struct { long state; struct mm_struct *mm; int pid; char comm[16]; } init_task;
struct task_struct *current_task;
"""
SERIAL = """
struct uart_icount { unsigned cts, dsr, rng, dcd, rx, tx; };
struct console { char name[16]; unsigned long seq; };
struct list_head { struct list_head *next, *prev; };
struct wait_queue_head { int lock; struct list_head head; };
struct tty_struct { int magic; struct wait_queue_head write_wait, read_wait; };
struct tty_port { long more; unsigned long iflags; struct tty_struct *tty; };
struct uart_state { struct tty_port port; };
struct uart_port {
  long lock; struct uart_state *state; struct uart_icount icount; struct console *cons;
};
struct uart_8250_port { struct uart_port port; long more; };
static struct uart_8250_port serial8250_ports[4] __attribute__((used));
"""


def compiled(path: Path, text: str, *options: str) -> Path:
    path.with_suffix(".c").write_text(text + "int _start(void) { return 0; }\n")
    source = path.with_suffix(".c")
    argv: list[str | Path] = ["gcc", "-nostdlib", "-static", *options, "-o", path, source]
    run(argv, timeout=60)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vmlinux"


def test_a_kernel_with_kgdb(path: Path) -> None:
    layout = StopLayout.read(compiled(path, DEBUGGER + TASKS + SERIAL, "-g"))
    elf = ElfFile(path)
    assert layout == StopLayout(
        current_task=elf.need("current_task"),
        task_mm=8,
        task_pid=16,
        task_comm=20,
        mm_pgd=8,
        console_rx=elf.need("serial8250_ports") + 16 + 16,
        console_state=elf.need("serial8250_ports") + 8,
        state_iflags=8,
        state_tty=16,
        tty_readers=40,
        console_driver=elf.need("serial8250_ports") + 16 + 24,
        console_seq=16,
        kgdb=KgdbLayout(
            kgdb_active=elf.need("kgdb_active"),
            kgdb_info=elf.need("kgdb_info"),
            info_size=32,
            debuggerinfo=0,
            task=16,
        ),
    )
    assert StopLayout.load(layout.dump()) == layout


def test_code_that_is_executed_no_more(path: Path) -> None:
    code = """
    asm(".globl startup_64; startup_64: .skip 94, 0x90; .skip 2, 0x90\\n"
        ".globl secondary_startup_64; secondary_startup_64: ret\\n"
        ".set _stext, startup_64; .set _etext, secondary_startup_64 + 1\\n"
        ".globl _stext; .globl _etext");
    """
    layout = StopLayout.read(compiled(path, DEBUGGER + TASKS + code, "-g"))
    assert layout is not None
    assert layout.kgdb is not None
    start = ElfFile(path).need("startup_64")
    assert layout.kgdb.unused_code == range(start, start + 96)


PATCHED = """
struct jump_entry { int code, target; long key; };
struct static_call_site { int addr, key; };
struct list { struct list *next, *prev; } modules;
struct module { int state; struct list list; struct jump_entry *jump_entries;
  unsigned num_jump_entries; int num_static_call_sites; struct static_call_site *static_call_sites;
} this_module;
struct jump_entry entries[3];
struct static_call_site sites[2];
asm(".globl _stext; _stext: nop; .globl _etext; _etext: nop\\n"
    ".set __start___jump_table, entries; .set __stop___jump_table, entries + 48\\n"
    ".globl __start___jump_table; .globl __stop___jump_table\\n"
    ".set __start_static_call_sites, sites; .set __stop_static_call_sites, sites + 16\\n"
    ".globl __start_static_call_sites; .globl __stop_static_call_sites");
"""


def test_code_that_the_kernel_patches(path: Path) -> None:
    layout = StopLayout.read(compiled(path, DEBUGGER + TASKS + PATCHED, "-g"))
    assert layout is not None
    elf = ElfFile(path)
    entries, sites = elf.need("entries"), elf.need("sites")
    assert layout.patched == PatchedSites(
        text=elf.need("_stext"),
        text_end=elf.need("_etext"),
        tables=(
            SiteTable(entries, entries + 48, stride=16, module_start=24, module_count=32),
            SiteTable(sites, sites + 16, stride=8, module_start=40, module_count=36),
        ),
        modules=elf.need("modules"),
        module_list=8,
    )
    assert StopLayout.load(json.loads(json.dumps(layout.dump()))) == layout


def test_code_that_is_patched_whose_tables_have_no_type(path: Path) -> None:
    """Such a kernel is taken all the same, by the tables that are known."""
    text = (
        PATCHED.replace("struct static_call_site { int addr, key; };", "")
        .replace("struct static_call_site *static_call_sites", "void *static_call_sites")
        .replace("struct static_call_site sites[2]", "long sites[2]")
    )
    layout = StopLayout.read(compiled(path, DEBUGGER + TASKS + text, "-g"))
    assert layout is not None
    assert layout.patched is not None
    assert [table.stride for table in layout.patched.tables] == [16]


def test_code_that_is_patched_by_absolute_addresses(path: Path) -> None:
    """As of older kernels: those tables are not read."""
    text = PATCHED.replace("int code, target; long key", "long code, target, key")
    layout = StopLayout.read(compiled(path, DEBUGGER + TASKS + text, "-g"))
    assert layout is not None
    assert layout.patched is not None
    assert [table.stride for table in layout.patched.tables] == [8]


def test_code_that_is_freed_is_not_used(path: Path) -> None:
    code = """
    asm(".globl startup_64; startup_64: .skip 96, 0x90\\n"
        ".globl secondary_startup_64; secondary_startup_64: ret\\n"
        ".globl _stext; _stext: nop; .globl _etext; _etext: nop");
    """
    layout = StopLayout.read(compiled(path, DEBUGGER + TASKS + code, "-g"))
    assert layout is not None
    assert layout.kgdb is not None
    assert not layout.kgdb.unused_code


def test_another_console_driver(path: Path) -> None:
    layout = StopLayout.read(compiled(path, DEBUGGER + TASKS, "-g"))
    assert layout is not None
    assert layout.console_rx is None


def test_a_kernel_without_kgdb(path: Path) -> None:
    layout = StopLayout.read(compiled(path, TASKS, "-g"))
    assert layout is not None
    assert layout.kgdb is None
    assert StopLayout.load(layout.dump()) == layout


def test_the_current_task_among_other_hot_variables(path: Path) -> None:
    """From 6.2 to 6.14."""
    text = TASKS.replace("struct task_struct *current_task;\n", "")
    hot = "struct pcpu_hot { long more; struct task_struct *current_task; } pcpu_hot;\n"
    layout = StopLayout.read(compiled(path, text + hot, "-g"))
    assert layout is not None
    assert layout.current_task == ElfFile(path).need("pcpu_hot") + 8


def test_no_kernel(path: Path) -> None:
    assert StopLayout.read(compiled(path, SERIAL)) is None


def test_no_debug_information(path: Path) -> None:
    with pytest.raises(ConfigError, match="no usable debug information"):
        StopLayout.read(compiled(path, DEBUGGER + TASKS))
    run(["strip", path], timeout=60)
    with pytest.raises(ConfigError, match="was it stripped"):
        StopLayout.read(path)


def test_it_is_read_once(path: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", progress=Silent())
    layout = stop_layout(compiled(path, DEBUGGER + TASKS, "-g"), "key", cache)
    path.unlink()
    assert stop_layout(path, "key", cache) == layout
    assert stop_layout(compiled(path, SERIAL), "another", cache) is None
    path.unlink()
    assert stop_layout(path, "another", cache) is None


@pytest.mark.parametrize(
    ("code", "offset"), [("eb fe eb fe 90", 2), ("48 b8 eb fe 00 00", 2), ("90", None)]
)
def test_a_jump_to_itself(path: Path, code: str, offset: int | None) -> None:
    digits = ", ".join(f"0x{byte}" for byte in code.split())
    text = f'asm(".text; .globl here; here: .byte {digits}");'
    layout = StopLayout.read(compiled(path, TASKS + text, "-g", "-fno-toplevel-reorder"))
    assert layout is not None
    here = ElfFile(path).need("here")
    assert layout.self_jump == (here + offset if offset is not None else 0)
