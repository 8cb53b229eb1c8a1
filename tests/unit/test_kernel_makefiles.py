"""Which files a kernel was built without."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.arch import X86_64
from pytest_kgdb.kernel import not_compiled


@pytest.fixture
def kernel(tmp_path: Path) -> Any:
    (tmp_path / "drivers/net").mkdir(parents=True)
    (tmp_path / "drivers/Makefile").write_text("obj-$(CONFIG_NET) += net/\nobj-y += base.o\n")
    (tmp_path / "drivers/net/Makefile").write_text(
        "obj-$(CONFIG_E1000) += e1000.o\ne1000-objs := main.o \\\n\thw.o\nobj-y += core.o\n"
    )
    config = {"NET": "y"}
    return SimpleNamespace(arch=X86_64, source=tmp_path, config=config)


def test_files(kernel: Any) -> None:
    files = ["drivers/base.c", "drivers/net/core.c", "drivers/net/hw.c", "drivers/net/e.h"]
    assert [(found.file, found.why) for found in not_compiled(kernel, files)] == [
        ("drivers/net/hw.c", "CONFIG_E1000")
    ]
    kernel.config["E1000"] = "m"
    assert not_compiled(kernel, files) == []


def test_what_no_kernel_has(kernel: Any) -> None:
    files = ["Documentation/a.rst", "arch/arm64/mm/a.c", "arch/x86/mm/a.c", "tools/a.c"]
    assert [found.file for found in not_compiled(kernel, files)] == [files[0], files[1], files[3]]


def test_without_the_source_it_is_not_known(kernel: Any) -> None:
    kernel.source = None
    assert not_compiled(kernel, ["drivers/net/hw.c"]) == []
