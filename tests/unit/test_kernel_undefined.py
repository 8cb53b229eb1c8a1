"""Which configuration symbol would give what modpost finds undefined."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.arch import X86_64
from pytest_kgdb.kernel import _undefined
from pytest_kgdb.kernel._undefined import undefined_hint

LOG = 'ERROR: modpost: "{name}" [/tmp/needy.ko] undefined!\n'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "drivers/Makefile": "obj-y += base/\nobj-$(CONFIG_MEDIA_SUPPORT) += media/\n",
        "drivers/media/Makefile": "obj-y += \\\n\tcore/ # here\n",
        "drivers/media/core/Makefile": "videodev-objs := dev.o \\\n\tdevice.o\n"
        "videodev-$(CONFIG_COMPAT) += compat.o\nobj-$(CONFIG_VIDEO_DEV) += videodev.o\n",
        "drivers/media/core/device.c": "EXPORT_SYMBOL_GPL(device_register);\n",
        "drivers/media/core/compat.c": 'EXPORT_SYMBOL_NS_GPL(compat_call, "MEDIA");\n',
        "drivers/media/Kconfig": 'config VIDEO_DEV\n\ttristate "Video"\n'
        '\tdepends on MEDIA_SUPPORT\n\nconfig MEDIA_SUPPORT\n\tbool "Media"\n',
        "Kconfig": 'source "drivers/media/Kconfig"\n',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def kernel(tree: Path | None, **config: str) -> Any:
    symbols = SimpleNamespace(symbols=config, get=lambda name: config.get(name))
    return SimpleNamespace(source=tree, config=symbols, arch=X86_64)


def test_symbol_and_what_it_depends_on(tree: Path) -> None:
    hint = undefined_hint(LOG.format(name="device_register"), kernel(tree))
    assert hint is not None
    assert "exported by drivers/media/core/device.c" in hint
    assert "--kgdb-set=CONFIG_VIDEO_DEV=y --kgdb-set=CONFIG_MEDIA_SUPPORT=y" in hint
    assert "MEDIA_SUPPORT=n" in hint


def test_only_what_is_off(tree: Path) -> None:
    hint = undefined_hint(LOG.format(name="compat_call"), kernel(tree, VIDEO_DEV="m", COMPAT="n"))
    assert hint is not None
    assert "CONFIG_COMPAT=y" in hint
    assert "VIDEO_DEV" not in hint


def test_nobody_exports_it(tree: Path) -> None:
    hint = undefined_hint(LOG.format(name="of_another_module"), kernel(tree))
    assert hint is not None
    assert "KBUILD_EXTRA_SYMBOLS" in hint


@pytest.mark.parametrize(
    ("broken", "said"),
    [("grep", "sh: no"), ("late", "0.1 s"), ("tree", "is empty")],
)
def test_search_that_fails_is_no_answer(
    broken: str, said: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    grep = tools / "grep"
    does = "exec sleep 60" if broken == "late" else "echo sh: no; exit 2"
    grep.write_text(f"#!/bin/sh\n{does}\n")
    grep.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    monkeypatch.setattr(_undefined, "_GREP_SECONDS", 0.1)
    if broken == "tree":
        tree = tools
    hint = undefined_hint(LOG.format(name="device_register"), kernel(tree))
    assert hint is not None
    assert "is not known" in hint
    assert said in hint
    assert "nothing in the kernel" not in hint


def test_without_the_source() -> None:
    hint = undefined_hint(LOG.format(name="device_register"), kernel(None))
    assert hint is not None
    assert "--kgdb-set" in hint


def test_other_errors(tree: Path) -> None:
    assert undefined_hint("a.c:1:2: error: what\n", kernel(tree)) is None
