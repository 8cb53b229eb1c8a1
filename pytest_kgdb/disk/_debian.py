"""A Debian disk: an ext4 image of a tree, with a shell on the serial console."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from ..arch import Arch
from ..cache import Cache, Entry
from ..errors import BuildError, ConfigError
from ..host import os_release
from ..kernel import Kernel, collect_modules, file_hash
from ..process import CommandFailed, run, system_path, which
from ..progress import Progress
from ..settings import Settings
from . import _qcow2
from ._bootable import ROOT_MIB
from ._image import Disk
from ._root import Root, root
from ._sources import configured, debian
from ._tree import DPKG_OPTIONS, PACKAGES, TREE, bootstrap, scratch

IMAGE: Final = "disk.qcow2"
KEY: Final = "ssh_key"
HOST_KEY: Final = "ssh_host_key.pub"

# Part of the keys: to be increased when the same inputs give another tree, or another image.
_TREE_RECIPE: Final = "1"
_IMAGE_RECIPE: Final = "1"

_SECONDS: Final = 900.0
_ARCHITECTURES: Final = {"x86": "amd64"}

# Of ext4: the journal, the inodes (256 of every 16384 bytes), the tables; and free space to boot.
_OVERHEAD_MIB: Final = 48
_OVERHEAD: Final = 1.06
_FULL: Final = re.compile(r"Could not allocate|too big for filesystem|[Tt]oo small")

_BOOT_MOUNT: Final = "LABEL=boot /boot ext4 noatime 0 0\n"

# What mounting the root file system on a virtio disk needs, and what systemd needs (README of
# systemd, "REQUIREMENTS").
_TO_MOUNT: Final = ("VIRTIO_PCI", "VIRTIO_BLK", "EXT4_FS", "DEVTMPFS", "DEVTMPFS_MOUNT")
_FOR_SYSTEMD: Final = (
    *("CGROUPS", "INOTIFY_USER", "SIGNALFD", "TIMERFD", "EPOLL", "UNIX", "SYSFS", "PROC_FS"),
    *("FHANDLE", "TMPFS", "DEVTMPFS", "SHMEM", "FILE_LOCKING", "MULTIUSER"),
)


def prepare_debian(
    settings: Settings,
    kernel: Kernel,
    modules: Sequence[Path],
    cache: Cache,
    progress: Progress,
) -> Disk:
    """Return a Debian disk with a kernel's modules, built if need be.

    :param modules: external modules to include.
    :raises ConfigError: the kernel cannot boot it, or the host cannot build it.
    :raises BuildError: the build failed.
    """
    _check(settings, kernel)
    tree = tree_of(settings, kernel.arch, cache, progress)
    size = settings.disk_size
    _check_size(settings, tree)
    key = digest(
        _IMAGE_RECIPE,
        tree.key,
        own_files(),
        str(size),
        kernel.arch.console,
        settings.boot,
        # The modules, not the kernel: one that differs in its image only can use the same disk.
        *modules_key(kernel, modules, cache),
    )
    label = f"the disk image of Debian {tree.about['suite']}"

    def build(target: Path) -> None:
        name = f"disk-{key[:24]}"
        with cache.lock(name, label=label), progress.stage(f"making {label}"):
            state_dir = cache.workdir("disk", name)
            _Image(settings, kernel, modules, tree, state_dir, root()).make(target)

    about = {"suite": tree.about["suite"], "packages": tree.about["packages"], "size_mib": size}
    if kernel.modules_dir is not None or modules:
        about["modules"] = kernel.release
    entry = cache.make("disk", key, build, label=label, about=about)
    ssh_key = entry.path / KEY
    if ssh_key.stat().st_mode & 0o077:  # as after a download from a shared cache; ssh refuses it
        ssh_key.chmod(0o600)
    host_key = (entry.path / HOST_KEY).read_text().strip()
    return Disk(
        entry.path / IMAGE,
        # The host key differs between two builds of the same recipe: a machine that was saved with
        # one image must not be restored with the other.
        key=digest(key, host_key),
        kind="debian",
        packages=settings.disk_package,
        ssh_key=ssh_key,
        ssh_host_key=host_key,
    )


def tree_of(settings: Settings, arch: Arch, cache: Cache, progress: Progress) -> Entry:
    """Return the files of the Debian system that the settings name, installed if need be."""
    architecture = _ARCHITECTURES.get(arch.name)
    if architecture is None:
        raise ConfigError(f"{settings.origin('disk')}: there is no Debian here for {arch.name}")
    asked = settings.disk.partition(":")[2] or None
    suite, sources = debian(asked, configured(), os_release())
    packages = tuple(sorted(set(settings.disk_package)))
    # Without the URIs: mirrors have the same packages.
    suites = [f"{source.suites} {source.components}" for source in sources]
    key = digest(
        _TREE_RECIPE, suite, architecture, *PACKAGES, *DPKG_OPTIONS, *suites, "with", *packages
    )
    label = f"Debian {suite}"

    def build(target: Path) -> None:
        name = f"debian-{key[:24]}"
        with cache.lock(name, label=label):
            bootstrap(
                target,
                cache.workdir("disk", name),
                suite=suite,
                architecture=architecture,
                sources=sources,
                packages=packages,
                root=root(),
                progress=progress,
            )

    about = {"suite": suite, "packages": list(packages)}
    return cache.make("debian", key, build, label=label, about=about)


class _Image:
    """Builds one image."""

    def __init__(
        self,
        settings: Settings,
        kernel: Kernel,
        modules: Sequence[Path],
        tree: Entry,
        state_dir: Path,
        root: Root,
    ) -> None:
        self._settings = settings
        self._kernel = kernel
        self._modules = modules
        self._tree = tree
        self._state_dir = state_dir
        self._root = root

    def make(self, target: Path) -> None:
        """Write the image and its keys into an empty directory."""
        extra, raw = self._state_dir / "extra", self._state_dir / "disk.raw"
        shutil.rmtree(extra, ignore_errors=True)
        raw.unlink(missing_ok=True)
        try:
            self._put_extra(extra, target)
            with scratch(self._state_dir, self._root) as work:
                self._format(extra, work, raw)
            _qcow2.qemu_img(
                *("convert", "-f", "raw", "-O", "qcow2", raw, target / IMAGE), timeout=_SECONDS
            )
        except CommandFailed as error:
            full = "No space left" in error.output
            raise BuildError(
                f"the disk image could not be made: {error.message}",
                hint="make room: pytest-kgdb cache prune" if full else None,
                log=error.log,
            ) from error
        else:
            (target / IMAGE).chmod(0o444)
        finally:
            raw.unlink(missing_ok=True)
            shutil.rmtree(extra, ignore_errors=True)

    def _put_extra(self, extra: Path, target: Path) -> None:
        """Create the files that differ between images: keys, and the kernel's modules."""
        ssh = extra / "etc/ssh"
        ssh.mkdir(parents=True)
        _ssh_keygen(ssh / "ssh_host_ed25519_key", "debian")
        _ssh_keygen(target / KEY, "pytest-kgdb")
        key, kind = (target / f"{KEY}.pub"), (ssh / "ssh_host_ed25519_key.pub")
        (target / HOST_KEY).write_text(" ".join(kind.read_text().split()[:2]) + "\n")
        authorized = extra / "root/.ssh"
        authorized.mkdir(parents=True)
        shutil.copyfile(key, authorized / "authorized_keys")
        key.unlink()
        # Not empty: systemd would take every boot for the first one.
        identity = hashlib.sha256((target / HOST_KEY).read_bytes()).hexdigest()[:32]
        (extra / "etc/machine-id").write_text(identity + "\n")
        guest_modules(self._kernel, self._modules, extra, self._state_dir)
        if self._settings.boot == "disk":
            fstab = resources.files("pytest_kgdb") / "data/debian/etc/fstab"
            (extra / "etc/fstab").write_text(fstab.read_text() + _BOOT_MOUNT)

    def _format(self, extra: Path, work: Path, raw: Path) -> None:
        data = resources.files("pytest_kgdb") / "data"
        log = self._state_dir / "image.log"
        log.unlink(missing_ok=True)
        which("mke2fs", package="e2fsprogs", system=True)
        environment = os.environ | {"PATH": system_path()}
        argv = [*self._root.prefix, "sh", str(data / "debian-image.sh")]
        argv += [str(self._tree.path / TREE), str(data / "debian"), str(extra), str(work)]
        argv += [str(raw), str(self._settings.disk_size), self._kernel.arch.console]
        argv += [str(_start(self._settings))]
        try:
            run(argv, name="debian-image.sh", timeout=_SECONDS, env=environment, log=log)
        except CommandFailed as error:
            if _FULL.search(error.output):
                raise _too_small(self._settings, _needed(self._settings, self._tree)) from error
            raise


