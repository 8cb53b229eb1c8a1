"""A build's log, reduced to its first error."""

from __future__ import annotations

import pytest

from pytest_kgdb.kernel._diagnose import first_error, fix

NOISE = "".join(f"  CC      drivers/net/file{number}.o\n" for number in range(200))

COMPILER = """\
/src/fs/open.c: In function 'do_sys_open':
/src/fs/open.c:1337:9: error: 'foo' undeclared (first use in this function)
 1337 |         foo = 1;
      |         ^~~
/src/fs/open.c:1337:9: note: each undeclared identifier is reported only once
"""


def test_compiler_error_with_its_context() -> None:
    log = f"{NOISE}{COMPILER}  CC      fs/read_write.o\nmake[2]: *** [fs/open.o] Error 1\n"
    assert first_error(log) == COMPILER.rstrip("\n")


def test_an_error_of_the_assemblers() -> None:
    error = "/src/lib/it.S:13: Error: no such instruction: `frobnicate %rax'"
    lead = "/src/lib/it.S: Assembler messages:\n"
    log = f"{NOISE}{lead}{error}\nmake[2]: *** [lib/it.o] Error 1\n"
    assert first_error(log) == error


def test_the_first_of_many() -> None:
    second = COMPILER.replace("open", "other")
    log = f"{NOISE}{COMPILER}{second}make[2]: *** [x] Error 1\n"
    assert first_error(log) == COMPILER.rstrip("\n")


def test_chain_of_includes() -> None:
    chain = (
        "In file included from /src/include/linux/a.h:5,\n"
        "                 from /src/fs/open.c:3:\n"
        "/src/include/linux/b.h:7:1: error: unknown type name 'u99'\n"
    )
    assert first_error(f"{NOISE}{chain}make: *** [x] Error 2\n") == chain.rstrip("\n")


def test_warnings_before_it_do_not_count() -> None:
    warning = "/src/a.c:1:2: warning: unused variable 'error'\n    1 | int error: 5;\n"
    assert first_error(f"{warning}{NOISE}{COMPILER}") == COMPILER.rstrip("\n")


def test_a_long_complaint_is_cut() -> None:
    notes = "".join(f"/src/a.c:{number}:1: note: here\n" for number in range(100))
    assert len(first_error(f"/src/a.c:1:1: error: bad\n{notes}").splitlines()) <= 12


@pytest.mark.parametrize(
    "line",
    [
        "ld: fs/open.o: in function `do_sys_open':\nopen.c:(.text+0x5): undefined reference to `f'",
        'ERROR: modpost: "frobnicate" [drivers/x.ko] undefined!',
        "make[1]: *** No rule to make target 'fs/nothing.o', needed by 'fs/built-in.a'.  Stop.",
        "/bin/sh: 1: flex: not found",
        "error: Cannot find libelf",
    ],
)
def test_errors_of_others(line: str) -> None:
    log = f"{NOISE}{line}\nmake: *** [Makefile:1: all] Error 2\n"
    assert first_error(log).splitlines()[0] == line.splitlines()[0]


def test_nothing_known_shows_the_end() -> None:
    assert first_error(NOISE).splitlines()[-1] == "  CC      drivers/net/file199.o"
    assert first_error("") == ""


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("objtool/elf.h:10:10: fatal error: gelf.h: No such file or directory", "libelf-dev"),
        ("certs/x.c:1:10: fatal error: openssl/bio.h: No such file or directory", "libssl-dev"),
        ("/bin/sh: 1: bison: not found", "apt install bison"),
        ("/src/a.c:1:1: error: bad", None),
    ],
)
def test_fixes(line: str, hint: str | None) -> None:
    text = fix(line)
    assert text is None if hint is None else hint in str(text)


def test_what_a_program_says_before_make_gives_up() -> None:
    said = "  ../usr/gen_initramfs.sh: Cannot open '/none.list'"
    gives_up = "make[3]: *** [../usr/Makefile:75: usr/initramfs_data.cpio] Error 1"
    log = f"{NOISE}  GEN     usr/initramfs_data.cpio\n{said}\n{gives_up}\n"
    assert first_error(log) == f"{said}\n{gives_up}"
    log = f"{NOISE}  GEN     usr/initramfs_data.cpio\n{gives_up}\n"
    assert first_error(log) == gives_up


def test_a_kconfig_file_that_cannot_be_read() -> None:
    text = 'crypto/Kconfig:1396: can\'t open file "arch/arm/crypto/Kconfig"'
    warning = "drivers/Kconfig:3:warning: multi-line strings not supported"
    makes = "make[4]: *** [/src/scripts/kconfig/Makefile:77: allnoconfig] Error 1\n"
    assert first_error(f"  HOSTLD  scripts/kconfig/conf\n{warning}\n{text}\n{makes}") == text
