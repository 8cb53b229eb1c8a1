"""A machine's specification, its command line, and its identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..arch import Arch
from ..process import which
from ..settings import MachineOptions

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

# qemu(1), -sandbox: whoever breaks out of the guest into QEMU can start no program, gain no
# privilege and use no other system call that QEMU does not need.
_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_OPTION: Final = ("-sandbox", "--sandbox")


@dataclass(frozen=True)
class MachineSpec(MachineOptions):
    """Everything that makes a machine: its command line and its identity derive from this."""

    arch: Arch
    image: Path | None
    """The kernel; None if the disk has a boot loader that starts one."""
    initrd: Path | None
    accel: str = "tcg"
    disk: Path | None = None
    """A qcow2 image, to which nothing is written: the machine gets an overlay."""
    root: str = "/dev/vda"
    """The root file system on the disk."""
    boot_area: Path | None = None
    """A file that is written over the beginning of the overlay: a boot loader and its kernel."""
    boot_key: str = ""
    """The content key of the boot area."""
    forwards: tuple[str, ...] = ()
    """QEMU `hostfwd` values; with the first, the machine has a network device."""
    stub: str = "kgdb"
    """The stub that gdb is connected to: `kgdb`, or `qemu` for QEMU's own."""

    @property
    def begins_early(self) -> bool:
        """Whether the kernel waits for its debugger on a boot console, long before its drivers."""
        return self.stub == "kgdb" and "kgdboc_earlycon" in map(_name, self.append.split())

    def identity(self, *, snapshot_extras: Sequence[str] = ()) -> list[object]:
        """Return what distinguishes this machine from those that cannot load its snapshots.

        Not in it is what the caller has content keys for: the files of kernel, initrd and disk
        (whose paths may change), and QEMU's version. The result is JSON; it is part of cache
        keys, so it must not change for a machine that stays the same.

        :param snapshot_extras: what the caller saves in a snapshot besides QEMU's state.
        """
        return [
            kernel_command_line(self),
            self.arch.machine if self.image is not None else [self.arch.machine, self.boot_key],
            self.smp,
            self.memory,
            self.accel,
            # Whether there is a network device; not which ports of the host lead to it.
            ["user,restrict=on"] if self.forwards else [],
            [*self.qemu_arg, *snapshot_extras],
        ]


def kernel_command_line(spec: MachineSpec) -> str:
    """Return the kernel's parameters (Documentation/admin-guide/kernel-parameters.txt).

    - `nokaslr`: addresses in gdb are those of vmlinux.
    - `rodata=off`: on x86, kgdb inserts and removes breakpoints with plain stores; those in
      read-only text could not be removed (arch/x86/kernel/kgdb.c, kgdb_arch_set_breakpoint).
    - `earlycon=` with `kgdboc_earlycon`, on kgdb's port: kgdb reads and writes on that boot console
      until kgdboc's driver is there (drivers/tty/serial/kgdboc.c, kgdboc_earlycon_init, since 5.8).
    - no `panic=`: if a timeout is set, kgdb ignores panics (kernel/debug/debug_core.c, kgdb_panic).
    - `tsc=unstable clocksource=hpet` under TCG: QEMU does not set the time stamp counter back when
      it loads a snapshot (softmmu/cpu-timers.c, cpu_get_ticks_locked, cpu_ticks_prev), so with
      that clock source the guest's clock would jump by all the time since the snapshot. The HPET
      is set back. It also keeps its pace while a stopped kernel does not read it.
    - `no_timer_check` under TCG: the kernel panics if it does not see four ticks in the time of
      ten (arch/x86/kernel/apic/io_apic.c, timer_irq_works), which can happen on a busy host.
      Under KVM the kernel does not check, either (arch/x86/kernel/kvm.c).
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
    if spec.begins_early and "earlycon" not in map(_name, spec.append.split()):
        words.append(f"earlycon={spec.arch.early_kgdb}")
    if spec.append:
        words.append(spec.append)
    return " ".join(words)


def _name(parameter: str) -> str:
    return parameter.partition("=")[0]


def by_hand(spec: MachineSpec) -> list[str]:
    """Return the command line by which a user can run the same machine.

    What it makes is in the current directory: the sockets `console`, `kgdb`, `qmp` and `stub`, and
    the file `ram`.
    """
    return arguments(
        spec,
        ports={name: f"path={name}" for name in ("console", "kgdb", "qmp", "stub")},
        ram="ram",  # not a name in /dev/shm, which a second machine would share
        storage="storage.qcow2",
    )


def storage_by_hand(spec: MachineSpec) -> list[list[str]]:
    """Return the commands that create the `storage.qcow2` of :func:`by_hand`."""
    create = ["qemu-img", "create", "-f", "qcow2"]
    if spec.disk is None:
        return [[*create, "storage.qcow2", "1M"]]
    commands = [[*create, "-F", "qcow2", "-b", str(spec.disk), "storage.qcow2"]]
    if spec.boot_area is not None:
        write = write_area(spec.boot_area, str(spec.boot_area))
        commands.append(["qemu-io", *write, "storage.qcow2"])
    return commands


def write_area(area: Path, name: str) -> list[str]:
    """Return qemu-io's arguments that write a file over the beginning of an image.

    :param name: the name by which qemu-io opens the file, without blanks.
    """
    return ["-f", "qcow2", "-c", f"write -q -s {name} 0 {area.stat().st_size}"]


def arguments(spec: MachineSpec, *, ports: Mapping[str, str], ram: str, storage: str) -> list[str]:
    """Return QEMU's command line.

    :param ports: for each socket its address, in the form of QEMU's `-chardev socket`.
    :param ram: path of the file for the RAM.
    :param storage: path of the qcow2 image.
    """

    def chardev(name: str) -> str:
        return f"socket,id={name},{ports[name]},server=on,wait=off"

    # Without graphics, the BIOS and the boot loader write to the first serial port.
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
        # Restricted: the guest reaches neither the network nor the host.
        argv += ["-netdev", f"user,id=net,restrict=on{forwards}"]
        argv += ["-device", "virtio-net-pci,netdev=net"]
    if "power" in ports:
        argv += ["-chardev", chardev("power"), "-mon", "chardev=power,mode=control"]
    return [*argv, *_sandboxed(spec.qemu_arg)]


def _sandboxed(extra: Sequence[str]) -> list[str]:
    """Return the user's arguments with those of the sandbox, if they do not have others.

    QEMU adds up what several `-sandbox` deny, so ours could not be taken back by a later one. A
    QEMU that was built without seccomp refuses even `-sandbox off`, so that is left out.
    """
    if not any(word in _OPTION for word in extra):
        return ["-sandbox", _SANDBOX, *extra]
    words: list[str] = []
    for word in extra:
        if word == "off" and words and words[-1] in _OPTION:
            words.pop()
        else:
            words.append(word)
    return words
