"""What kbuild does with what we ask of it: real trees, real configurations, real modules."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_kgdb import initrd
from pytest_kgdb.arch import X86_64
from pytest_kgdb.cache import Cache
from pytest_kgdb.elf import ElfFile
from pytest_kgdb.errors import BuildError, ConfigError, KgdbError
from pytest_kgdb.kernel import Kernel, _image, build_module, prepare
from pytest_kgdb.kernel._config import parse
from pytest_kgdb.kernel._fingerprint import _records, _walk
from pytest_kgdb.kernel._modules import vermagic
from pytest_kgdb.kernel._recipe import data
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import Settings, from_pytest

SOON = 300.0  # seconds; relinking the kernel takes a tenth of that on an idle machine


@pytest.fixture
def settings(pytestconfig: pytest.Config, kgdb_kernel: Kernel) -> Settings:
    """The run's settings; the kernel is there already, so that little is left to build."""
    if kgdb_kernel.headers is None:
        pytest.skip("this kernel was not built by pytest-kgdb: name a source, --kgdb-kernel=distro")
    return from_pytest(pytestconfig)


@pytest.fixture
def cache(settings: Settings) -> Iterator[Cache]:
    cache = Cache(settings.cache_dir, progress=Silent())
    yield cache
    cache.close()


@pytest.fixture
def objects(kgdb_kernel: Kernel) -> Path:
    """A directory that a kernel like ours was built in."""
    directories = [
        path.parent
        for path in worktree_files(kgdb_kernel, "src/kgdb-x86-minimal/vmlinux")
        if is_complete(path)
    ]
    assert directories, "the kernel was built elsewhere; TestPatched builds one here"
    return directories[0]


def is_complete(vmlinux: Path) -> bool:
    """Whether the image is that of vmlinux: a build that was interrupted leaves another one."""
    image = vmlinux.parent / X86_64.image
    return image.exists() and ElfFile(vmlinux).build_id == _image.image_build_id(image)


def worktree_files(kernel: Kernel, name: str) -> list[Path]:
    """Return the files of a name in all worktrees of the kernel's source."""
    assert kernel.debug_source is not None
    state_dir = kernel.debug_source.parent
    return sorted([*state_dir.glob(name), *state_dir.glob(f"[0-9]*/{name}")])


class TestKernel:
    def test_its_parts_belong_together(self, kgdb_kernel: Kernel) -> None:
        assert kgdb_kernel.build_id == ElfFile(kgdb_kernel.vmlinux).build_id
        assert kgdb_kernel.build_id == _image.image_build_id(kgdb_kernel.image)
        assert kgdb_kernel.release == _image.image_release(kgdb_kernel.image)
        assert kgdb_kernel.release.startswith("{}.{}.{}".format(*kgdb_kernel.version))

    def test_kgdbs_layout_is_what_gdb_says(self, kgdb, kgdb_kernel: Kernel) -> None:
        layout = kgdb_kernel.stop_layout
        assert layout is not None
        of_kgdb = layout.kgdb
        assert of_kgdb is not None
        structure = "((struct debuggerinfo_struct *)0)"
        for value, expression in (
            (of_kgdb.kgdb_active, "(unsigned long)&kgdb_active"),
            (of_kgdb.kgdb_info, "(unsigned long)&kgdb_info"),
            (of_kgdb.info_size, "sizeof(kgdb_info[0])"),
            (of_kgdb.debuggerinfo, f"(unsigned long)&{structure}->debuggerinfo"),
            (of_kgdb.task, f"(unsigned long)&{structure}->task"),
            (layout.task_mm, "(unsigned long)&((struct task_struct *)0)->mm"),
            (layout.task_pid, "(unsigned long)&((struct task_struct *)0)->pid"),
            (layout.task_comm, "(unsigned long)&((struct task_struct *)0)->comm"),
            (layout.mm_pgd, "(unsigned long)&((struct mm_struct *)0)->pgd"),
            (layout.console_rx, "(unsigned long)&serial8250_ports[0].port.icount.rx"),
            (layout.console_state, "(unsigned long)&serial8250_ports[0].port.state"),
            (layout.state_iflags, "(unsigned long)&((struct uart_state *)0)->port.iflags"),
            (layout.console_driver, "(unsigned long)&serial8250_ports[0].port.cons"),
            (layout.console_seq, "(unsigned long)&((struct console *)0)->seq"),
        ):
            assert int(kgdb.evaluate(expression)) == value

    def test_every_symbol_of_minimal_survived(
        self, settings: Settings, kgdb_kernel: Kernel
    ) -> None:
        assert settings.config == "minimal"
        for name, value in parse(data("minimal.config")).items():
            assert kgdb_kernel.config.get(name, "n") == value, name

    def test_nothing_changed_takes_no_time(self, settings: Settings, kgdb_kernel: Kernel) -> None:
        times = []
        for _ in range(3):
            with contextlib.closing(Cache(settings.cache_dir, progress=Silent())) as cache:
                begun = time.perf_counter()
                again = prepare(settings, kgdb_kernel.spec, cache, Silent())
                times.append(time.perf_counter() - begun)
            assert again == kgdb_kernel
        assert min(times) <= 0.3

    def test_what_is_read_of_a_tree_is_all_that_its_kconfig_needs(
        self, kgdb_kernel: Kernel
    ) -> None:
        assert kgdb_kernel.source is not None
        names = {name for name, _ in _records(_walk(kgdb_kernel.source, kgdb_kernel.arch))}
        assert len(names) > 30000
        for name in sorted(names):
            # kconfig's own tests have Kconfig files with a top of their own.
            if "/Kconfig" in f"/{name}" and not name.startswith("scripts/kconfig/tests/"):
                text = (kgdb_kernel.source / name).read_text(errors="replace")
                for source in re.findall(r'^\s*source\s+"([^"$]+)"', text, re.M):
                    assert source in names, f"{name} reads {source}"

    @pytest.mark.slow
    def test_lost_symbols_are_explained_by_the_trees_own_kconfig(
        self, settings: Settings, kgdb_kernel: Kernel, cache: Cache
    ) -> None:
        symbols = ("CONFIG_BTRFS_FS_POSIX_ACL=y", "CONFIG_NO_SUCH_THING=y", "CONFIG_SMP=y")
        requested = dataclasses.replace(settings, set=symbols)
        with pytest.raises(ConfigError) as caught:
            prepare(requested, kgdb_kernel.spec, cache, Silent())
        text = str(caught.value)
        assert "2 symbols did not survive olddefconfig" in text
        assert re.search(r"BTRFS_FS_POSIX_ACL=y .*depends on BTRFS_FS \(fs/btrfs/Kconfig:\d+", text)
        assert re.search(r"NO_SUCH_THING=y .*this kernel knows no such symbol", text)
        assert "CONFIG_SMP" not in text


