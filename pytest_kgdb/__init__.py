"""Test the Linux kernel from the inside: pytest, QEMU, kgdb and gdb put together."""

__version__ = "0.1.0"
