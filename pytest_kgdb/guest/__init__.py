"""The guest from inside: its shell, files in and out, ssh."""

from __future__ import annotations

from ._bounce_buffer import GuestMemory
from ._shell import IdleWait, OopsPolicy, Shell
from ._ssh import command_line as ssh_command_line
from ._ssh import run as run_ssh
from ._transfer import FileTransfer
from ._unpack import unpack

__all__ = [
    "FileTransfer",
    "GuestMemory",
    "IdleWait",
    "OopsPolicy",
    "Shell",
    "run_ssh",
    "ssh_command_line",
    "unpack",
]
