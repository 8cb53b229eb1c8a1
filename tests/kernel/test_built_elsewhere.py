"""A kernel that was built on another host: its source is not where the debug information says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kgdb import initrd
from pytest_kgdb.cache import Cache
from pytest_kgdb.errors import ConfigError, KgdbError
from pytest_kgdb.handle import Kgdb
from pytest_kgdb.kernel import Kernel, prepare
from pytest_kgdb.progress import Silent
from pytest_kgdb.session import Session
from pytest_kgdb.settings import Settings, from_pytest

OPEN = "do_sys_openat2"


def elsewhere(top: str) -> str:
    """Return a directory of the same length that is on no host."""
    return f"/home/ci/{'x' * (len(top) - len('/home/ci/'))}"


@pytest.fixture(scope="module")
def build_dir(tmp_path_factory: pytest.TempPathFactory, kgdb_kernel: Kernel) -> Path:
    """What is copied from the other host; `source` is a link that leads nowhere."""
    if kgdb_kernel.is_shipped or kgdb_kernel.debug_source is None:
        pytest.skip("a kernel as shipped is not taken for one that was built elsewhere")
    path = tmp_path_factory.mktemp("elsewhere") / "build"
    image = path / kgdb_kernel.arch.image
    image.parent.mkdir(parents=True)
    shutil.copyfile(kgdb_kernel.image, image)
    shutil.copyfile(kgdb_kernel.config, path / ".config")
    top = str(kgdb_kernel.debug_source)
    data = kgdb_kernel.vmlinux.read_bytes().replace(top.encode(), elsewhere(top).encode())
    (path / "vmlinux").write_bytes(data)
    (path / "include/config").mkdir(parents=True)
    (path / "include/config/kernel.release").write_text(f"{kgdb_kernel.release}\n")
    (path / "source").symlink_to(elsewhere(top))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, kgdb_kernel: Kernel) -> Path:
    """Where its source is now; each line says which it is."""
    top = tmp_path_factory.mktemp("source") / "linux"
    for directory in ("init", "fs"):
        (top / directory).mkdir(parents=True)
    version, patchlevel, sublevel = kgdb_kernel.version
    makefile = f"VERSION = {version}\nPATCHLEVEL = {patchlevel}\nSUBLEVEL = {sublevel}\n"
    (top / "Makefile").write_text(makefile)
    for name in ("Kconfig", "Kbuild", "init/main.c", "fs/open.c"):
        (top / name).write_text("".join(f"/* {name}:{line} */\n" for line in range(1, 2000)))
    return top


@pytest.fixture(scope="module")
def settings(pytestconfig: pytest.Config, build_dir: Path) -> Settings:
    return replace(
        from_pytest(pytestconfig),
        kernel=(str(build_dir),),
        initrd="busybox",
        disk="none",
        boot="kernel",
        config="minimal",
        fragment=(),
        set=(),
        patch=(),
        append="",
        memory=256,
        smp=1,
        origins={"source": "--kgdb-source"},
    )


@pytest.fixture(scope="module", params=["is not there", "is given"])
def kgdb(request: pytest.FixtureRequest, settings: Settings, source: Path) -> Iterator[Kgdb]:
    progress = Silent()
    cache = Cache(settings.cache_dir, progress=progress)
    given = source if request.param == "is given" else None
    settings = replace(settings, source=given)
    kernel = prepare(settings, settings.kernel[0], cache, progress)
    assert kernel.source == given
    ram = initrd.prepare(settings, kernel, [], cache, progress)
    with Session(settings, kernel, ram, None, cache=cache, progress=progress) as session:
        yield session.acquire(session.settings.for_marker({}, request.node.nodeid))
        session.release()


def test_names_and_lines(kgdb: Kgdb, request: pytest.FixtureRequest) -> None:
    kgdb.breakpoint(OPEN, temporary=True)
    kgdb.type("cat /proc/version")
    frame = kgdb.cont().frame
    assert frame.file == "fs/open.c"
    files = [one.file for one in kgdb.stop.backtrace() if one.file]
    assert len(files) > 2
    assert not [file for file in files if file.startswith("/")]
    if "is given" in request.node.name:
        assert f"/* fs/open.c:{frame.line} */" in frame.source()
        assert f"/* fs/open.c:{frame.line} */" in kgdb.execute(f"list {frame.line},{frame.line}")
    else:
        with pytest.raises(KgdbError, match="this kernel was built in /home/ci/x") as caught:
            frame.source()
        assert caught.value.hint == "--kgdb-source=DIR says where its source is now"


def use(settings: Settings, spec: str, source: Path) -> Kernel:
    cache = Cache(settings.cache_dir, progress=Silent())
    return prepare(replace(settings, source=source, kernel=(spec,)), spec, cache, Silent())


def test_the_source_of_another_version(settings: Settings, source: Path, tmp_path: Path) -> None:
    other = tmp_path / "linux"
    shutil.copytree(source, other)
    (other / "Makefile").write_text("VERSION = 4\nPATCHLEVEL = 19\nSUBLEVEL = 3\n")
    with pytest.raises(
        ConfigError, match=r"--kgdb-source: .*/linux is the source of 4\.19\.3, and"
    ):
        use(settings, settings.kernel[0], other)
    with pytest.raises(ConfigError, match="is not the top of a kernel's source"):
        use(settings, settings.kernel[0], tmp_path)


def test_a_kernel_whose_source_is_known(settings: Settings, source: Path) -> None:
    with pytest.raises(ConfigError, match=r"--kgdb-source is for a build directory or release:"):
        use(replace(settings, origins={"source": "--kgdb-source"}), str(source), source)
