"""Whether this host runs a guest on KVM."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..errors import KgdbError, TimeoutError
from ..escape import clean
from ..process import run

__all__ = ["KVM", "try_kvm"]

KVM: Final = Path("/dev/kvm")
"""The device, which can be there and open without a guest ever running on it."""

_SECONDS: Final = 10.0

# There are hosts whose KVM is slower than TCG by far: a loop of so many rounds, which QEMU with TCG
# has run 0.3 s after its start, has not ended there after 30 s.
_ROUNDS: Final = 1 << 25
# mov ecx, ROUNDS; dec ecx; jnz -4; mov al, 16; out 0xf4, al; hlt: QEMU's isa-debug-exit exits with
# status 2 * 16 + 1 (hw/misc/debugexit.c). The last two bytes mark a boot sector.
_CODE: Final = (
    b"\x66\xb9" + _ROUNDS.to_bytes(4, "little") + b"\x66\x49\x75\xfc" + b"\xb0\x10\xe6\xf4\xf4"
)
_SECTOR: Final = _CODE.ljust(510, b"\0") + b"\x55\xaa"
_EXIT: Final = 33


def try_kvm(qemu: str, seconds: float | None = None, accel: str = "kvm") -> str:
    """Run a small guest on KVM; return what is wrong, "" if nothing is.

    :param qemu: the program.
    :param seconds: after which the guest counts as one that hangs, or is too slow to be of use; by
        default 10, as a loaded host starts QEMU late.
    :param accel: another accelerator, to try the guest itself.
    """
    seconds = _SECONDS if seconds is None else seconds
    # In no directory: nothing is left of it when the run ends meanwhile.
    with os.fdopen(os.memfd_create("pytest-kgdb KVM", os.MFD_CLOEXEC), "wb") as image:
        image.write(_SECTOR)
        image.flush()
        path = f"/proc/{os.getpid()}/fd/{image.fileno()}"
        argv = [qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        cpu = "host" if accel == "kvm" else "max"
        argv += ["-machine", f"pc,accel={accel}", "-cpu", cpu, "-m", "32"]
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        argv += ["-drive", f"file={path},format=raw,if=ide,snapshot=on"]
        try:
            result = run(argv, timeout=seconds, check=False)
        except TimeoutError:
            return f"{2 * _ROUNDS >> 20} million instructions take more than {seconds:.0f} s"
        except KgdbError as error:
            return error.message.partition("\n")[0]
    if result.status == _EXIT:
        return ""
    lines = [line for line in result.output.splitlines() if line.strip()]
    return clean(lines[0]) if lines else f"QEMU ended with status {result.status}"
