"""Child processes, each in its own process group, always drained, stopped within a bound; locks.

No child outlives this process, whatever ends it. The kernel kills each child when the thread that
started it ends (`PR_SET_PDEATHSIG`, prctl(2)). And the reaper, one small `sh` in a session of its
own, reads a pipe whose other end is ours: when the pipe closes, it kills the process groups that
were registered with it, and then every process that has our tag in its environment.
"""

from ._child import DEVNULL, PIPE, Child
from ._lock import FileLock
from ._run import CommandFailed, Completed, program_key, run, system_path, which

__all__ = [
    "DEVNULL",
    "PIPE",
    "Child",
    "CommandFailed",
    "Completed",
    "FileLock",
    "program_key",
    "run",
    "system_path",
    "which",
]
