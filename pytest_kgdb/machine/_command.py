"""What QEMU is told: a machine's specification, and its command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..arch import Arch
from ..process import which

__all__ = [
    "QEMU_PACKAGE",
    "MachineSpec",
    "arguments",
    "by_hand",
    "kernel_command_line",
    "storage_by_hand",
    "write_area",
]

QEMU_PACKAGE: Final = "qemu-system-x86"


@dataclass(frozen=True)
class MachineSpec:
    """Everything that QEMU is told; equal specs make equal machines."""

    arch: Arch
    image: Path | None
    """The kernel; None for the one that the disk's own boot loader starts."""
    initrd: Path | None
    append: str = ""
    smp: int = 1
    memory: int = 256
    """MiB."""
    accel: str = "tcg"
    disk: Path | None = None
    """A qcow2 image; the machine writes to an overlay of its own."""
    root: str = "/dev/vda"
    """The root file system on the disk."""
    boot_area: Path | None = None
    """What the overlay begins with: a boot loader, and the kernel that it starts."""
    boot_key: str = ""
    """What tells it from others."""
    forwards: tuple[str, ...] = ()
    """QEMU `hostfwd` values; a network device appears with the first."""
    qemu_args: tuple[str, ...] = ()
    stub: str = "kgdb"
    """Which one gdb is attached to: the kernel's own, `kgdb`, or `qemu`."""


def kernel_command_line(spec: MachineSpec) -> str:
    """Return the kernel's parameters (Documentation/admin-guide/kernel-parameters.txt).

    - `nokaslr`: gdb's addresses are those of vmlinux.
    - `rodata=off`: kgdb writes its breakpoints with plain stores, and on x86 removes them with
      the same; read-only text would leave them in (arch/x86/kernel/kgdb.c,
      kgdb_arch_set_breakpoint).
    - no `panic=`: with a time-out set, kgdb lets panics pass (kernel/debug/debug_core.c,
      kgdb_panic).
    - `tsc=unstable clocksource=hpet` under TCG: QEMU does not let the time stamp counter go back
      at a restore (softmmu/cpu-timers.c, cpu_get_ticks_locked, cpu_ticks_prev), so a kernel that
      tells time by it would see the clock jump by all that went on since the snapshot. The HPET
      goes back. It also keeps its pace while a stopped kernel does not look at it.
    - `no_timer_check` under TCG: the kernel panics if it does not see four ticks in the time of ten
      (arch/x86/kernel/apic/io_apic.c, timer_irq_works), which on a host with other work to do says
      nothing of the timer. Under KVM it does not look either (arch/x86/kernel/kvm.c).
    """
    words = [f"console={spec.arch.console},115200"]
    if spec.stub == "kgdb":
        words += [f"kgdboc={spec.arch.kgdb}", "kgdbwait", "nokaslr", "rodata=off"]
    else:
        words.append("nokaslr")
    words += [
        "printk.time=1",
        "ignore_loglevel",
        "sysrq_always_enabled",
    ]
    if spec.accel == "tcg":
        words += ["tsc=unstable", "clocksource=hpet", "no_timer_check"]
    if spec.disk is not None and "root=" not in spec.append:
        words.append(f"root={spec.root} rw")
    if spec.append:
        words.append(spec.append)
    return " ".join(words)


def by_hand(spec: MachineSpec) -> list[str]:
    """Return the command line that runs the same machine without us.

    Its ports are sockets in the present directory: `console`, `kgdb`, `qmp` and `stub`.
    """
    return arguments(
        spec,
        ports={name: f"path={name}" for name in ("console", "kgdb", "qmp", "stub")},
        ram="/dev/shm/kgdb-ram",  # noqa: S108 # a suggestion to a person
        storage="storage.qcow2",
    )


def storage_by_hand(spec: MachineSpec) -> list[list[str]]:
    """Return the commands that make the `storage.qcow2` of :func:`by_hand`."""
    create = ["qemu-img", "create", "-f", "qcow2"]
    if spec.disk is None:
        return [[*create, "storage.qcow2", "1M"]]
    commands = [[*create, "-F", "qcow2", "-b", str(spec.disk), "storage.qcow2"]]
    if spec.boot_area is not None:
        write = write_area(spec.boot_area, str(spec.boot_area))
        commands.append(["qemu-io", *write, "storage.qcow2"])
    return commands


def write_area(area: Path, name: str) -> list[str]:
    """Return qemu-io's arguments for writing a file over an image's beginning.

    :param name: what qemu-io shall call the file; it takes no spaces.
    """
    return ["-f", "qcow2", "-c", f"write -q -s {name} 0 {area.stat().st_size}"]


def arguments(spec: MachineSpec, *, ports: Mapping[str, str], ram: str, storage: str) -> list[str]:
    """Return QEMU's command line.

    :param ports: where each socket listens, as QEMU's `-chardev socket` takes it.
    """

    def chardev(name: str) -> str:
        return f"socket,id={name},{ports[name]},server=on,wait=off"

    # Without graphics, the BIOS and what it starts write on the first serial port.
    screen = ",graphics=off" if spec.image is None else ""
    argv = [
        which(spec.arch.qemu, package=QEMU_PACKAGE),
        "-name",
        "pytest-kgdb",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        f"{spec.arch.machine},accel={spec.accel},memory-backend=ram,vmport=off{screen}",
        "-cpu",
        "host" if spec.accel == "kvm" else "max",
        "-smp",
        str(spec.smp),
        "-m",
        f"{spec.memory}M",
        "-object",
        f"memory-backend-file,id=ram,size={spec.memory}M,share=on,mem-path={ram}",
        "-chardev",
        chardev("console"),
        "-serial",
        "chardev:console",
        "-chardev",
        chardev("kgdb"),
        "-serial",
        "chardev:kgdb",
        "-chardev",
        chardev("qmp"),
        "-mon",
        "chardev=qmp,mode=control",
        "-chardev",
        chardev("stub"),
        "-gdb",
        "chardev:stub",
        "-drive",
        f"if=none,id=storage,format=qcow2,discard=unmap,file={storage}",
        "-no-reboot",
    ]
    if spec.image is not None:
        argv += ["-kernel", str(spec.image), "-append", kernel_command_line(spec)]
    if spec.disk is not None:
        first = ",bootindex=0" if spec.image is None else ""
        argv += ["-device", f"virtio-blk-pci,drive=storage{first}"]
    if spec.initrd is not None:
        argv += ["-initrd", str(spec.initrd)]
    if spec.forwards:
        forwards = "".join(f",hostfwd={forward}" for forward in spec.forwards)
        # Restricted: nothing that a guest sends leaves the host, or reaches anything on it.
        argv += ["-netdev", f"user,id=net,restrict=on{forwards}"]
        argv += ["-device", "virtio-net-pci,netdev=net"]
    if "power" in ports:
        argv += ["-chardev", chardev("power"), "-mon", "chardev=power,mode=control"]
    argv += spec.qemu_args
    return argv
