"""The code that a guest's CPU executes at an int3 of ours: it takes note, and goes on.

kgdb stops the kernel at a breakpoint, for milliseconds, and cannot have one in what it uses itself.
This handler comes before the kernel's own: the gate of the interrupt descriptor table leads to it.
It uses nothing of the kernel's, so that an int3 may be in nearly all of the kernel's code, in
interrupt context and in kgdb too, and on any CPU. What is not ours goes to the kernel's handler.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["CODE_SIZE", "INT3", "SLOT_BYTES", "Slot", "hash_of", "trap_code"]

INT3: Final = 0xCC

SLOT_BYTES: Final = 8
_MULTIPLIER: Final = 0x9E3779B1
_ORIGINAL: Final = 0xC0  # where the code has the address of the kernel's handler
CODE_SIZE: Final = _ORIGINAL + 8

_CODE: Final = bytes.fromhex(
    "f30f1efa"  # endbr64
    "f644240803"  # testb $3, 8(%rsp)          from user mode?
    "0f85a4000000"  # jnz pass
    "50 51 52"  # push %rax, %rcx, %rdx
    "488b442418"  # mov 24(%rsp), %rax         behind the int3
    "48ffc8"  # dec %rax                       the address
    "4863c8"  # movslq %eax, %rcx              in the last 2 GiB, as image and modules are?
    "4839c1"  # cmp %rax, %rcx
    "0f858a000000"  # jne miss
    "69c8b179379e"  # imul $MULTIPLIER, %eax, %ecx
    "c1e9 00"  # shr $SHIFT, %ecx
    "48ba 0000000000000000"  # movabs $TABLE, %rdx
    # probe:
    "3904ca"  # cmp %eax, (%rdx,%rcx,8)
    "7410"  # je ours
    "833cca00"  # cmpl $0, (%rdx,%rcx,8)
    "746c"  # je miss
    "ffc1"  # inc %ecx
    "81e1 00000000"  # and $MASK, %ecx
    "ebeb"  # jmp probe
    # ours:
    "488d14ca"  # lea (%rdx,%rcx,8), %rdx
    "807a0600"  # cmpb $0, GIVEN(%rdx)
    "7554"  # jne given
    "8a4a04"  # mov INSTRUCTION(%rdx), %cl
    "807a0500"  # cmpb $0, HIT(%rdx)
    "7405"  # je first
    "8038cc"  # cmpb $0xcc, (%rax)             somebody else's int3?
    "744a"  # je miss
    # first: or another CPU was first
    "807a0700"  # cmpb $0, PROTECTED(%rdx)
    "751a"  # jne protected
    "807a0500"  # cmpb $0, HIT(%rdx)
    "7502"  # jne touch
    "8808"  # mov %cl, (%rax)
    # touch:
    "f0800800"  # lock orb $0, (%rax)          see below
    # written:
    "c6420501"  # movb $1, HIT(%rdx)
    "48ff4c2418"  # decq 24(%rsp)
    "5a 59 58"  # pop %rdx, %rcx, %rax
    "48cf"  # iretq
    # protected: without CR0.WP
    "52"  # push %rdx
    "0f20c2"  # mov %cr0, %rdx
    "52"  # push %rdx
    "81e2fffffeff"  # and $~0x10000, %edx
    "0f22c2"  # mov %rdx, %cr0
    "488b542408"  # mov 8(%rsp), %rdx
    "807a0500"  # cmpb $0, HIT(%rdx)
    "7502"  # jne protected_touch
    "8808"  # mov %cl, (%rax)
    # protected_touch:
    "f0800800"  # lock orb $0, (%rax)
    "5a"  # pop %rdx
    "0f22c2"  # mov %rdx, %cr0
    "5a"  # pop %rdx
    "ebcc"  # jmp written
    # given:
    "c6420501"  # movb $1, HIT(%rdx)
    # miss:
    "5a 59 58"  # pop %rdx, %rcx, %rax
    # pass:
    "ff2507000000"  # jmp *ORIGINAL(%rip)
    "0f1f8000000000"
)
# The write that changes nothing: QEMU (7.2, accel/tcg/translate-all.c, tb_gen_code) may translate
# code on one CPU while another one writes it, and then keeps the translation of the int3, which
# traps again and again on all CPUs. A write to the page has it dropped.
_SHIFT_AT: Final = 0x2E
_TABLE_AT: Final = 0x31
_MASK_AT: Final = 0x48


class Slot:
    """Offsets in a slot of the table: 8 bytes, of which the first 4 are the end of an address."""

    INSTRUCTION: Final = 4
    """The byte that the int3 stands for."""
    HIT: Final = 5
    """1 if the address was come to."""
    GIVEN: Final = 6
    """Not 0 while the debugger has a breakpoint there: the int3 is its own, or there is none."""
    PROTECTED: Final = 7
    """1 if the page is mapped read-only."""


def hash_of(address: int, bits: int) -> int:
    """Return the slot of a table of `1 << bits` at which the search for an address begins."""
    return ((address & 0xFFFFFFFF) * _MULTIPLIER & 0xFFFFFFFF) >> (32 - bits)


def trap_code(table: int, bits: int, original: int) -> bytes:
    """Return the handler.

    :param table: the virtual address of the table.
    :param bits: it has `1 << bits` slots.
    :param original: the virtual address of the kernel's handler.
    """
    code = bytearray(_CODE)
    code[_SHIFT_AT] = 32 - bits
    struct.pack_into("<Q", code, _TABLE_AT, table)
    struct.pack_into("<I", code, _MASK_AT, (1 << bits) - 1)
    return bytes(code) + struct.pack("<Q", original)
