"""Runs a command in a Debian 13, in a copy of this tree: `make test-trixie`.

    python tests/trixie/chroot.py DIR COMMAND...

The Debian is installed into DIR once, by mmdebstrap and from this host's mirrors; what the command
builds there stays. Root is not needed where the plugin's own Debian disk can be built without.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pytest_kgdb.disk import root
from pytest_kgdb.disk._sources import acquire_options, configured, debian
from pytest_kgdb.host import os_release

SUITE = "trixie"
TOP = Path(__file__).resolve().parents[2]
# What the Makefile's PACKAGES are on Debian 12, and what a host has anyway.
PACKAGES = (
    *("python3-venv", "git", "gcc", "make", "flex", "bison", "bc", "libelf-dev", "libssl-dev"),
    *("cpio", "kmod", "rsync", "xz-utils", "zstd", "ccache", "qemu-system-x86", "qemu-utils"),
    *("gdb", "busybox-static", "linux-source-6.12", "mmdebstrap", "e2fsprogs", "openssh-client"),
    *("uidmap", "grub-pc-bin", "ca-certificates", "procps", "patch", "perl"),
)
MOUNTS = """
set -eu
root=$1; shift
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind /etc/ssl "$root/etc/ssl"
exec chroot "$root" /bin/bash -c 'cd /src && exec "$@"' bash "$@"
"""


def install(target: Path) -> None:
    """Install the Debian into a directory, or leave none."""
    suite, sources = debian(SUITE, configured(), os_release())
    with tempfile.NamedTemporaryFile("w", suffix=".sources") as listing:
        listing.write("\n".join(source.text() for source in sources))
        listing.flush()
        argv = ["mmdebstrap", f"--mode={root().mode}", "--variant=apt", "--format=directory"]
        argv += [f"--include={','.join(PACKAGES)}"]
        argv += [f"--aptopt={option}" for option in acquire_options()]
        argv += [suite, str(target), *([listing.name] if sources else [])]
        subprocess.run(argv, check=True)


def remove(tree: Path) -> None:
    """Remove a directory whose files may be of other owners."""
    subprocess.run([*root().prefix, "rm", "-rf", "--one-file-system", str(tree)], check=True)


def copy_source(target: Path) -> None:
    """Make the source in the chroot what it is here: what git knows, and what is new."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=TOP, check=True, capture_output=True).stdout
    there = b"\0".join(name for name in names.split(b"\0") if (TOP / os.fsdecode(name)).is_file())
    remove(target)
    argv = [*root().prefix, "rsync", "-a", "--chown=0:0", "--from0", "--files-from=-"]
    subprocess.run([*argv, f"{TOP}/", f"{target}/"], input=there, check=True)


def main(directory: Path, command: list[str]) -> int:
    """Run the command, and return its status."""
    system, mark = directory / "root", directory / "packages"
    wanted = "\n".join(PACKAGES)
    if not mark.exists() or mark.read_text() != wanted:
        if system.exists():
            remove(system)
        directory.mkdir(parents=True, exist_ok=True)
        install(system)
        mark.write_text(wanted)
    copy_source(system / "src")
    shutil.copy("/etc/resolv.conf", directory / "resolv.conf")
    subprocess.run(
        [*root().prefix, "cp", str(directory / "resolv.conf"), str(system / "etc/resolv.conf")],
        check=True,
    )
    # Its processes end with the first one in their namespace.
    argv = [*root().prefix, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VIRTUAL_")}
    environment = kept | {
        "HOME": "/root",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "TMPDIR": "/tmp",
    }
    print(f"$ {shlex.join(command)}", flush=True)
    argv += ["sh", "-c", MOUNTS, "sh", str(system), *command]
    return subprocess.run(argv, env=environment, check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2:]))