HELLO = """\
// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>

static int count = 1;
module_param(count, int, 0444);

static int __init hello_init(void)
{
\tpr_info("hello %d\\n", count);
\treturn 0;
}
module_init(hello_init);

static void __exit hello_exit(void)
{
}
module_exit(hello_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A module of the tests");
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """The source of a module, like none before: built when it is asked for."""
    path = tmp_path / "hello"
    path.mkdir()
    (path / "Makefile").write_text("obj-m += hello.o\n")
    (path / "hello.c").write_text(HELLO)
    return path


class TestModule:
    def test_is_built_for_the_kernel_and_only_once(
        self, kgdb_kernel: Kernel, module: Path, cache: Cache
    ) -> None:
        before = sorted(module.rglob("*"))
        (built,) = build_module(kgdb_kernel, module, cache, Silent())
        assert vermagic(built) == kgdb_kernel.release
        assert sorted(module.rglob("*")) == before
        shown = subprocess.run(
            ["readelf", "--debug-dump=line", built], check=True, capture_output=True, text=True
        ).stdout
        assert str(module) in shown, "gdb would show our copy and not the user's file"
        assert build_module(kgdb_kernel, module, cache, Silent()) == [built]

    def test_error_is_in_the_users_file(
        self, kgdb_kernel: Kernel, module: Path, cache: Cache
    ) -> None:
        (module / "hello.c").write_text(HELLO.replace("return 0;", "return nothing;"))
        with pytest.raises(BuildError) as caught:
            build_module(kgdb_kernel, module, cache, Silent())
        assert f"{module}/hello.c:10:16: error: 'nothing' undeclared" in str(caught.value)
        (module / "hello.c").write_text(HELLO)
        assert build_module(kgdb_kernel, module, cache, Silent())

    def test_symbol_that_the_kernel_lacks(
        self, kgdb_kernel: Kernel, module: Path, cache: Cache
    ) -> None:
        source = HELLO.replace("static int count", "void absent(void);\nstatic int count")
        (module / "hello.c").write_text(source.replace("\tpr_info", "\tabsent();\n\tpr_info"))
        with pytest.raises(BuildError, match=r'"absent" \[.*hello\.ko\] undefined!'):
            build_module(kgdb_kernel, module, cache, Silent())

    def test_directory_without_a_makefile(
        self, kgdb_kernel: Kernel, module: Path, cache: Cache
    ) -> None:
        (module / "Makefile").unlink()
        with pytest.raises(ConfigError, match="no Makefile and no Kbuild"):
            build_module(kgdb_kernel, module, cache, Silent())

    def test_that_builds_nothing(self, kgdb_kernel: Kernel, module: Path, cache: Cache) -> None:
        (module / "Makefile").write_text("obj-y += hello.o\n")
        with pytest.raises(BuildError, match=r"there is no \.ko(?s:.*)obj-m"):
            build_module(kgdb_kernel, module, cache, Silent())

    def test_ready_made(self, kgdb_kernel: Kernel, module: Path, cache: Cache) -> None:
        (built,) = build_module(kgdb_kernel, module, cache, Silent())
        assert build_module(kgdb_kernel, built, cache, Silent()) == [built]
        other = dataclasses.replace(kgdb_kernel, release="6.0.0")
        with pytest.raises(ConfigError, match=rf"was built for {kgdb_kernel.release}, and this"):
            build_module(other, built, cache, Silent())


class TestInitrd:
    def test_same_inputs_same_bytes(
        self, settings: Settings, kgdb_kernel: Kernel, module: Path, cache: Cache, tmp_path: Path
    ) -> None:
        modules = build_module(kgdb_kernel, module, cache, Silent())
        initrds = []
        for name in ("one", "two"):
            elsewhere = Cache(tmp_path / name, progress=Silent())
            initrds.append(initrd.prepare(settings, kgdb_kernel, modules, elsewhere, Silent()))
        assert initrds[0].key == initrds[1].key
        assert initrds[0].path.read_bytes() == initrds[1].path.read_bytes()

    def test_cpio_finds_in_it_what_belongs_there(
        self, settings: Settings, kgdb_kernel: Kernel, module: Path, cache: Cache
    ) -> None:
        modules = build_module(kgdb_kernel, module, cache, Silent())
        prepared = initrd.prepare(settings, kgdb_kernel, modules, cache, Silent())
        with prepared.path.open("rb") as file:
            listing = subprocess.run(
                ["cpio", "-tv"], stdin=file, check=True, capture_output=True, text=True
            ).stdout
        assert re.search(r"^crw------- .* 5, *1 .* dev/console$", listing, re.M)
        assert re.search(r"^lrwx.* init -> /bin/busybox$", listing, re.M)
        top = f"lib/modules/{kgdb_kernel.release}"
        assert f" {top}/extra/hello.ko\n" in listing
        assert f" {top}/modules.dep\n" in listing

    def test_a_busybox_that_needs_libraries_is_refused(
        self,
        settings: Settings,
        kgdb_kernel: Kernel,
        cache: Cache,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(initrd, "_BUSYBOXES", ("/bin/true",))
        monkeypatch.setattr(shutil, "which", lambda _: None)
        with pytest.raises(
            ConfigError, match=r"true is not static(?s:.*)apt install busybox-static"
        ):
            initrd.prepare(settings, kgdb_kernel, [], cache, Silent())


LOG = "build-x86-minimal/make.log"

PATCH = """\
--- a/fs/open.c
+++ b/fs/open.c
@@ -1,3 +1,4 @@
 // SPDX-License-Identifier: GPL-2.0-only