def needs_initramfs(settings: Settings, kernel: Kernel) -> bool:
    """Whether a kernel can mount a Debian disk only once modules are loaded.

    Of a shipped one, what it lacks cannot be built in: initramfs-tools is used where nobody has
    chosen an initrd.
    """
    if settings.disk.partition(":")[0] != "debian" or "initrd" in settings.origins:
        return False
    values = {name: kernel.config.get(name) for name in _TO_MOUNT}
    loadable = all(values[name] in ("m", "y") for name in _TO_MOUNT if name != "DEVTMPFS_MOUNT")
    return kernel.is_shipped and loadable and any(value != "y" for value in values.values())


def _check(settings: Settings, kernel: Kernel) -> None:
    """Refuse a kernel that cannot boot the disk."""
    needed = list(_FOR_SYSTEMD)
    initramfs = settings.initrd == "initramfs-tools" or needs_initramfs(settings, kernel)
    if not initramfs and "root=" not in settings.append:
        needed += _TO_MOUNT
        if settings.boot == "disk":
            needed.append("MSDOS_PARTITION")
    missing = [name for name in dict.fromkeys(needed) if kernel.config.get(name) != "y"]
    if not missing:
        return
    names = " ".join(f"CONFIG_{name}" for name in missing)
    hint = "add them: " + " ".join(f"--kgdb-set=CONFIG_{name}=y" for name in missing)
    if all(kernel.config.get(name) in ("m", "y") for name in missing):
        hint += "; or --kgdb-initrd=initramfs-tools, which loads modules before the disk is mounted"
    raise ConfigError(
        f"{settings.origin('disk')}: Linux {kernel.release} cannot boot a Debian, it is built "
        f"without {names}",
        hint=hint,
    )


