"""Debians that cannot be built, by an mmdebstrap of ours: a clear error, and nothing half-made."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pytest_kgdb.arch import X86_64
from pytest_kgdb.cache import Cache
from pytest_kgdb.disk import Disk, _debian, _root, _tree, prepare
from pytest_kgdb.disk._sources import Source
from pytest_kgdb.errors import BuildError, ConfigError
from pytest_kgdb.kernel import Kernel
from pytest_kgdb.kernel._config import Config
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import make_settings

SYMBOLS = """\
VIRTIO_PCI VIRTIO_BLK EXT4_FS DEVTMPFS DEVTMPFS_MOUNT CGROUPS INOTIFY_USER SIGNALFD TIMERFD EPOLL
UNIX SYSFS PROC_FS FHANDLE TMPFS SHMEM FILE_LOCKING MULTIUSER
"""
CONFIG = "".join(f"CONFIG_{name}=y\n" for name in SYMBOLS.split())

# The tree that it makes has what the image's script wants to find.
MMDEBSTRAP = r"""#!/bin/sh
set -eu
for target; do
	case $target in *.tar) break ;; esac
done
{before}
tree=$TMPDIR/fake
mkdir -p $tree/etc/systemd/system $tree/etc/sysctl.d $tree/etc/ssh $tree/etc/apt/apt.conf.d
mkdir -p $tree/usr/lib $tree/root $tree/usr/bin
ln -s usr/lib $tree/lib
echo "$*" > $tree/etc/arguments
head -c {size} /dev/urandom > $tree/usr/bin/weight
{after}
tar -C $tree -cf $target .
"""


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that comes first on the path."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def fake(programs: Path, before: str = "", after: str = "", size: int = 1000) -> None:
    script = MMDEBSTRAP.replace("{before}", before).replace("{after}", after)
    (programs / "mmdebstrap").write_text(script.replace("{size}", str(size)))
    (programs / "mmdebstrap").chmod(0o755)


def kernel_with(config: str, tmp_path: Path, modules: Path | None = None, key: str = "k") -> Kernel:
    path = tmp_path / f"config-{key}"
    path.write_text(config)
    return Kernel(
        spec="fake",
        arch=X86_64,
        release="6.1.0-fake",
        version=(6, 1, 0),
        vmlinux=tmp_path / "vmlinux",
        image=tmp_path / "bzImage",
        config=Config(path),
        build_id="",
        source=None,
        debug_source=None,
        build_dir=None,
        modules_dir=modules,
        headers=None,
        compiler="",
        key=key,
    )


def build(
    tmp_path: Path, *, config: str = CONFIG, kernel: Kernel | None = None, **more: object
) -> Disk:
    settings = make_settings(disk=more.pop("disk", "debian"), cache_dir=tmp_path / "cache", **more)
    cache = Cache(settings.cache_dir, progress=Silent())
    disk = prepare(settings, kernel or kernel_with(config, tmp_path), cache, Silent())
    assert disk is not None
    return disk


def entries(tmp_path: Path) -> list[str]:
    """What the cache holds and where something might be left, without its own records."""
    base = tmp_path / "cache/v1"
    paths = [*base.glob("disk/*"), *base.glob("debian/*"), *base.glob("tmp/*")]
    paths += [*base.glob("work/disk/*/scratch"), *base.glob("work/disk/*/*.raw")]
    return [str(path.relative_to(base)) for path in paths]


def inside(disk: Disk, command: str, tmp_path: Path) -> str:
    """What debugfs says of the image's file system."""
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(disk.path), str(raw)], check=True)
    path = os.environ["PATH"] + ":/sbin:/usr/sbin"
    program = shutil.which("debugfs", path=path)
    assert program is not None
    return subprocess.run(
        [program, "-R", command, str(raw)], check=True, capture_output=True, text=True
    ).stdout


def test_what_is_in_the_image(programs: Path, tmp_path: Path) -> None:
    fake(programs)
    disk = build(tmp_path, disk_package="vim,less")
    assert disk.kind == "debian"
    assert disk.packages == ("vim", "less")
    assert "--variant=apt" in inside(disk, "cat /etc/arguments", tmp_path)
    assert ",less,vim " in inside(disk, "cat /etc/arguments", tmp_path)
    assert "User:     0   Group:     0" in inside(disk, "stat /root/.ssh", tmp_path)
    assert "Mode:  0600" in inside(disk, "stat /etc/ssh/ssh_host_ed25519_key", tmp_path)
    assert "Mode:  0755" in inside(disk, "stat /usr/lib/pytest-kgdb/shell", tmp_path)
    assert disk.ssh_key is not None
    assert disk.ssh_key.stat().st_mode & 0o777 == 0o600
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(disk.ssh_key)], check=True, capture_output=True, text=True
    ).stdout.split()[:2]
    assert " ".join(public) in inside(disk, "cat /root/.ssh/authorized_keys", tmp_path)
    assert disk.ssh_host_key is not None
    assert disk.ssh_host_key in inside(disk, "cat /etc/ssh/ssh_host_ed25519_key.pub", tmp_path)