+{line}
 /*
  *  linux/fs/open.c
"""

PREPARE = """
import signal
import sys
from pathlib import Path
from pytest_kgdb.cache import Cache
from pytest_kgdb.kernel import prepare
from pytest_kgdb.progress import Progress
from pytest_kgdb.settings import make_settings

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
spec, root, patch = sys.argv[1:]
progress = Progress(sys.stdout, live=False)
settings = make_settings(kernel=[spec], cache_dir=root, patch=[patch])
prepare(settings, settings.kernel[0], Cache(Path(root), progress=progress), progress)
"""


class TestPatched:
    """The user's change of one file, as a patch: no tree but ours is needed for it."""

    @pytest.fixture
    def patched(
        self, settings: Settings, kgdb_kernel: Kernel, tmp_path: Path
    ) -> Iterator[Callable[[str], Kernel]]:
        """Return the kernel with one line more; it is taken out of the cache afterwards."""
        cache = Cache(settings.cache_dir, progress=Silent())
        entries: set[Path] = set()

        def build(line: str) -> Kernel:
            path = tmp_path / "one.patch"
            path.write_text(PATCH.format(line=line))
            patched_settings = dataclasses.replace(settings, patch=(path,))
            kernel = prepare(patched_settings, kgdb_kernel.spec, cache, Silent())
            entries.add(kernel.vmlinux.parents[1])
            return dataclasses.replace(kernel, source_lock=None)

        yield build
        cache.close()
        for path in entries:
            shutil.rmtree(path)

    @pytest.mark.slow
    def test_only_that_file_is_compiled(
        self, patched: Callable[[str], Kernel], kgdb_kernel: Kernel
    ) -> None:
        mark = f"kgdb{os.getpid()}_{time.time_ns()}"
        line = f'const char {mark}[] = "changed";'
        kernel = patched(line)
        if len(compiled_by(kernel)) >= FEW:
            # All its objects were of something else: another configuration, another compiler.
            kernel = patched(f"{line} /* again */")
        compiled = compiled_by(kernel)
        assert "fs/open.o" in compiled
        # The version's stamp and the boot code's own copy of the symbols follow every link.
        assert len(compiled) < FEW, compiled
        assert mark.encode() in (kernel.vmlinux.parent / "System.map").read_bytes()
        assert kernel.build_id not in ("", kgdb_kernel.build_id)
        assert kernel.source is not None
        assert mark in (kernel.source / "fs/open.c").read_text()
        assert mark.encode() in kernel.sources.read("fs/open.c")
        with contextlib.suppress(KgdbError):  # in the same directory, without an archive
            assert mark.encode() not in kgdb_kernel.sources.read("fs/open.c")

    def test_compiler_error_is_shown_alone(self, patched: Callable[[str], Kernel]) -> None:
        with pytest.raises(BuildError) as caught:
            patched("int broken = this_is_nothing;")
        text = str(caught.value)
        assert re.search(r"fs/open\.c:2:14: error: 'this_is_nothing' undeclared", text)
        assert "    2 | int broken" in text
        assert len(text.splitlines()) < 12

    @pytest.mark.slow
    def test_ctrl_c_while_linking(
        self,
        settings: Settings,
        kgdb_kernel: Kernel,
        patched: Callable[[str], Kernel],
        tmp_path: Path,
    ) -> None:
        line = f"const char kgdb{os.getpid()}_{time.time_ns()}[] = {{1}};"
        path = tmp_path / "one.patch"
        path.write_text(PATCH.format(line=line))
        begun = time.time() - 0.1  # a file system's clock is a little behind
        others = processes_with(str(settings.cache_dir))  # such as gdb, which has source there
        process = subprocess.Popen(
            [sys.executable, "-c", PREPARE, kgdb_kernel.spec, settings.cache_dir, path],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + SOON
        while not (
            linking := [log for log in worktree_files(kgdb_kernel, LOG) if is_linking(log, begun)]
        ):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=SOON)
        assert "KeyboardInterrupt" in output
        assert processes_with(str(linking[0].parents[1] / "src")) <= others
        assert not linking[0].with_name("running").exists()
        kernel = patched(line)
        assert (
            kernel.build_id
            == ElfFile(kernel.vmlinux).build_id
            == _image.image_build_id(kernel.image)
        )


