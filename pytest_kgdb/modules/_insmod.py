"""What `insmod` and `modprobe` say of an error, where it is what a module's init has returned."""

from __future__ import annotations

import errno
import os
import re
from typing import Final

from ..debugger import errno_name

__all__ = ["init_failed"]

# Their words for what the kernel's loader means by some errors, which an init may return as well:
# busybox's modutils/modutils.c, moderror(); kmod's tools/insmod.c and tools/modprobe.c,
# mod_strerror().
_OF_THE_LOADER: Final = {
    "invalid module format": errno.ENOEXEC,
    "unknown symbol in module": errno.ENOENT,
    "unknown symbol in module, or unknown parameter": errno.ENOENT,
    "unknown symbol in module, or unknown parameter (see dmesg)": errno.ENOENT,
    "module has wrong symbol version": errno.ESRCH,
    "kernel does not support requested operation": errno.ENOSYS,
    "kernel does not have module support": errno.ENOSYS,
    "invalid parameters": errno.EINVAL,
}
_BY_WORDS: Final = {os.strerror(number): number for number in errno.errorcode}
# Of a number without words, which the kernel's own errors are.
_UNKNOWN: Final = re.compile(r"Unknown error (\d+)")


def init_failed(output: str) -> str:
    """Return what a command has printed, for a message, where a module's init returned an error.

    :param output: its last line ends with the error's words, behind a colon.
    """
    before, colon, words = output.strip().rpartition(": ")
    if not colon:
        return output.strip()
    unknown = _UNKNOWN.fullmatch(words)
    meant = _OF_THE_LOADER.get(words.lower())
    number = int(unknown[1]) if unknown else meant or _BY_WORDS.get(words)
    if number is None:
        return output.strip()
    returned = f"its init returned {errno_name(-number) or -number}"
    if meant is not None or unknown:
        return f"{before}: {returned}"
    return f"{before}: {words} ({returned})"
