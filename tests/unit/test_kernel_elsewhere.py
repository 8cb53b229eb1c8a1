"""Where a kernel's source was when it was compiled, by its debug information."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_kgdb.kernel._elsewhere import compiled_in


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "linux"
    (tree / "init").mkdir(parents=True)
    (tree / "init/main.c").write_text("int start_kernel(void) { return 0; }\n")
    (tree / "init/version.c").write_text("int version;\n")
    return tree


def compiled(build_dir: Path, *names: str, dwarf: int) -> Path:
    """Compile and link as kbuild does: in the build directory."""
    build_dir.mkdir(exist_ok=True)
    objects = []
    for number, name in enumerate(names):
        objects.append(f"{number}.o")
        argv = ["gcc", f"-gdwarf-{dwarf}", "-c", "-o", objects[-1], name]
        subprocess.run(argv, cwd=build_dir, check=True)
    subprocess.run(["ld", "-e", "0", "-o", "vmlinux", *objects], cwd=build_dir, check=True)
    return build_dir / "vmlinux"


@pytest.mark.parametrize("dwarf", [4, 5])
@pytest.mark.parametrize(
    ("build_dir", "prefix"),
    [("linux", ""), ("linux/build", "../"), ("build", "{tree}/")],
    ids=["in place", "below", "beside"],
)
def test_where_it_was(tree: Path, build_dir: str, prefix: str, dwarf: int) -> None:
    names = [prefix.format(tree=tree) + name for name in ("init/version.c", "init/main.c")]
    vmlinux = compiled(tree.parent / build_dir, *names, dwarf=dwarf)
    assert compiled_in(vmlinux) == str(tree)


def test_names_without_a_place(tree: Path) -> None:
    """As of a kernel that is built reproducibly."""
    argv = ["gcc", "-g", f"-ffile-prefix-map={tree}=.", "-c", "-o", "vmlinux", "init/main.c"]
    subprocess.run(argv, cwd=tree, check=True)
    assert compiled_in(tree / "vmlinux") == ""


def test_no_debug_information(tree: Path) -> None:
    subprocess.run(["gcc", "-c", "-o", "vmlinux", "init/main.c"], cwd=tree, check=True)
    assert compiled_in(tree / "vmlinux") == ""
    (tree / "vmlinux").write_bytes(b"\x7fELF, or not")
    assert compiled_in(tree / "vmlinux") == ""
    assert compiled_in(tree / "missing") == ""
