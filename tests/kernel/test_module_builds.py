"""Modules that are built from more than their own directory, as plain `make M=$PWD` does."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb import Kgdb
from pytest_kgdb.errors import BuildError, ConfigError
from pytest_kgdb.kernel import Kernel

SOURCE = """\
#include <linux/module.h>
#include "answer.h"

int outer_answer = ANSWER;
static int __init outer_init(void)
{
	return 0;
}
static void __exit outer_exit(void)
{
}
module_init(outer_init);
module_exit(outer_exit);
MODULE_LICENSE("GPL");
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def snapshot(tree: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in tree.rglob("*") if file.is_file()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project: a driver, and beside it what it shares with others."""
    tree = tmp_path / "a project"  # kbuild itself takes no such name
    write(tree / "common/answer.h", "#define ANSWER 1\n")
    write(tree / "outer/outer.c", SOURCE)
    write(tree / "outer/Makefile", "obj-m := outer.o\n")
    return tree


def plain(tree: Path) -> Path:
    """Return the project under a name that Makefiles can write down."""
    return tree.rename(tree.with_name("project"))


def say(tree: Path, makefile: str) -> None:
    write(tree / "outer/Makefile", makefile)


class TestFilesOutside:
    @pytest.mark.parametrize(
        "how", ["PWD", "src", "absolute", "include", "link", "directory link", "makefile"]
    )
    def test_header(self, kgdb: Kgdb, tree: Path, how: str) -> None:
        tree = plain(tree)
        flags = {
            "PWD": "ccflags-y := -I$(PWD)/../common\n",
            "src": "ccflags-y := -I$(src)/../common\n",
            "absolute": f"ccflags-y := -I{tree}/common\n",
            "directory link": "ccflags-y := -I$(src)/inc\n",
            "makefile": "include $(src)/../common/flags.mk\n",
        }
        say(tree, "obj-m := outer.o\n" + flags.get(how, ""))
        if how == "include":
            write(tree / "outer/outer.c", SOURCE.replace('"answer', '"../common/answer'))
        elif how == "link":
            (tree / "outer/answer.h").symlink_to("../common/answer.h")
        elif how == "directory link":
            (tree / "outer/inc").symlink_to("../common")
        elif how == "makefile":
            write(tree / "outer/outer.c", SOURCE.replace('#include "answer.h"', ""))
            write(tree / "common/flags.mk", "ccflags-y := -DANSWER=1\n")
        kgdb.modules.load(tree / "outer").unload()
        before = snapshot(tree)
        for answer in (2, 1, 3):
            header = tree / "common/answer.h"
            header.write_text(f"#define ANSWER {answer}\n")
            if how == "makefile":
                write(tree / "common/flags.mk", f"ccflags-y := -DANSWER={answer}\n")
            module = kgdb.modules.load(tree / "outer")
            assert kgdb.evaluate("outer_answer") == answer
            module.unload()
        after = snapshot(tree)
        assert after.keys() == before.keys(), "something was written into the user's tree"

    def test_object(self, kgdb: Kgdb, tree: Path) -> None:
        """Its object is not built beside the user's file."""
        tree = plain(tree)
        makefile = "obj-m := outer.o\nouter-y := main.o ../common/part.o\n"
        say(tree, makefile + "ccflags-y := -I$(src)/../common\n")
        (tree / "outer/outer.c").rename(tree / "outer/main.c")
        write(tree / "common/part.c", "int outer_part = 5;\n")
        before = snapshot(tree)
        kgdb.modules.load(tree / "outer").unload()
        write(tree / "common/part.c", "int outer_part = 6;\n")
        kgdb.modules.load(tree / "outer")
        assert kgdb.evaluate("outer_part") == 6
        assert snapshot(tree).keys() == before.keys()

    def test_name_with_a_space(self, kgdb: Kgdb, kgdb_kernel: Kernel, tree: Path) -> None:
        write(tree / "outer/outer.c", SOURCE.replace('"answer', '"../common/answer'))
        kgdb.modules.load_stopped(tree / "outer")
        kgdb.breakpoint("outer_init")
        frame = kgdb.cont().frame
        # With ENDBR, which is of the brace's line, the function's first instruction is no return.
        line = 6 if kgdb_kernel.config.get("X86_KERNEL_IBT") == "y" else 7
        assert (frame.file, frame.line) == (str(tree / "outer/outer.c"), line)

    def test_error_names_the_users_file(self, kgdb: Kgdb, tree: Path) -> None:
        tree = plain(tree)
        say(tree, "obj-m := outer.o\nccflags-y := -I$(PWD)/../common\n")
        write(tree / "common/answer.h", "#define ANSWER nothing\n")
        with pytest.raises(BuildError) as caught:
            kgdb.modules.load(tree / "outer")
        assert f"{tree}/outer/../common/answer.h:1:16: error: 'nothing'" in str(caught.value)


class TestFailure:
    """A build that fails is not repeated for every test of a session, unless something changed."""

    @staticmethod
    def failure(kgdb: Kgdb, path: Path) -> tuple[str, int]:
        """Return the error of a build, and when make ran last."""
        with pytest.raises(BuildError) as caught:
            kgdb.modules.load(path)
        assert caught.value.log is not None
        return str(caught.value), caught.value.log.stat().st_mtime_ns

    def test_is_remembered_until_the_source_changes(self, kgdb: Kgdb, tree: Path) -> None:
        write(tree / "outer/answer.h", "#define ANSWER nothing\n")
        first = self.failure(kgdb, tree / "outer")
        assert "error: 'nothing'" in first[0]
        assert self.failure(kgdb, tree / "outer") == first
        write(tree / "outer/answer.h", "#define ANSWER nobody\n")
        second = self.failure(kgdb, tree / "outer")
        assert "error: 'nobody'" in second[0]
        assert second[1] > first[1]
        write(tree / "outer/answer.h", "#define ANSWER 3\n")
        kgdb.modules.load(tree / "outer")
        assert kgdb.evaluate("outer_answer") == 3

    @pytest.mark.parametrize("how", ["header", "object"])
    def test_until_a_file_outside_changes(self, kgdb: Kgdb, tree: Path, how: str) -> None:
        tree = plain(tree)
        makefile = "obj-m := outer.o\nccflags-y := -I$(src)/../common\n"
        file, good, bad = tree / "common/answer.h", "#define ANSWER 4\n", "#define ANSWER nothing\n"
        if how == "object":
            makefile += "outer-y := main.o ../common/part.o\n"
            (tree / "outer/outer.c").rename(tree / "outer/main.c")
            file, good, bad = tree / "common/part.c", "int part = 5;\n", "int part = nothing;\n"
        say(tree, makefile)
        write(file, bad)
        first = self.failure(kgdb, tree / "outer")
        assert self.failure(kgdb, tree / "outer") == first
        write(file, good)
        kgdb.modules.load(tree / "outer")

    @pytest.mark.slow
    def test_of_a_neighbour(self, kgdb: Kgdb, tree: Path) -> None:
        tree = plain(tree)
        write(tree / "base/base.c", "int base = nothing;\n")
        write(tree / "base/Makefile", "obj-m := base.o\n")
        say(tree, "obj-m := outer.o\nKBUILD_EXTRA_SYMBOLS := $(src)/../base/Module.symvers\n")
        write(tree / "outer/answer.h", "#define ANSWER 3\n")
        first = self.failure(kgdb, tree / "outer")
        assert f"{tree}/base/base.c:1:12: error: 'nothing'" in first[0]
        assert self.failure(kgdb, tree / "outer") == first
        write(tree / "base/base.c", SOURCE.replace('"answer', '"../outer/answer'))
        kgdb.modules.load(tree / "outer")


USER = """\
#include <linux/module.h>
#include <linux/moduleparam.h>
#include "base.h"
static int got;
module_param(got, int, 0444);
static int __init start(void)
{
	got = base_answer();
	return 0;
}
static void __exit stop(void)
{
}
module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
"""
BASE = """\
#include <linux/module.h>
#include "base.h"
int base_answer(void)
{
	return 42;
}
EXPORT_SYMBOL_GPL(base_answer);
MODULE_LICENSE("GPL");
"""


class TestNeighbours:
    @pytest.fixture
    def pair(self, tmp_path: Path) -> Path:
        write(tmp_path / "base/Makefile", "obj-m := base_of_two.o\n")
        write(tmp_path / "base/base_of_two.c", BASE)
        write(tmp_path / "base/base.h", "int base_answer(void);\n")
        write(
            tmp_path / "user/Makefile",
            "obj-m := user_of_two.o\nccflags-y := -I$(src)/../base\n"
            "KBUILD_EXTRA_SYMBOLS := $(src)/../base/Module.symvers\n",
        )
        write(tmp_path / "user/user_of_two.c", USER)
        return tmp_path

    def test_symbols_of_a_neighbour(self, kgdb: Kgdb, pair: Path) -> None:
        kgdb.modules.load(pair / "user")  # and what it needs
        assert {module.name for module in kgdb.modules} == {"base_of_two", "user_of_two"}
        assert kgdb.run("cat /sys/module/user_of_two/parameters/got").output == "42\n"

    @pytest.mark.slow
    def test_changed_neighbour(self, kgdb: Kgdb, pair: Path) -> None:
        kgdb.modules.known(pair / "user")
        write(pair / "base/base_of_two.c", BASE.replace("42", "43"))
        kgdb.modules.load(pair / "base")
        kgdb.modules.load(pair / "user")
        assert kgdb.run("cat /sys/module/user_of_two/parameters/got").output == "43\n"

    def test_under_one_makefile(self, kgdb: Kgdb, pair: Path) -> None:
        write(pair / "Makefile", "all:\n\tfor d in base user; do $(MAKE) -C $$d; done\n")
        kgdb.modules.load(pair / "user_of_two.ko")
        assert "base_of_two" in kgdb.modules
        with pytest.raises(ConfigError, match=r"base_of_two\.ko, user_of_two\.ko"):
            kgdb.modules.load(pair)

    def test_without_one(self, kgdb: Kgdb, pair: Path) -> None:
        with pytest.raises(ConfigError, match=r"has no Makefile; modules are built in base, user"):
            kgdb.modules.load(pair)


class TestMake:
    @pytest.mark.slow
    def test_variables(self, kgdb: Kgdb, tree: Path) -> None:
        tree = plain(tree)
        say(
            tree,
            "obj-m := outer.o\nccflags-y := -I$(src)/../common\n"
            "ifdef DEBUG\nccflags-y += -DANSWER=$(DEBUG)0\nendif\n",
        )
        write(tree / "common/answer.h", "#ifndef ANSWER\n#define ANSWER 1\n#endif\n")
        for make, answer in ((None, 1), ({"DEBUG": 7}, 70), ({"DEBUG": True}, 10), (None, 1)):
            module = kgdb.modules.load(tree / "outer", make)
            assert kgdb.evaluate("outer_answer") == answer
            module.unload()
        kcflags = {"KCFLAGS": "-DANSWER=5"}
        kgdb.modules.load_stopped(tree / "outer", kcflags)
        assert kgdb.evaluate("outer_answer") == 5
        kgdb.breakpoint("outer_init")
        assert kgdb.cont().frame.file == str(tree / "outer/outer.c")

    def test_variable_that_is_ours(self, kgdb: Kgdb, tree: Path) -> None:
        with pytest.raises(ConfigError, match="M is set by the build itself"):
            kgdb.modules.load(tree / "outer", {"M": "/tmp"})

    def test_module_that_is_built_no_more(self, kgdb: Kgdb, tree: Path) -> None:
        tree = plain(tree)
        flags = "ccflags-y := -I$(src)/../common\n"
        write(tree / "outer/other.c", SOURCE.replace("outer_answer", "other_answer"))
        say(tree, "obj-m := outer.o other.o\n" + flags)
        assert len(kgdb.modules.known(tree / "outer")) == 2
        say(tree, "obj-m := outer.o\n" + flags)
        assert [file.name for file in kgdb.modules.known(tree / "outer")] == ["outer.ko"]

    @pytest.mark.slow
    def test_symbol_of_what_the_kernel_lacks(self, kgdb: Kgdb, tree: Path) -> None:
        write(
            tree / "outer/outer.c",
            "#include <linux/module.h>\n#include <media/v4l2-device.h>\n"
            "static struct v4l2_device device;\n"
            "static int __init start(void)\n{\n\treturn v4l2_device_register(NULL, &device);\n}\n"
            'module_init(start);\nMODULE_LICENSE("GPL");\n',
        )
        with pytest.raises(BuildError) as caught:
            kgdb.modules.known(tree / "outer")
        text = str(caught.value)
        assert "v4l2_device_register is exported by drivers/media/v4l2-core/v4l2-device.c" in text
        assert "--kgdb-set=CONFIG_VIDEO_DEV=y" in text