def _check_size(settings: Settings, tree: Entry) -> None:
    if settings.disk_size < _needed(settings, tree):
        raise _too_small(settings, _needed(settings, tree))


def _needed(settings: Settings, tree: Entry) -> int:
    size = (tree.path / TREE).stat().st_size
    return _start(settings) + int(size / (1 << 20) * _OVERHEAD) + _OVERHEAD_MIB


def _start(settings: Settings) -> int:
    """Return where the root file system begins, in MiB; a boot partition comes before it."""
    return ROOT_MIB if settings.boot == "disk" else 0


def _too_small(settings: Settings, needed: int) -> ConfigError:
    return ConfigError(
        f"{settings.origin('disk_size')}: {settings.disk_size} MiB are too small a disk for this "
        f"Debian: it needs {needed} MiB at the least, and room for what the tests write",
        hint="leave --kgdb-disk-size at 4G: what is not written to takes no room on the host",
    )


def _ssh_keygen(path: Path, comment: str) -> None:
    program = which("ssh-keygen", package="openssh-client")
    argv = [program, "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    run(argv, name="ssh-keygen", timeout=60.0)


def own_files() -> str:
    """Return a hash of our data files that are in every image."""
    data = Path(str(resources.files("pytest_kgdb") / "data"))
    return digest(_content(data / "debian"), (data / "debian-image.sh").read_text())


def modules_key(kernel: Kernel, modules: Sequence[Path], cache: Cache) -> tuple[str, ...]:
    """Return what identifies a kernel's modules and external ones."""
    directory = kernel.guest_modules
    if directory is None and not modules:
        return ()
    key = [kernel.release]
    if directory is not None:
        key.append(cache.memo("modules", kernel.key, lambda: _content(directory)))
    return *key, *(f"{path.name} {file_hash(path, cache)}" for path in modules)


def guest_modules(kernel: Kernel, modules: Sequence[Path], extra: Path, state_dir: Path) -> None:
    """Put modules into a directory that is copied over the tree of a Debian system."""
    if kernel.modules_dir is None and not modules:
        return
    collected = state_dir / "modules"
    shutil.rmtree(collected, ignore_errors=True)
    collect_modules(kernel, modules, collected)
    # depmod uses lib/modules only, which may be a link in a Debian tree.
    top = extra / "usr/lib/modules"
    top.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(top / kernel.release, ignore_errors=True)
    (collected / "lib/modules" / kernel.release).rename(top / kernel.release)
    shutil.rmtree(collected, ignore_errors=True)


def _content(directory: Path) -> str:
    """Return a hash of the files in a directory and their names."""
    parts: list[str] = []
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            parts += [str(path.relative_to(directory)), content]
    return digest(*parts)


def digest(*parts: str) -> str:
    """Return a hash of a list of texts."""
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:40]
