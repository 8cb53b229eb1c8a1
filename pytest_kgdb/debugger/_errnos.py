"""Error numbers by their names."""

from __future__ import annotations

import errno
import re
from typing import Final

from ..errors import KgdbError

__all__ = ["MAX_ERRNO", "errno_name", "errno_of"]

# include/linux/err.h: a pointer that is so close below zero is an error.
MAX_ERRNO: Final = 4095

# include/linux/errno.h: what the kernel returns to itself, and no program sees.
_KERNEL_ERRNOS: Final = {
    "ERESTARTSYS": 512, "ERESTARTNOINTR": 513, "ERESTARTNOHAND": 514, "ENOIOCTLCMD": 515,
    "ERESTART_RESTARTBLOCK": 516, "EPROBE_DEFER": 517, "EOPENSTALE": 518, "ENOPARAM": 519,
    "EBADHANDLE": 521, "ENOTSYNC": 522, "EBADCOOKIE": 523, "ENOTSUPP": 524, "ETOOSMALL": 525,
    "ESERVERFAULT": 526, "EBADTYPE": 527, "EJUKEBOX": 528, "EIOCBQUEUED": 529,
    "ERECALLCONFLICT": 530, "ENOGRACE": 531,
}  # fmt: skip
_ERRNO: Final = re.compile(r"(?:ERR_PTR\(\s*)?(-?)(E[A-Z0-9_]+)\s*\)?")


def errno_of(text: str) -> int | None:
    """Return the number that `-ENOMEM`, or `ERR_PTR(-ENOMEM)`, stands for; None for other words.

    :raises KgdbError: there is no such error.
    """
    match = _ERRNO.fullmatch(text.strip())
    if match is None:
        return None
    sign, name = match.groups()
    # The host's errnos are those of include/uapi/asm-generic/errno.h, as x86's are.
    number = _KERNEL_ERRNOS.get(name) or getattr(errno, name, None)
    if not isinstance(number, int):
        raise KgdbError(f"there is no error {name}", hint="a number will do")
    return -number if sign else number


def errno_name(number: int) -> str | None:
    """Return `-ENOMEM` for -12; None for what is no error."""
    for name, value in _KERNEL_ERRNOS.items():
        if value == -number:
            return f"-{name}"
    text = errno.errorcode.get(-number)
    return f"-{text}" if text is not None else None
