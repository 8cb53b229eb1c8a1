"""What differs between architectures, as one frozen record each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .errors import ConfigError

__all__ = ["X86_64", "Arch", "RegisterTable", "from_elf_machine"]


@dataclass(frozen=True)
class RegisterTable:
    """The integer registers of a CPU, by the names of the kernel's `struct pt_regs`."""

    gdb: tuple[tuple[str, int], ...]
    """Name and size in bytes of each register, in the order of gdb's `g` packet, which is also
    that of its numbers in `P` packets and in agent expressions."""

    kgdb: int
    """How many of these kgdb sends, from the first one."""

    pt_regs: tuple[str, ...]
    """The members of `struct pt_regs` in their order, of eight bytes each."""

    instruction: tuple[str, ...]
    """The general registers by their numbers in instructions."""

    pc: str
    """The program counter."""

    sp: str
    """The stack pointer."""

    flags: str
    """The flags."""

    result: str
    """The register of an integer return value (psABI, "Returning of Values")."""


@dataclass(frozen=True)
class Arch:
    """One architecture under QEMU and kgdb."""

    name: str
    """As the kernel's `ARCH=` and `arch/` directory call it."""

    qemu: str
    """The QEMU system emulator's program."""

    machine: str
    """QEMU's `-machine` type."""

    image: str
    """The bootable image, relative to the build directory."""

    image_target: str
    """The make target that builds it."""

    console: str
    """The tty of the first serial port: console and shell."""

    kgdb: str
    """`kgdboc=` value: the second serial port, and its speed."""

    early_kgdb: str
    """`earlycon=` value of the same port, for `kgdboc_earlycon`."""

    elf_machine: str
    """`e_machine` of its vmlinux, by its name in elf.h."""

    result: str
    """gdb's name of the register of an integer return value (psABI, "Returning of Values")."""

    arguments: tuple[str, ...]
    """gdb's names of the registers of integer arguments (psABI, "Parameter Passing")."""

    registers: RegisterTable
    """The registers as the remote protocol and the kernel order them."""

    self_jump: bytes
    """A jump to itself, whatever is behind it (Intel SDM volume 2, `JMP rel8`)."""


# gdb: QEMU's description, gdb-xml/i386-64bit.xml, which begins as gdb's own does
# (gdb/features/i386/64bit-core.xml, up to gs) and goes on with the bases of the segments.
# kgdb: arch/x86/include/asm/kgdb.h, NUMREGBYTES: 17 registers of eight bytes and 5 of four.
# pt_regs: arch/x86/include/asm/ptrace.h.
# instruction: Intel SDM volume 2, "Instruction Format".
_X86_64_REGISTERS: Final = RegisterTable(
    gdb=(
        ("ax", 8), ("bx", 8), ("cx", 8), ("dx", 8), ("si", 8), ("di", 8), ("bp", 8), ("sp", 8),
        ("r8", 8), ("r9", 8), ("r10", 8), ("r11", 8), ("r12", 8), ("r13", 8), ("r14", 8),
        ("r15", 8), ("ip", 8), ("flags", 4), ("cs", 4), ("ss", 4), ("ds", 4), ("es", 4), ("fs", 4),
        ("gs", 4), ("fs_base", 8), ("gs_base", 8), ("k_gs_base", 8),
    ),
    kgdb=22,
    pt_regs=(
        "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si",
        "di", "orig_ax", "ip", "cs", "flags", "sp", "ss",
    ),
    instruction=(
        "ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15",
    ),
    pc="ip",
    sp="sp",
    flags="flags",
    result="ax",
)  # fmt: skip

X86_64: Final = Arch(
    name="x86",
    qemu="qemu-system-x86_64",
    machine="pc",
    image="arch/x86/boot/bzImage",
    image_target="bzImage",
    console="ttyS0",
    kgdb="ttyS1,115200",
    early_kgdb="uart8250,io,0x2f8,115200",
    elf_machine="EM_X86_64",
    result="$rax",
    arguments=("$rdi", "$rsi", "$rdx", "$rcx", "$r8", "$r9"),
    registers=_X86_64_REGISTERS,
    self_jump=b"\xeb\xfe",
)

_BY_ELF_MACHINE: Final = {arch.elf_machine: arch for arch in (X86_64,)}


def from_elf_machine(machine: str) -> Arch:
    """Return the record for the `e_machine` of a vmlinux.

    :raises ConfigError: the architecture is not supported.
    """
    try:
        return _BY_ELF_MACHINE[machine]
    except KeyError:
        supported = ", ".join(sorted(_BY_ELF_MACHINE))
        raise ConfigError(
            f"the kernel is built for {machine}; pytest-kgdb knows {supported}",
            hint="build it for x86_64 (ARCH=x86, CONFIG_64BIT=y)",
        ) from None
