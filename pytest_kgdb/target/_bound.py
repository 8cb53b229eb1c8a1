"""What a handle is bound to while it has a machine: the jobs, each with what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._causes import Causes
from ._hidden import Hidden
from ._instruments import Instruments
from ._link import Link
from ._locations import Locations
from ._motion import Motion
from ._planting import Planting
from ._stops import define_current

if TYPE_CHECKING:
    from ..machine import Machine
    from ..mi import Gdb
    from ..rsp import Relay
    from ..state import State
    from ._handle import Kgdb
    from ._points import Keeper

__all__ = ["Bound"]


class Bound:
    """One machine under a handle.

    :param moment: the number of the first moment.
    """

    def __init__(
        self,
        handle: Kgdb,
        *,
        gdb: Gdb,
        machine: Machine,
        state: State,
        relay: Relay,
        keeper: Keeper,
        moment: int,
    ) -> None:
        kernel, modules, watch = handle.kernel, handle.modules, handle.watch
        self.gdb = gdb
        self.machine = machine
        self.state = state
        self.relay = relay
        self.keeper = keeper
        self.modules = modules
        self.causes = Causes(gdb, machine, state, watch, kernel.debug_source, relay)
        self.link = Link(gdb, moment=moment, first_cause=self.causes.first)
        self.link.by_qemu = relay.door == "qemu"
        if self.link.by_qemu:
            define_current(self.link)
        self.hidden = Hidden(self.link)
        self.locations = Locations(
            self.link,
            kernel.vmlinux,
            kernel.vmlinux.with_name("System.map"),
            why_not=modules.why_not,
            functions=modules.functions,
        )
        self.instruments = Instruments(self.link, relay, self.locations)
        self.planting = Planting(handle, self.link, self.locations, self.hidden, modules)
        self.motion = Motion(
            gdb,
            machine,
            self.link,
            relay,
            causes=self.causes,
            planting=self.planting,
            hidden=self.hidden,
            instruments=self.instruments,
            modules=modules,
            watch=watch,
            source=kernel.debug_source,
        )

    def forget_breakpoints(self) -> None:
        """gdb's breakpoints are gone, or about to be; the instruments end with them."""
        self.planting.forget()
        self.instruments.end()
