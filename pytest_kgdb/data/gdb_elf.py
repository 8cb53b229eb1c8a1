"""Which source files have a static variable or function of a name, by the ELF file of vmlinux.

Written for Python 3.6 and gdb 12, as gdb_agent.py.
"""

import mmap
import pathlib
import struct

# elf.h: Elf64_Shdr, Elf64_Sym.
SECTION = struct.Struct("<IIQQQQII")
SYMBOL = struct.Struct("<IBBHQQ")
SHT_SYMTAB = 2
STB_LOCAL = 0
STT_OBJECT, STT_FUNC, STT_FILE = 1, 2, 4


def files_with(path, name):
    """The names of the source files, without directories, one for each static of a name."""
    with pathlib.Path(path).open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with data:
        symbols, strings = symbol_table(data)
    files = []
    for offset in offsets_of(strings, name.encode()):
        needle = struct.pack("<I", offset)
        at = symbols.find(needle)
        while at >= 0:
            if at % SYMBOL.size == 0:
                _, info, _, section, _, _ = SYMBOL.unpack_from(symbols, at)
                if info >> 4 == STB_LOCAL and info & 15 in (STT_OBJECT, STT_FUNC) and section:
                    files.append(file_of(symbols, strings, at))
            at = symbols.find(needle, at + 1)
    return [file for file in files if file]


def symbol_table(data):
    """The symbols, and the strings that hold their names."""
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    headers = [SECTION.unpack_from(data, offset + size * number) for number in range(count)]
    for _, kind, _, _, start, length, link, _ in headers:
        if kind == SHT_SYMTAB:
            _, _, _, _, names, names_length, _, _ = headers[link]
            return data[start : start + length], data[names : names + names_length]
    return b"", b""


def offsets_of(strings, name):
    """Where in the string table a name begins; it may be the end of a longer one."""
    at = strings.find(name + b"\0")
    while at >= 0:
        yield at
        at = strings.find(name + b"\0", at + 1)


def file_of(symbols, strings, at):
    """The file whose local symbols one is among: the linker puts the file's name before them."""
    while at > 0:
        at -= SYMBOL.size
        name, info, _, _, _, _ = SYMBOL.unpack_from(symbols, at)
        if info & 15 == STT_FILE:
            return strings[name : strings.find(b"\0", name)].decode(errors="replace")
    return ""
