"""What the tests of real failures share."""

from __future__ import annotations

import signal

import pytest

from pytest_kgdb.kernel import Kernel
from pytest_kgdb.settings import from_pytest

# A shell's background job ignores Ctrl-C, and so would all that these tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def session_options(kgdb_kernel: Kernel, pytestconfig: pytest.Config) -> list[str]:
    """The options by which another pytest takes this session's kernel, from its cache."""
    settings = from_pytest(pytestconfig)
    options = [
        f"--kgdb-kernel={kgdb_kernel.spec}",
        f"--kgdb-cache-dir={settings.cache_dir}",
        f"--kgdb-accel={settings.accel}",
    ]
    if settings.config != "minimal":  # a build directory takes none
        options.append(f"--kgdb-config={settings.config}")
    options += [f"--kgdb-set={value}" for value in settings.set]
    options += [f"--kgdb-fragment={value}" for value in settings.fragment]
    options += [f"--kgdb-patch={value}" for value in settings.patch]
    return options
