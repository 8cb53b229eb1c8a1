"""What differs between architectures, as one frozen record each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .errors import ConfigError


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

    elf_machine: str
    """`e_machine` of its vmlinux, as pyelftools names it."""

    breakpoint_insn: bytes
    """The instruction that a compiled-in breakpoint leaves in the text."""

    pc: str
    """gdb's name of the program counter."""

    sp: str
    """gdb's name of the stack pointer."""

    result: str
    """The register of an integer return value (psABI, "Returning of Values")."""

    arguments: tuple[str, ...]
    """The registers of integer arguments (psABI, "Parameter Passing")."""


X86_64: Final = Arch(
    name="x86",
    qemu="qemu-system-x86_64",
    machine="pc",
    image="arch/x86/boot/bzImage",
    image_target="bzImage",
    console="ttyS0",
    kgdb="ttyS1,115200",
    elf_machine="EM_X86_64",
    breakpoint_insn=b"\xcc",
    pc="$rip",
    sp="$rsp",
    result="$rax",
    arguments=("$rdi", "$rsi", "$rdx", "$rcx", "$r8", "$r9"),
)

_BY_ELF_MACHINE: Final = {arch.elf_machine: arch for arch in (X86_64,)}


def from_elf_machine(machine: str) -> Arch:
    """Return the record for a vmlinux's `e_machine`.

    :raises ConfigError: the architecture is not one that we know.
    """
    try:
        return _BY_ELF_MACHINE[machine]
    except KeyError:
        known = ", ".join(sorted(_BY_ELF_MACHINE))
        raise ConfigError(
            f"the kernel is built for {machine}; pytest-kgdb knows {known}",
            hint="build it for x86_64 (ARCH=x86, CONFIG_64BIT=y)",
        ) from None
