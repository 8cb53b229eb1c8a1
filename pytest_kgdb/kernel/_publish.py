"""From a finished build directory to the files of a cache entry."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from ..arch import Arch
from ..elf import ElfFile
from ..errors import BuildError
from ..process import run, which
from ._image import image_build_id
from ._model import FACTS, HEADERS
from ._stop_layout import FACT, StopLayout

_TAR_SECONDS: Final = 300.0
_DEPMOD_SECONDS: Final = 300.0
_NOT_PACKED: Final = (".o", ".a", ".cmd", ".d", ".ko", ".mod", ".order")


def publish(
    objects: Path, tree: Path, state_dir: Path, target: Path, arch: Arch, facts: dict[str, Any]
) -> None:
    """Copy the files of a build that a cache entry has.

    :param objects: the build directory.
    :param tree: the source.
    :param state_dir: the directory that has the headers package of the last build.
    :param target: an empty directory.
    :param facts: the caller's facts about the kernel; the release, the build id and the
        layout of what is read at a stop are added.
    :raises BuildError: the image that was built has another vmlinux in it.
    """
    for name in ("vmlinux", "System.map", ".config"):
        _copy(objects / name, target / name)
    _copy(objects / arch.image, target / Path(arch.image).name)
    for name in ("Module.symvers", "modules.builtin", "modules.builtin.modinfo"):
        if (objects / name).exists():
            _copy(objects / name, target / name)
    release = read_release(objects)
    if has_modules(objects):
        install_modules(objects, target, release)
    _copy(_pack_headers(objects, tree, state_dir, arch), target / HEADERS)
    with ElfFile(target / "vmlinux") as elf:
        written = facts | {"release": release, "build_id": elf.build_id}
    check_image(objects, arch, written["build_id"])
    layout = StopLayout.read(target / "vmlinux")
    written[FACT] = None if layout is None else layout.dump()
    (target / FACTS).write_text(json.dumps(written, indent=1))


def check_image(objects: Path, arch: Arch, build_id: str) -> None:
    """Check that an image has the vmlinux with that build id in it, as far as both can be read.

    A compiler cache that knows no .incbin gives an old one.

    :raises BuildError: it has another.
    """
    of_image = image_build_id(objects / arch.image)
    if build_id and of_image and build_id != of_image:
        raise BuildError(
            f"make built {arch.image} of another vmlinux in {objects}: the build id of vmlinux is "
            f"{build_id}, that of the image {of_image}",
            hint=f"remove {(objects / arch.image).parent / 'compressed'}; if a compiler cache is "
            "used, switch off its depend mode",
        )


def read_release(objects: Path) -> str:
    """Return the release of a build (`make kernelrelease`).

    :raises BuildError: it has none, so it is not finished.
    """
    for name in ("include/config/kernel.release", "include/generated/utsrelease.h"):
        try:
            text = (objects / name).read_text()
        except OSError:
            continue
        match = re.search(r'"([^"]+)"', text)
        if release := (match[1] if match else text.strip()):
            return release
    raise BuildError(f"{objects} has no kernel release: its build is not finished")


def has_modules(objects: Path) -> bool:
    """Whether a build has modules."""
    return any(path.exists() for path, _ in _modules(objects))


def install_modules(objects: Path, root: Path, release: str) -> Path:
    """Copy a build's modules to `lib/modules/RELEASE` below a directory, and index them.

    Unlike `make modules_install`, it writes nothing to the build directory.
    """
    top = root / "lib/modules" / release
    for path, name in _modules(objects):
        if path.exists():
            _copy(path, top / "kernel" / name)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (objects / name).exists():
            _copy(objects / name, top / name)
    depmod(root, release)
    return top


def depmod(root: Path, release: str) -> None:
    """Write the indexes that modprobe(8) reads, by depmod(8)."""
    program = which("depmod", package="kmod", system=True)
    run([program, "-b", str(root), release], name="depmod", timeout=_DEPMOD_SECONDS)


def _modules(objects: Path) -> Iterator[tuple[Path, str]]:
    """Yield the path of each module of a build, and its name in `kernel/`."""
    try:
        lines = (objects / "modules.order").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # Since 6.3 it lists objects; before 5.3 with a "kernel/" in front.
        name = re.sub(r"\.o$", ".ko", line.strip().removeprefix("kernel/"))
        if name:
            yield objects / name, name


def _pack_headers(objects: Path, tree: Path, state_dir: Path, arch: Arch) -> Path:
    """Pack the headers package, unless none of its files has changed; return its path."""
    packed, sign_file = state_dir / HEADERS, state_dir / "kit.sign"
    parts = {tree: sorted(_from_source(tree, arch)), objects: sorted(_from_build(objects, arch))}
    sign = _sign(parts)
    if packed.exists() and sign_file.exists() and sign_file.read_text() == sign:
        return packed
    sign_file.unlink(missing_ok=True)
    argv = [which("tar", package="tar"), "--create", f"--file={packed}"]
    argv += ["--use-compress-program=gzip -1", "--owner=0", "--group=0", "--numeric-owner"]
    for number, (root, names) in enumerate(parts.items()):
        listing = state_dir / f"kit.{number}"
        listing.write_bytes(b"".join(os.fsencode(name) + b"\0" for name in names))
        argv += ["-C", str(root), "--null", "--verbatim-files-from", f"--files-from={listing}"]
    run(argv, name="tar", timeout=_TAR_SECONDS)
    sign_file.write_text(sign)
    return packed


def _sign(parts: dict[Path, list[str]]) -> str:
    result = hashlib.sha256()
    for root, names in parts.items():
        for name in names:
            status = (root / name).lstat()
            sign: object = status.st_mtime_ns
            if name == "Module.symvers":  # rewritten by every make
                sign = hashlib.sha256((root / name).read_bytes()).hexdigest()
            result.update(f"{root / name} {status.st_size} {sign}\n".encode())
    return result.hexdigest()


def _from_source(tree: Path, arch: Arch) -> Iterator[str]:
    yield "Makefile"
    here = f"arch/{arch.name}"
    yield from _below(tree, ("scripts", "include", f"{here}/include"))
    for path in (tree / here).glob("Makefile*"):
        yield str(path.relative_to(tree))
    for path in (tree / here).rglob("Kbuild.platforms"):
        yield str(path.relative_to(tree))


def _from_build(objects: Path, arch: Arch) -> Iterator[str]:
    yield from (name for name in (".config", "Module.symvers") if (objects / name).exists())
    yield from _below(
        objects,
        ("scripts", "include/config", "include/generated", f"arch/{arch.name}/include/generated"),
    )
    if (objects / "tools/objtool/objtool").exists():
        yield "tools/objtool/objtool"


def _below(root: Path, tops: Iterable[str]) -> Iterator[str]:
    for top in tops:
        for directory, names, files in os.walk(root / top):
            here = os.path.relpath(directory, root)
            # Without links to directories (scripts/dtc/include-prefixes), which would dangle.
            for name in files:
                if not name.endswith(_NOT_PACKED) and name != ".gitignore":
                    yield f"{here}/{name}"
            names.sort()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
