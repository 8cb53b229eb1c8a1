"""The wheel and the sdist: built, and installed into an environment with what they declare."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pytest_kgdb import __version__
from pytest_kgdb.kernel import Kernel
from pytest_kgdb.settings import from_pytest

ROOT = Path(__file__).parents[2]
SECONDS = 900.0  # for what is downloaded

TEST = """
def test_the_error_of_a_missing_file(kgdb):
    kgdb.breakpoint("do_sys_openat2", temporary=True)
    kgdb.type("cat /no/such/file")
    assert kgdb.cont().task.comm == "cat"
    assert kgdb.finish().return_value == -2
    assert kgdb.program["init_task"].comm.string_() == b"swapper/0"
"""


def run(*argv: str | Path, cwd: Path) -> str:
    """Run a program, without what belongs to this environment, and return its output."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "COV_", "COVERAGE")) and name != "PYTHONPATH"
    }
    done = subprocess.run(
        list(map(str, argv)),
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def tracked(*below: str) -> set[str]:
    """The files of the project that git has, or that are new and not ignored."""
    words = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *below)
    names = run(*words, cwd=ROOT).split("\0")
    return {name for name in names if name and (ROOT / name).is_file()}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the sdist, and the wheel that is built from it."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", directory, ROOT, cwd=directory)
    return directory


@pytest.fixture(scope="session")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment that has the wheel, and what it declares."""
    programs = tmp_path_factory.mktemp("env") / "venv/bin"
    run(sys.executable, "-m", "venv", programs.parent, cwd=built)
    (wheel,) = built.glob("*.whl")
    run(programs / "python", "-m", "pip", "install", "-q", wheel, cwd=built)
    return programs


def test_the_wheel_has_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(f"pytest_kgdb-{__version__}.dist-info/METADATA").decode()
    assert names == tracked("pytest_kgdb")
    assert "\nLicense-Expression: MIT\n" in metadata


def test_the_sdist_has_what_the_tests_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names - {"PKG-INFO"} == tracked()


def test_the_command(installed: Path, tmp_path: Path) -> None:
    output = run(installed / "pytest-kgdb", "--version", cwd=tmp_path)
    assert output == f"pytest-kgdb {__version__}\n"
    assert "0 in all" in run(
        installed / "pytest-kgdb", "cache", "ls", f"--kgdb-cache-dir={tmp_path}", cwd=tmp_path
    )


def test_nothing_undeclared_is_imported(installed: Path, tmp_path: Path) -> None:
    """Each module of the package, except those for libraries of an extra."""
    script = """
import importlib, pkgutil, pytest_kgdb
names = [
    info.name
    for info in pkgutil.walk_packages(pytest_kgdb.__path__, "pytest_kgdb.")
    if not info.name.endswith("__main__")
]
assert len(names) > 200
for name in names:
    importlib.import_module(name)
"""
    run(installed / "python", "-c", script, cwd=tmp_path)


def test_a_test_on_a_kernel(
    installed: Path, tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel
) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    options = [
        f"--kgdb-kernel={kgdb_kernel.spec}",
        f"--kgdb-cache-dir={from_pytest(pytestconfig).cache_dir}",
        "--kgdb-require",
    ]
    output = run(installed / "pytest", "-p", "no:cacheprovider", *options, cwd=tmp_path)
    assert "1 passed" in output
