"""A Debian on a disk, whose kernel has its virtio drivers as modules, as shipped."""

from __future__ import annotations


def test_the_disk_is_mounted_by_modules(kgdb, kgdb_kernel):
    assert kgdb.run("uname -r").output == f"{kgdb_kernel.release}\n"
    assert kgdb.run("findmnt -no SOURCE,FSTYPE /").output.split() == ["/dev/vda", "ext4"]
    assert kgdb.modules["virtio_blk"].state == "live"  # gdb has its symbols from here on
    with kgdb.breakpoint("virtblk_done") as done:
        kgdb.type("dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct")
        stop = kgdb.cont()
    assert stop.breakpoint is done
    assert stop.frame.file == "drivers/block/virtio_blk.c"


def test_other_modules(kgdb):
    # systemd's modprobe.d has numdummies=0.
    assert kgdb.run("modprobe dummy numdummies=1").status == 0
    assert "dummy0" in kgdb.run("ls /sys/class/net").output
    assert "dummy" in kgdb.modules