FEW = 10
"""More files than one that is changed has compiled again."""


def compiled_by(kernel: Kernel) -> list[str]:
    """Return the objects that the last build in a kernel's worktree compiled."""
    assert kernel.source is not None
    return re.findall(r"^  CC +(\S+)$", (kernel.source.parent / LOG).read_text(), re.M)


def is_linking(log: Path, begun: float) -> bool:
    """Whether a build since then has come to its last part, which takes a while."""
    with contextlib.suppress(OSError):
        text = log.read_text(errors="replace")
        return log.stat().st_mtime > begun and "  LD      vmlinux" in text
    return False


class TestBuildDirectory:
    def test_is_used_as_it_is_and_not_touched(
        self, settings: Settings, objects: Path, cache: Cache, module: Path
    ) -> None:
        before = {path: path.lstat().st_mtime_ns for path in objects.rglob("*")}
        kernel = prepare(settings, str(objects), cache, Silent())
        assert (kernel.vmlinux, kernel.build_dir) == (objects / "vmlinux", objects)
        assert kernel.build_id == ElfFile(objects / "vmlinux").build_id
        assert kernel.modules_dir is not None
        assert list(kernel.modules_dir.rglob("dummy.ko"))
        (built,) = build_module(kernel, module, cache, Silent())
        assert vermagic(built) == kernel.release
        assert {path: path.lstat().st_mtime_ns for path in objects.rglob("*")} == before


def processes_with(text: str) -> set[int]:
    """Processes with this in their command line."""
    pids = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text.encode() in path.read_bytes():
                pids.add(int(path.parent.name))
    return pids
