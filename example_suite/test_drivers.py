"""Your own drivers: a character device with bugs, and QEMU's educational PCI device."""

from __future__ import annotations

from pathlib import Path

import pytest

DRIVERS = Path(__file__).parent / "drivers"
KEYHOLE = DRIVERS / "keyhole"
EDU = DRIVERS / "edu"

# Each test of the first driver runs on the driver with its bugs, and checks what goes wrong; and on
# the fixed driver, built from the same source.
both = pytest.mark.parametrize("name", ["keyhole", "keyhole_fixed"])


@both
def test_no_read_past_the_window(kgdb, name):
    """Find an off-by-one that no user program would notice: what is copied, and from where."""
    kgdb.modules.load(KEYHOLE / f"{name}.ko")
    with kgdb.breakpoint("keyhole_copy"):
        kgdb.type("cat /dev/keyhole > /dev/null")
        stop = kgdb.cont()
        end = int(stop.frame.args["from"]) + int(stop.frame.args["count"])
    window = kgdb.evaluate("keyhole->window")
    excess = end - (window.address + len(window))
    assert excess == (1 if name == "keyhole" else 0)
    assert kgdb.read(window.address + len(window), 6) == b"SECRET"


@both
@pytest.mark.kgdb(stub="kgdb")  # an oops is a stop
def test_init_cleans_up_after_an_error(kgdb, name):
    """Force an error path that is never taken: the device cannot be registered."""
    kgdb.modules.load_stopped(KEYHOLE / f"{name}.ko")
    with kgdb.override("misc_register", "-EBUSY"), kgdb.breakpoint("free_module"):
        stop = kgdb.cont()
    if name == "keyhole_fixed":
        assert stop.reason == "breakpoint"  # init failed, and cleaned up
        return
    assert stop.reason == "oops"  # misc_deregister() of a device that was not registered
    (init,) = [frame for frame in stop.backtrace() if frame.function == "keyhole_init"]
    assert "misc_deregister(&keyhole_device)" in init.source(context=1)


@both
@pytest.mark.kgdb(stub="kgdb")  # so that the verdict is an oops, not a splat
def test_each_failure_of_init(kgdb, name):
    """Find the same bug without knowing it: each call of `misc_register()` fails once."""
    report = kgdb.fail_each(
        "misc_register", lambda kgdb: kgdb.modules.load(KEYHOLE / f"{name}.ko"), "-EBUSY"
    )
    assert len(report) == 1
    if name == "keyhole_fixed":
        assert report.ok, report
        return
    (bad,) = report.bad
    assert bad.verdict == "oops"
    assert "keyhole_init" in bad.path[0]


edu = pytest.mark.kgdb(qemu_arg="-device edu")
DEVICE = "cd /sys/bus/pci/drivers/edu_example/0000:*"


@edu
def test_probe(kgdb):
    """Stop in the first call of a driver's probe, and look at the device."""
    kgdb.modules.load_stopped(EDU)
    kgdb.breakpoint("edu_probe", temporary=True)
    pci = kgdb.cont().frame.args["pci"]
    assert (pci["vendor"], pci["device"]) == (0x1234, 0x11E8)
    assert kgdb.finish().return_value == 0


@edu
@pytest.mark.parametrize("msi", [True, False])
def test_an_interrupt(kgdb, msi):
    """Follow an interrupt from the register write that causes it to its handler."""
    kgdb.modules.load(EDU, msi=msi)
    with kgdb.breakpoint("edu_interrupt") as interrupt:
        kgdb.type(f"{DEVICE}; echo 5 > factorial")
        stop = kgdb.cont()
        assert stop.frame.evaluate("((struct edu *)data)->interrupts") == 0
        names = [frame.function for frame in stop.backtrace()]
        assert names[1] == "__handle_irq_event_percpu"
        assert ("handle_edge_irq" if msi else "handle_fasteoi_irq") in names
    assert kgdb.run(f"{DEVICE}; cat factorial").output == "120\n"
    line = kgdb.run("grep edu_example /proc/interrupts").output
    assert ("PCI-MSI" if msi else "IO-APIC") in line
    assert line.split()[1] == "1"
    assert interrupt.hits == 1


@edu
def test_dma(kgdb):
    """Read the memory that the device has read and written, at the interrupts that report it."""
    kgdb.modules.load(EDU)
    text = b"through the device and back"
    with kgdb.breakpoint("edu_interrupt"):
        kgdb.type(f"{DEVICE}; echo -n '{text.decode()}' > mirror")
        stop = kgdb.cont()  # the device has read the buffer
        bus = int(stop.frame.evaluate("((struct edu *)data)->bus"))
        assert kgdb.physical.read(bus, len(text)) == text
        stop = kgdb.cont()  # the driver has cleared the buffer, and the device has written it again
        buffer = int(stop.frame.evaluate("((struct edu *)data)->buffer"))
        assert kgdb.program.read(buffer, len(text)) == text
        assert kgdb.physical.virt_to_phys(buffer) == bus
    assert kgdb.run(f"{DEVICE}; cat mirror").output == text.decode()
