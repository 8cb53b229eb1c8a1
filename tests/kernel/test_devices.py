"""Devices that a test's marker adds to its machine."""

from __future__ import annotations

import pytest

EDU = "d=/sys/bus/pci/devices/0000:00:*; cd $(dirname $(grep -l 0x11e8 $d/device))"
# The addresses as the kernel knows them, and as the device has them.
PLACES = f"{EDU}; head -1 resource; od -A n -t x4 -j 16 -N 4 config"


def test_only_for_that_test(kgdb) -> None:
    assert kgdb.run("grep -l 0x11e8 /sys/bus/pci/devices/*/device").status != 0


@pytest.mark.kgdb(qemu_arg="-device edu")
@pytest.mark.parametrize("time", ["from the snapshot", "restored", "restored again"])
def test_a_device_that_qemu_does_not_save_keeps_its_place(kgdb, time) -> None:
    resource, address = kgdb.run(PLACES).output.splitlines()
    begin = int(resource.split()[0], 16)
    assert begin
    assert int(address, 16) & ~0xF == begin
    kgdb.snapshot("here")
    kgdb.run(f"{EDU}; echo 1 > remove")
    assert kgdb.run(PLACES).status != 0
    kgdb.restore("here")
    assert kgdb.run(PLACES).output.splitlines() == [resource, address]