def test_the_same_recipe_needs_no_mmdebstrap(programs: Path, tmp_path: Path) -> None:
    fake(programs)
    first = build(tmp_path)
    (programs / "mmdebstrap").unlink()
    assert build(tmp_path).path == first.path


def test_an_image_made_anew_is_another_one(programs: Path, tmp_path: Path) -> None:
    """Its files lie elsewhere: no saved machine of the first may be woken up on it."""
    fake(programs)
    first = build(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    assert build(tmp_path).key != first.key
    assert build(tmp_path).key == build(tmp_path).key


def test_another_size_needs_no_network(programs: Path, tmp_path: Path) -> None:
    fake(programs)
    first = build(tmp_path)
    fake(programs, before="exit 1")
    second = build(tmp_path, disk_size="2G")
    assert second.path != first.path
    with pytest.raises(BuildError):
        build(tmp_path, disk_package="another")


def test_modules_are_put_into_it(programs: Path, tmp_path: Path) -> None:
    fake(programs)
    modules = tmp_path / "lib/modules/6.1.0-fake"
    modules.mkdir(parents=True)
    shutil.copy(sys.executable, modules / "dummy.ko")  # strip(1) wants an ELF file
    (modules / "build").symlink_to("/somewhere")
    with_modules = build(tmp_path, kernel=kernel_with(CONFIG, tmp_path, modules, "m"))
    listed = inside(with_modules, "ls /usr/lib/modules/6.1.0-fake", tmp_path)
    assert "dummy.ko" in listed
    assert "modules.dep" in listed
    assert "build" not in listed
    assert build(tmp_path).path != with_modules.path
    same = build(tmp_path, kernel=kernel_with(CONFIG, tmp_path, modules, "another kernel"))
    assert same.path == with_modules.path


def test_mmdebstrap_fails(programs: Path, tmp_path: Path) -> None:
    fake(programs, before="echo 'E: the moon is not full'; exit 25")
    with pytest.raises(BuildError, match="the moon is not full") as caught:
        build(tmp_path)
    assert caught.value.log is not None
    assert "the moon is not full" in caught.value.log.read_text()
    assert entries(tmp_path) == []


@pytest.mark.slow
def test_no_network_for_the_packages(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real mmdebstrap, and an archive that nobody serves; what was built goes on working."""
    release = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    nowhere = Source(("http://127.0.0.1:9/debian",), ("bookworm",), ("main",))
    monkeypatch.setattr(_debian, "configured", lambda: [nowhere])
    monkeypatch.setattr(_debian, "os_release", lambda: release)
    monkeypatch.setattr(_tree, "acquire_options", lambda: ['Acquire::http::Proxy "DIRECT";'])
    fake(programs)
    there = build(tmp_path)
    (programs / "mmdebstrap").unlink()
    kept = entries(tmp_path)
    with pytest.raises(BuildError, match="Debian bookworm could not be installed") as caught:
        build(tmp_path, disk_package="less")
    assert re.search(r"127\.0\.0\.1:9.*([Cc]ould not connect|refused)", caught.value.message)
    assert "the network is needed to build a disk" in str(caught.value.hint)
    assert "http://127.0.0.1:9/debian" in str(caught.value.hint)
    assert entries(tmp_path) == kept
    assert build(tmp_path).path == there.path


@pytest.mark.parametrize("program", ["mke2fs", "qemu-img"])
def test_no_room_on_the_host(programs: Path, tmp_path: Path, program: str) -> None:
    fake(programs)
    text = f"{program}: cannot write: No space left on device"
    (programs / program).write_text(f"#!/bin/sh\necho '{text}' >&2; exit 1\n")
    (programs / program).chmod(0o755)
    with pytest.raises(BuildError, match="No space left on device") as caught:
        build(tmp_path)
    assert caught.value.hint == "make room: pytest-kgdb cache prune"
    assert len(entries(tmp_path)) == 1  # the tree
    (programs / program).unlink()
    build(tmp_path)


def test_mmdebstrap_is_killed(programs: Path, tmp_path: Path) -> None:
    fake(programs, after="kill -KILL $$")
    with pytest.raises(BuildError, match="mmdebstrap was killed by SIGKILL"):
        build(tmp_path)
    assert entries(tmp_path) == []
    fake(programs)
    build(tmp_path)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_we_are_killed(how: signal.Signals, programs: Path, tmp_path: Path) -> None:
    fake(programs, after=f"echo $$ > {tmp_path}/pid; sleep 600")
    (tmp_path / "config").write_text(CONFIG)
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import signal, sys
            from pathlib import Path
            sys.path[:0] = {sys.path!r}
            signal.signal(signal.SIGINT, signal.default_int_handler)
            from test_disk_debian import build
            build(Path({str(tmp_path)!r}))
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_until((tmp_path / "pid").exists)
        process.send_signal(how)
        process.wait(30)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not alive(pid))
    assert not list((tmp_path / "cache/v1").glob("debian/*"))
    if how == signal.SIGINT:
        assert entries(tmp_path) == []
    fake(programs)
    disk = build(tmp_path)
    assert disk.path.exists()
    assert len(entries(tmp_path)) == 2


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until(true: object) -> None:
    deadline = time.monotonic() + 30
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_too_small_a_size(programs: Path, tmp_path: Path) -> None:
    fake(programs, size=8 << 20)
    with pytest.raises(ConfigError, match="disk_size: 20 MiB are too small a disk"):
        build(tmp_path, disk_size="20M")
    assert not list((tmp_path / "cache/v1").glob("disk/*"))


def test_too_small_a_size_by_a_hair(programs: Path, tmp_path: Path) -> None:
    """What we count is an estimate: mke2fs has the last word, and the message is the same."""
    fake(programs)
    (programs / "mke2fs").write_text(
        "#!/bin/sh\necho 'mke2fs: Could not allocate block in ext2 filesystem'; exit 1\n"
    )
    (programs / "mke2fs").chmod(0o755)
    with pytest.raises(ConfigError, match="MiB are too small a disk"):
        build(tmp_path, disk_size="72M")
    assert len(entries(tmp_path)) == 1  # the tree


def test_a_kernel_that_cannot_mount_it(tmp_path: Path) -> None:
    config = CONFIG.replace("CONFIG_EXT4_FS=y\n", "CONFIG_EXT4_FS=m\n")
    with pytest.raises(ConfigError, match="is built without CONFIG_EXT4_FS\n") as caught:
        build(tmp_path, config=config)
    assert caught.value.hint is not None
    assert "--kgdb-set=CONFIG_EXT4_FS=y" in caught.value.hint
    assert "--kgdb-initrd=initramfs-tools" in caught.value.hint


def test_a_kernel_that_systemd_does_not_run_on(tmp_path: Path) -> None:
    config = CONFIG.replace("CONFIG_CGROUPS=y\n", "").replace("CONFIG_EPOLL=y\n", "")
    with pytest.raises(ConfigError, match="is built without CONFIG_CGROUPS CONFIG_EPOLL"):
        build(tmp_path, config=config)


class TestWithoutRoot:
    @pytest.fixture(autouse=True)
    def somebody(self, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake(programs)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(_root, "_user", lambda: "somebody")
        _root.root.cache_clear()

    @pytest.fixture(autouse=True)
    def _as_before(self) -> object:
        yield
        _root.root.cache_clear()

    def test_without_the_tools(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        with pytest.raises(ConfigError, match="newuidmap is needed") as caught:
            build(tmp_path)
        assert caught.value.hint == "apt install uidmap"

    def test_without_a_range_of_ids(self, programs: Path, tmp_path: Path) -> None:
        (programs / "newuidmap").symlink_to("/bin/true")
        with pytest.raises(ConfigError, match="somebody has no range of ids") as caught:
            build(tmp_path)
        assert "usermod --add-subuids" in str(caught.value.hint)

    def test_where_namespaces_are_forbidden(
        self, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (programs / "newuidmap").symlink_to("/bin/true")
        (programs / "unshare").write_text("#!/bin/sh\necho 'unshare failed: not here'; exit 1\n")
        (programs / "unshare").chmod(0o755)
        monkeypatch.setattr(_root, "_has_range", lambda path, user: True)
        with pytest.raises(ConfigError, match="unshare failed: not here") as caught:
            build(tmp_path)
        assert "user namespaces must be allowed" in str(caught.value.hint)
