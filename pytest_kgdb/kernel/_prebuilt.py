"""A kernel that the user built, which is checked and used as it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..arch import Arch, from_elf_machine
from ..cache import Cache
from ..elf import ElfFile
from ..errors import BuildError, ConfigError
from ._config import Config, missing, stub_for
from ._elsewhere import checked_source, compiled_in, source_files
from ._fingerprint import state_of
from ._image import image_build_id, image_release
from ._model import Kernel, numbers
from ._publish import has_modules, install_modules, read_release
from ._spec import is_source
from ._stop_layout import stop_layout


def use(
    spec: str,
    path: Path,
    arch: Arch,
    cache: Cache,
    *,
    stub: str,
    source: Path | None = None,
    origin: str = "",
) -> Kernel:
    """Return the kernel in a build directory, or in a tree that was built in place.

    :param stub: whose stub gdb is to be attached to; `kgdb` must be in the kernel.
    :param source: the directory that has its source now, where it was built elsewhere.
    :param origin: the option that says so.
    :raises ConfigError: its configuration lacks something, its files are of different builds, or
        the source is of another version.
    """
    config = Config(path / ".config")
    if lacking := missing(config.symbols, kgdb=stub_for(stub, config.symbols) == "kgdb"):
        names = "\n".join(f"  CONFIG_{name}=y ({purpose})" for name, purpose in lacking.items())
        hint = "set them in its .config and build it again"
        if is_source(path):
            hint += "; or add --kgdb-config=minimal, which builds another kernel from this source"
        raise ConfigError(f"the kernel in {path} was built without\n{names}", hint=hint)
    facts = _facts(path, arch, cache)
    _check_parts(path, arch, facts)
    release = facts["release"]
    if source is not None:
        checked_source(source, release, str(path), origin)
    places = [Path(facts[name]) for name in ("source", "compiled_in") if facts[name]]
    likely = next((place for place in places if is_source(place)), None)
    return Kernel(
        spec=spec,
        name=spec,
        arch=from_elf_machine(facts["machine"]),
        release=release,
        version=numbers(release),
        vmlinux=path / "vmlinux",
        image=path / arch.image,
        config=config,
        build_id=facts["build_id"],
        source=source or likely,
        debug_source=Path(facts["compiled_in"] or facts["source"]),
        build_dir=path,
        modules_dir=_modules_dir(path, facts, cache),
        headers=None,
        compiler=config.get("CONFIG_CC_VERSION_TEXT", ""),
        key=facts["key"],
        stop_layout=stop_layout(path / "vmlinux", facts["key"], cache),
        sources=source_files(
            source,
            likely,
            facts["compiled_in"],
            facts["source"],
            built=(path / "vmlinux").stat().st_mtime,
        ),
    )


def _facts(path: Path, arch: Arch, cache: Cache) -> dict[str, str]:
    """Return the facts about a kernel, which are cached until its files change."""
    files = [path / "vmlinux", path / arch.image, path / ".config", path / "modules.order"]
    signs = [str(path.resolve())]
    for file in files:
        if file.exists():
            status = file.stat()
            signs.append(f"{status.st_ino} {status.st_size} {status.st_mtime_ns}")

    def look() -> str:
        return json.dumps(_look(path, arch))

    loaded: dict[str, Any] = json.loads(cache.memo("prebuilt-2", "\n".join(signs), look))
    return loaded


def _look(path: Path, arch: Arch) -> dict[str, str]:
    vmlinux, image = path / "vmlinux", path / arch.image
    digest = hashlib.sha256()
    for file in (vmlinux, image, path / ".config"):
        digest.update(state_of(file).digest.encode())
    try:
        release = read_release(path)
    except BuildError:
        release = image_release(image)
    link = path / "source"
    with ElfFile(vmlinux) as elf:
        machine = elf.machine
        from_elf_machine(machine)  # the others are not read further
        build_id = elf.build_id
    return {
        "machine": machine,
        "build_id": build_id,
        "image_build_id": image_build_id(image),
        "image_release": image_release(image),
        "release": release,
        "compiled_in": compiled_in(vmlinux),
        "source": str(link.resolve() if link.is_symlink() else path),
        "key": digest.hexdigest(),
    }


def _check_parts(path: Path, arch: Arch, facts: dict[str, str]) -> None:
    """Refuse a vmlinux and an image of different builds: all addresses would be wrong."""
    image = path / arch.image
    for what, of_vmlinux, of_image in (
        ("build id", facts["build_id"], facts["image_build_id"]),
        ("release", facts["release"], facts["image_release"]),
    ):
        if of_vmlinux and of_image and of_vmlinux != of_image:
            raise ConfigError(
                f"vmlinux and {image.name} in {path} are of different builds: "
                f"the {what} of vmlinux is {of_vmlinux}, "
                f"that of {image.relative_to(path)} {of_image}",
                hint=f"build both: make -C {path} vmlinux {arch.image_target}",
            )


def _modules_dir(path: Path, facts: dict[str, str], cache: Cache) -> Path | None:
    if not has_modules(path):
        return None
    release = facts["release"]
    entry = cache.make(
        "modules",
        f"{facts['key'][:40]}-{_modules_sign(path)}",
        lambda target: _install(path, target, release),
        label=f"the modules of {path}",
        about={"kernel": str(path), "release": release},
    )
    return entry.path / "lib/modules" / release


def _install(path: Path, target: Path, release: str) -> None:
    install_modules(path, target, release)


def _modules_sign(path: Path) -> str:
    """Return a hash of the sizes and times of the modules in a build directory."""
    result = hashlib.sha256()
    for line in (path / "modules.order").read_text().splitlines():
        module = path / line.strip().removeprefix("kernel/").removesuffix(".o")
        for file in (module, module.with_suffix(".ko")):
            if file.suffix == ".ko" and file.exists():
                status = file.stat()
                result.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return result.hexdigest()[:16]
