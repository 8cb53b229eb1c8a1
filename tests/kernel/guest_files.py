"""Files for the guest, without anything in it that could receive them; and modules for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.cache import Cache
from pytest_kgdb.kernel import build_module
from pytest_kgdb.progress import Silent


def built_from(text: str, name: str, kernel: Any, factory: pytest.TempPathFactory) -> Path:
    """A module of one source file, built against a kernel."""
    source = factory.mktemp(name)
    (source / f"{name}.c").write_text(text)
    (source / "Makefile").write_text(f"obj-m += {name}.o\n")
    cache = Cache(factory.mktemp("cache"), progress=Silent())
    (module,) = build_module(kernel, source, cache, Silent())
    return module


def put_file(kgdb: Any, contents: bytes, path: str) -> None:
    """Write a file of the guest's tmpfs where it is: in physical memory."""
    import drgn
    from drgn.helpers.linux.fs import path_lookup
    from drgn.helpers.linux.mm import page_to_phys
    from drgn.helpers.linux.xarray import xa_for_each

    kgdb.run(f"head -c {len(contents)} /dev/zero > {path}")
    inode = path_lookup(kgdb.program, path).dentry.d_inode
    pages = list(xa_for_each(inode.i_mapping.i_pages.address_of_()))
    assert len(pages) == (len(contents) + 4095) // 4096
    for index, page in pages:
        address = page_to_phys(drgn.cast("struct page *", page)).value_()
        kgdb.physical.write(address, contents[index * 4096 : (index + 1) * 4096])
