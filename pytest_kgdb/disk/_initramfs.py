"""An initramfs by mkinitramfs(8), which is run in the tree of the Debian disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from ..cache import Cache, Entry
from ..errors import BuildError, ConfigError
from ..kernel import Kernel
from ..process import CommandFailed, run, system_path
from ..progress import Progress
from ..settings import Settings
from ._debian import digest, guest_modules, modules_key, own_files, tree_of
from ._root import Root, root
from ._tree import TREE, scratch

IMAGE: Final = "initramfs"

_RECIPE: Final = "1"  # part of every key: to be increased when the same inputs give another one
_SECONDS: Final = 900.0
_SCRIPT: Final = "debian-initramfs.sh"


def initramfs_tools(
    settings: Settings,
    kernel: Kernel,
    modules: Sequence[Path],
    cache: Cache,
    progress: Progress,
) -> tuple[Path, str]:
    """Return the initramfs that mkinitramfs(8) makes for a kernel, built if need be, and its key.

    :param modules: external modules to include.
    :raises ConfigError: the disk is not a Debian that we build, or the kernel cannot unpack it.
    :raises BuildError: mkinitramfs failed.
    """
    if settings.disk.partition(":")[0] != "debian":
        raise ConfigError(
            f"{settings.origin('initrd')}: initramfs-tools runs in the tree of a Debian that is "
            f"built here, and the disk is {settings.disk}",
            hint="make it in the guest (update-initramfs -c -k RELEASE), get() it, and name the "
            "file: --kgdb-initrd=FILE",
        )
    missing = [name for name in ("BLK_DEV_INITRD", "RD_GZIP") if kernel.config.get(name) != "y"]
    if missing:
        raise ConfigError(
            f"{settings.origin('initrd')}: Linux {kernel.release} cannot unpack an initramfs, it "
            f"is built without {' '.join(f'CONFIG_{name}' for name in missing)}",
            hint="add them: " + " ".join(f"--kgdb-set=CONFIG_{name}=y" for name in missing),
        )
    tree = tree_of(settings, kernel.arch, cache, progress)
    script = resources.files("pytest_kgdb") / "data" / _SCRIPT
    own = digest(_RECIPE, script.read_text(), own_files())
    key = digest(own, tree.key, kernel.release, *modules_key(kernel, modules, cache))
    label = f"the initramfs of {kernel.release}"

    def build(target: Path) -> None:
        name = f"initramfs-{key[:24]}"
        with cache.lock(name, label=label), progress.stage(f"making {label}"):
            state_dir = cache.workdir("disk", name)
            _make(target / IMAGE, kernel, modules, tree, state_dir, root())

    about = {"kind": "initramfs-tools", "release": kernel.release}
    entry = cache.make("initramfs", key, build, label=label, about=about)
    return entry.path / IMAGE, key


def _make(
    image: Path, kernel: Kernel, modules: Sequence[Path], tree: Entry, state_dir: Path, root: Root
) -> None:
    extra, log = state_dir / "extra", state_dir / "initramfs.log"
    shutil.rmtree(extra, ignore_errors=True)
    log.unlink(missing_ok=True)
    try:
        # Also without modules: mkinitramfs needs the directory, and its indexes.
        (extra / "usr/lib/modules" / kernel.release).mkdir(parents=True)
        guest_modules(kernel, modules, extra, state_dir)
        (extra / "boot").mkdir()
        shutil.copyfile(kernel.config, extra / "boot" / f"config-{kernel.release}")
        environment = os.environ | {"PATH": system_path()}
        data = resources.files("pytest_kgdb") / "data"
        with scratch(state_dir, root) as work:
            argv = [*root.prefix, "sh", str(data / _SCRIPT), str(tree.path / TREE)]
            argv += [str(data / "debian"), str(extra), str(work), kernel.release, str(image)]
            run(argv, name="mkinitramfs", timeout=_SECONDS, env=environment, log=log)
    except CommandFailed as error:
        raise BuildError(
            f"the initramfs of {kernel.release} could not be made: {error.message}", log=error.log
        ) from error
    finally:
        shutil.rmtree(extra, ignore_errors=True)
