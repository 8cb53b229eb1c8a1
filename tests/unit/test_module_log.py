"""What an error about a module shows of the kernel's log."""

from __future__ import annotations

from pytest_kgdb.klog import Splat, SplatFrame
from pytest_kgdb.modules._modules import _shown

WARN = """\
faulty: loading
------------[ cut here ]------------
WARNING: CPU: 0 PID: 59 at /src/faulty.c:23 faulty_init+0x27/0x1000 [faulty]
Modules linked in: faulty(O+)
CPU: 0 PID: 59 Comm: insmod Tainted: G           O       6.1.192 #1
RIP: 0010:faulty_init+0x27/0x1000 [faulty]
Code: 0f 0b
RAX: 0000000000000000 RBX: 0000000000000000 RCX: 0000000000000000
Call Trace:
 <TASK>
 faulty_init+0x27/0x1000 [faulty]
 do_one_initcall+0x4b/0x180
 do_init_module+0x45/0x1b0
 __do_sys_finit_module+0x8d/0xc0
 do_syscall_64+0x2b/0x50
 entry_SYSCALL_64_after_hwframe+0x4b/0xb5
RIP: 0033:0x47fbe9
RSP: 002b:00007fffa227dda8 EFLAGS: 00000246 ORIG_RAX: 0000000000000139
RAX: ffffffffffffffda RBX: 000000002441c590 RCX: 000000000047fbe9
R13: ffffffffffffffff R14: 0000000000000000 R15: 000000002441c638
 </TASK>
---[ end trace 0000000000000000 ]---
faulty: giving up"""


def test_headlines_and_the_modules_frames() -> None:
    assert _shown(WARN.splitlines()) == [
        "faulty: loading",
        "WARNING: CPU: 0 PID: 59 at /src/faulty.c:23 faulty_init+0x27/0x1000 [faulty]",
        "RIP: 0010:faulty_init+0x27/0x1000 [faulty]",
        " faulty_init+0x27/0x1000 [faulty]",
        "faulty: giving up",
    ]


def test_few_lines_are_shown_whole() -> None:
    assert _shown(WARN.splitlines()[:5]) == WARN.splitlines()[:5]


def test_many_lines() -> None:
    shown = _shown([f"line {number}" for number in range(50)])
    assert shown[0] == "line 0"
    assert shown[10] == "… 30 lines left out …"
    assert shown[-1] == "line 49"


def test_frame_with_something_inlined() -> None:
    frame = SplatFrame("own", 1, 2, file="own.c", line=3, inlined=("inner.h:4", "outer.h:5"))
    assert frame.where == "inner.h:4, inlined at outer.h:5, inlined at own.c:3"
    assert SplatFrame("own", 1, 2).where == ""


def test_addresses_of_what_is_gone() -> None:
    text = "BUG: unable to handle page fault for address: ffffffffc0002010\nRDI: ffffffffc0002010"
    splat = Splat("oops", text.splitlines()[0], "", text)
    named = splat.with_addresses({"ffffffffc0002010": "timer+0x10 of module m, unloaded"})
    assert named.symbolised.splitlines() == [
        f"{line}  (timer+0x10 of module m, unloaded)" for line in text.splitlines()
    ]
    assert splat.with_addresses({}) is splat
