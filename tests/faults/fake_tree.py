"""A kernel's source tree in small: one that `make` builds in a second, as kbuild would.

It knows the targets, the variables and the files that pytest-kgdb uses of kbuild, so that what goes
wrong around a build can be tried often. What kbuild itself does is tried in tests/kernel.
"""

from __future__ import annotations

from pathlib import Path

from pytest_kgdb.arch import X86_64

MAKEFILE = r"""
VERSION = 6
PATCHLEVEL = 1
SUBLEVEL = 99
EXTRAVERSION =

ifneq ($(O),)
# As kbuild does it: out of the tree, which must be clean.
.PHONY: $(MAKECMDGOALS) sub-make
$(MAKECMDGOALS): sub-make
	@:
sub-make:
	@if [ -f .config ] || [ -d include/config ]; then \
		echo '*** The source tree is not clean'; exit 1; fi
	@echo make $(MAKECMDGOALS) $(TOLD) >>$(O)/ran
	@$(MAKE) --no-print-directory -C $(O) -f $(CURDIR)/Makefile S=$(CURDIR) O= $(MAKECMDGOALS)
else
S ?= $(CURDIR)
CC ?= gcc
RELEASE = $(VERSION).$(PATCHLEVEL).$(SUBLEVEL)$(LOCALVERSION)

tinyconfig defconfig:
	@echo CONFIG_BASE=y >.config

olddefconfig:
	@sh $(S)/scripts/oldconfig.sh $(S)/Kconfig .config

vmlinux: init/main.o fs/open.o
	@echo '  LD      vmlinux'
	@gcc -static -nostdlib -Wl,--build-id=sha1 -Wl,-e,main -o $@ $^
	@mkdir -p include/config && echo $(RELEASE) >include/config/kernel.release
	@nm $@ >System.map
	@: >Module.symvers

init/main.o fs/open.o: %.o: $(S)/%.c $(S)/include/linux/kernel.h .config
	@mkdir -p $(@D)
	@echo '  CC      $@'
	@sh $(S)/scripts/slow.sh $@
	@gcc -ffreestanding -fno-stack-protector -I$(S)/include -c -o $@ $<
	@printf 'source_%s := %s\n\ndeps_%s := \\\n  %s \\\n' \
		$@ $< $@ $(S)/include/linux/kernel.h >$(@D)/.$(@F).cmd
	@echo $@ >>compiled

bzImage: vmlinux
	@mkdir -p arch/x86/boot
	@cp vmlinux arch/x86/boot/bzImage

modules: drivers/dummy.ko
	@echo drivers/dummy.o >modules.order
	@: >modules.builtin

drivers/dummy.ko: init/main.o
	@mkdir -p drivers
	@echo '  LD [M]  $@'
	@cp $< $@
endif
.DELETE_ON_ERROR:
"""

KCONFIG = """\
config KNOWN
\tbool "A symbol that can be set"

config NEEDS_NET
\tbool "One that cannot, here"
\tdepends on NET
"""

# Keeps the symbols that all kernels have here, and those that Kconfig says can be set.
OLDCONFIG = r"""
while read -r line; do
    name=$(echo "$line" | sed -n 's/^\(# \)\{0,1\}CONFIG_\([A-Z0-9_]*\).*/\2/p')
    case $name in
    NEEDS_NET | NOWHERE) ;;
    *) echo "$line" ;;
    esac
done <"$2" >"$2.new" && mv "$2.new" "$2"
"""

MAIN = "#include <linux/kernel.h>\nint open_count(void);\nint main(void) { return open_count(); }\n"
OPEN = "#include <linux/kernel.h>\nint open_count(void) { return COUNT; }\n"


def fake_tree(path: Path, *, modules: bool = False) -> Path:
    """Make a tree.

    :param modules: whether its kernels have modules.
    """
    files = {
        "Makefile": MAKEFILE,
        "Kconfig": KCONFIG,
        "Kbuild": "",
        "scripts/oldconfig.sh": OLDCONFIG
        + ("" if modules else "sed -i 's/^CONFIG_MODULES=y/# CONFIG_MODULES is not set/' \"$2\"\n"),
        "scripts/slow.sh": "",
        "include/linux/kernel.h": "#define COUNT 1\n",
        "init/main.c": MAIN,
        "fs/open.c": OPEN,
        "Documentation/index.rst": "text\n",
        "arch/x86/Kconfig": "",
        "arch/arm/Kconfig": "",
        ".gitignore": "*.o\n/vmlinux\n/include/config/\n/generated.h\n.*\n!.gitignore\n",
    }
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def built_in_place(path: Path, *, config: str = "") -> Path:
    """Leave in a tree, or in an empty directory, what a finished build leaves."""
    import subprocess

    objects = path
    (objects / X86_64.image).parent.mkdir(parents=True, exist_ok=True)
    (objects / "include/config").mkdir(parents=True, exist_ok=True)
    (objects / "include/config/kernel.release").write_text("6.1.99\n")
    (objects / ".config").write_text(config)
    source = objects / "x.c"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(
        [
            "gcc",
            "-static",
            "-nostdlib",
            "-Wl,--build-id=sha1",
            "-Wl,-e,main",
            "-o",
            "vmlinux",
            "x.c",
        ],
        cwd=objects,
        check=True,
    )
    source.unlink()
    (objects / X86_64.image).write_bytes(b"no bzImage, and so with no build id\n")
    return path
