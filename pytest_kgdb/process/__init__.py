"""Children: in groups of their own, tied to our death, always drained, stopped in time.

Two things see to it that nothing outlives us, whatever ends us. The kernel kills each child when
the thread that started it dies (`PR_SET_PDEATHSIG`, prctl(2)); and a guardian, one small `sh` in
a session of its own, holds the reading end of a pipe: when that ends it kills the groups that were
registered with it, and then whatever still carries our tag in its environment.
"""

from ._child import DEVNULL, PIPE, Child
from ._run import CommandFailed, Completed, run, which

__all__ = ["DEVNULL", "PIPE", "Child", "CommandFailed", "Completed", "run", "which"]
