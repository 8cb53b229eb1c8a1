"""Devices on the PCI bus, before and after a snapshot that does not have them."""

from __future__ import annotations

from pytest_kgdb.session._pci import PciSpaces

BAR, COMMAND = 4, 1


class Bus:
    """QEMU's monitor, and devices behind the two ports of the PCI bus."""

    def __init__(self) -> None:
        self.address = 0x8000_0000
        self.asked = 0
        host = [0x12378086, 0x0003, *[0] * 62]
        bridge = [0x70008086, 0x0003, 0, 0x0080_0000, *[0] * 60]
        ide = [0x70108086, 0x0003, *[0] * 62]
        edu = [0x11E81234, 0x0103, 0, 0, 0xFEB0_0000, *[0] * 59]
        self.devices = {(0, 0): host, (1, 0): bridge, (1, 1): ide, (2, 0): edu}

    def human(self, command: str) -> str:
        self.asked += 1
        operation, _, port, *value = command.split()
        if operation == "o" and int(port, 16) == 0xCF8:
            self.address = int(value[0], 16)
            return ""
        place = (self.address >> 11 & 0x1F, self.address >> 8 & 7)
        space = self.devices.get(place)
        index = self.address >> 2 & 0x3F
        if operation == "o":
            assert space is not None
            space[index] = int(value[0], 16)
            return ""
        value_ = 0xFFFFFFFF if space is None else space[index]
        reply = self.address if int(port, 16) == 0xCF8 else value_
        return f"portl[{int(port, 16):#06x}] = {reply:#010x}\r\n"


def test_all_functions_are_read() -> None:
    bus = Bus()
    spaces = PciSpaces(bus.human).read()
    assert set(spaces) == {"00.0", "01.0", "01.1", "02.0"}
    assert spaces["02.0"][BAR] == 0xFEB0_0000
    assert bus.address == 0x8000_0000, "the kernel may have been about to use it"


def test_what_was_lost_is_restored_and_nothing_else() -> None:
    bus = Bus()
    spaces = PciSpaces(bus.human)
    saved = spaces.read()
    edu = bus.devices[2, 0]
    before = list(edu)
    edu[BAR] = edu[COMMAND] = 0
    bus.devices[0, 0][60] = 7  # the device's own business
    spaces.restore(saved)
    assert edu == before
    assert bus.devices[0, 0][60] == 7
    assert bus.address == 0x8000_0000


def test_it_is_found_out_once() -> None:
    bus = Bus()
    spaces = PciSpaces(bus.human)
    saved = spaces.read()
    spaces.restore(saved)
    bus.asked = 0
    spaces.restore(saved)
    assert bus.asked == 0


def test_only_devices_that_were_asked_for_need_it() -> None:
    assert PciSpaces.needed(("-device", "edu"))
    assert not PciSpaces.needed(("-smbios", "type=1"))
