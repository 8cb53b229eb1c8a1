"""Instruments: spies and overrides, by hooks in the relay."""

from __future__ import annotations

from ..debugger import errno_of
from ._arrivals import Arrivals
from ._call import Call, TaskAtCall
from ._failures import PointerFailures
from ._freed import FreedMemory, FreeingHooks
from ._instrument import Instrument
from ._instruments import Instruments
from ._override import CallPlaces, Override, When
from ._recorder import AddressRecorder, RecorderNumbers
from ._spy import Cost, Spy

__all__ = [
    "AddressRecorder",
    "Arrivals",
    "Call",
    "CallPlaces",
    "Cost",
    "FreedMemory",
    "FreeingHooks",
    "Instrument",
    "Instruments",
    "Override",
    "PointerFailures",
    "RecorderNumbers",
    "Spy",
    "TaskAtCall",
    "When",
    "errno_of",
]
