"""gdb and QEMU, started before the parts that talk to them are imported."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..debugger import GdbProcess, GdbTemplate, launch_gdb, launch_template
from ..machine import MachineSpec, QemuProcess
from ._snapshot import Snapshot

if TYPE_CHECKING:
    from ..deadline import WaitLimit
    from ..kernel import Kernel

__all__ = ["Launch"]


class Launch:
    """The two processes of a machine; :class:`Vm` takes them over.

    :param logs: directory for their logs.
    :param index_cache: directory for gdb's index cache.
    :param waits: how long the running test waits.
    :param snapshot: what to start from; the machine is booted otherwise.
    :param at: which of its snapshots.
    """

    def __init__(
        self,
        spec: MachineSpec,
        kernel: Kernel,
        *,
        logs: Path,
        index_cache: Path,
        waits: WaitLimit,
        snapshot: Snapshot | None = None,
        at: str = "ready",
    ) -> None:
        self.spec = spec
        self.kernel = kernel
        self.logs = logs
        self.snapshot = snapshot
        self.index_cache = index_cache
        self.at = at
        with contextlib.ExitStack() as stack:
            # gdb first: it reads the symbols while QEMU starts and the kernel boots.
            self.gdb: GdbProcess = stack.enter_context(
                launch_gdb(kernel, index_cache=index_cache, log=logs / "gdb.stderr")
            )
            self.qemu: QemuProcess = stack.enter_context(
                QemuProcess(
                    spec,
                    waits=waits,
                    log_dir=logs,
                    storage=snapshot.storage if snapshot is not None else None,
                    memory=snapshot.memory if snapshot is not None else None,
                    snapshot=at if snapshot is not None else None,
                )
            )
            self._stack = stack.pop_all()

    def gdb_template(self, directory: Path) -> GdbTemplate:
        """Start a gdb on the kernel that others are forked from, without waiting for it.

        :param directory: for its socket.
        """
        return launch_template(
            self.kernel,
            index_cache=self.index_cache,
            directory=directory,
            log=self.logs / "gdb-template.log",
        )

    def close(self) -> None:
        """End both; always, and within seconds."""
        self._stack.close()

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
