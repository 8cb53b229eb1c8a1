"""A gate, with kernels and runs that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.change import Change, from_patches
from pytest_kgdb.errors import BuildError, ConfigError, KgdbError
from pytest_kgdb.gate import Gate
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import Settings, make_settings

PATCH = """\
--- a/kernel/one.c
+++ b/kernel/one.c
@@ -1,2 +1,2 @@
-int one;
+long one;
 int two;
"""


class Kernels:
    """As KernelBuilder: a patched kernel, or also one that is not, cannot be built."""

    def __init__(self, error: KgdbError, *, base: bool = False) -> None:
        self.error = error
        self.base = base

    def build(self, settings: Settings) -> Any:
        if settings.patch or self.base:
            raise self.error

    def same(self, one: object, other: object) -> bool:
        raise AssertionError


def change(tmp_path: Path) -> Change:
    path = tmp_path / "fix.patch"
    path.write_text(PATCH)
    return from_patches(make_settings(kernel=["distro:6.1"]), [path])


def gate(tmp_path: Path, kernels: Kernels) -> Gate:
    runner: Any = None
    return Gate(change(tmp_path), kernels, runner, progress=Silent())


@pytest.mark.parametrize(
    ("error", "status"),
    [(BuildError("it does not compile"), 1), (ConfigError("CONFIG_X did not survive"), 6)],
)
def test_a_change_that_cannot_be_built(tmp_path: Path, error: KgdbError, status: int) -> None:
    outcome = gate(tmp_path, Kernels(error)).run()
    assert outcome.status == status
    assert outcome.notes == (
        f"the patched kernel (distro:6.1 + fix.patch) cannot be built: {error.message}",
    )


def test_a_base_that_cannot_be_built(tmp_path: Path) -> None:
    assert gate(tmp_path, Kernels(BuildError("no"), base=True)).run().status == 6
    with pytest.raises(ConfigError, match="no such symbol"):
        gate(tmp_path, Kernels(ConfigError("no such symbol"), base=True)).run()
