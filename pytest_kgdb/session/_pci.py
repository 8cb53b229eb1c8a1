"""What QEMU does not save of PCI devices: where some of them are on the bus."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["PciSpaces", "Spaces"]

Spaces = Mapping[str, list[int]]
"""Configuration spaces in double words, by the devices' places on bus 0: "02.0"."""

# PCI Local Bus Specification, "Configuration Mechanism #1".
_ADDRESS_PORT: Final = 0xCF8
_DATA_PORT: Final = 0xCFC
_ENABLE: Final = 0x80000000
_DEVICES: Final = 32
_FUNCTIONS: Final = 8
_NOBODY: Final = 0xFFFFFFFF
_WORDS: Final = 64
_COMMAND: Final = 1  # among the double words: the switch for the others
_HEADER_TYPE: Final = 3
# What is set and not only told: the command, the addresses, the interrupt line.
_SETTINGS: Final = (_COMMAND, *range(4, 10), 12, 15)
_MULTIFUNCTION: Final = 1 << 23
_DEVICE_OPTION: Final = "-device"


class PciSpaces:
    """Reads the configuration spaces of PCI devices, and restores them.

    A device for which QEMU has no `VMStateDescription` (its `edu` is one) is not in a snapshot.
    Loading one resets it: it has lost its addresses, and the kernel does not know. The ports are
    those that the kernel itself uses, by QEMU's monitor.

    :param human: runs a command of QEMU's human monitor.
    """

    def __init__(self, human: Callable[[str], str]) -> None:
        self._human = human
        self._lost: set[str] | None = None  # devices of which it is known that they are not saved

    @staticmethod
    def needed(arguments: tuple[str, ...]) -> bool:
        """Whether there may be such devices: ours are all saved."""
        return any(word.startswith(_DEVICE_OPTION) for word in arguments)

    def read(self) -> Spaces:
        """Return the spaces of all devices on bus 0."""
        before = self._in(_ADDRESS_PORT)
        spaces: dict[str, list[int]] = {}
        for slot in range(_DEVICES):
            for function in range(_FUNCTIONS):
                place = f"{slot:02x}.{function}"
                if self._word(place, 0) == _NOBODY:
                    break
                spaces[place] = [self._word(place, index) for index in range(_WORDS)]
                if function == 0 and not spaces[place][_HEADER_TYPE] & _MULTIFUNCTION:
                    break
        self._out(_ADDRESS_PORT, before)
        return spaces

    def restore(self, saved: Spaces) -> None:
        """Give the devices that were not saved the addresses that they had."""
        if self._lost == set():
            return
        before = self._in(_ADDRESS_PORT)
        if self._lost is None:
            self._lost = {
                place
                for place, words in saved.items()
                if any(self._word(place, index) != words[index] for index in _SETTINGS)
            }
        for place in sorted(self._lost & saved.keys()):
            words = saved[place]
            for index in (*range(_COMMAND + 1, _WORDS), _COMMAND):
                if words[index]:
                    self._out(_ADDRESS_PORT, _at(place, index))
                    self._out(_DATA_PORT, words[index])
        self._out(_ADDRESS_PORT, before)

    def _word(self, place: str, index: int) -> int:
        self._out(_ADDRESS_PORT, _at(place, index))
        return self._in(_DATA_PORT)

    def _out(self, port: int, value: int) -> None:
        # A number of the monitor's is signed, and one of 32 bits: the upper half is cut off.
        self._human(f"o /w {port:#x} {value:#x}")

    def _in(self, port: int) -> int:
        output = self._human(f"i /wx {port:#x}")
        match = re.search(r"=\s*(0x[0-9a-f]+)", output)
        return int(match[1], 16) if match else _NOBODY


def _at(place: str, index: int) -> int:
    slot, function = place.split(".")
    return _ENABLE | int(slot, 16) << 11 | int(function) << 8 | index << 2
