"""The command: what it prints, how it ends, and that a mistake is no traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb import host
from pytest_kgdb.cache import Cache, EntryInfo
from pytest_kgdb.cli import _cache, _doctor, main
from pytest_kgdb.cli._cache_listing import GROUPS, listing
from pytest_kgdb.errors import BuildError, ConfigError
from pytest_kgdb.machine import _kvm
from pytest_kgdb.plugin._artifacts import Artifacts
from pytest_kgdb.progress import Silent
from pytest_kgdb.session._snapshot import KIND
from pytest_kgdb.settings import Settings, TestRequest

ROOT = Path(__file__).parents[2]


def run_command(*args: str, path: Path | None = None, **kwargs: Any) -> Any:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if path is not None:
        env["PATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-m", "pytest_kgdb.cli", *args],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **kwargs,
    )


# -- the line -------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from pytest_kgdb.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print("HEAVY", *{"rich", "drgn", "qemu", "pexpect", "pytest"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines()[-1] == "HEAVY"
    assert "doctor" in done.stdout


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["frobnicate"],
        ["build", "--kernel=x"],
        ["attach", "--at=init"],
        ["doctor", "--kgdb-smp=2"],
    ],
)
def test_a_wrong_line_is_an_error_with_the_usage(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: pytest-kgdb")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("pytest-kgdb 0.")


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["build"], "error: no kernel is named\nhint: --kgdb-kernel=SPEC: "),
        (["attach"], "error: no kernel is named\n"),
        (["build", "--kgdb-kernel=distro", "--kgdb-set=X"], "error: --kgdb-set: 'X' does not set"),
        (["attach", "--kgdb-kernel=a", "--kgdb-kernel=b"], "error: gdb can be on one kernel only"),
        (
            ["attach", "--kgdb-kernel=a", "--kgdb-smp=1", "--kgdb-smp=2"],
            "error: gdb can be on one kernel, with one number of CPUs, only: 1, 2",
        ),
    ],
)
def test_a_mistake_is_an_error_and_no_traceback(
    args: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(problem)
    assert printed.out == ""


# -- build and attach -----------------------------------------------------------------------------


@dataclass
class Artifact:
    spec: str = "distro:6.1"
    release: str = "6.1.192"
    build_id: str = "c0ffee"
    image: Path = Path("/cache/bzImage")
    vmlinux: Path = Path("/cache/vmlinux")
    config: Path = Path("/cache/config")
    modules_dir: Path | None = None
    path: Path = Path("/cache/initrd.cpio")


class Session:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.attached: BaseException | None = None

    def acquire(self, request: TestRequest) -> Session:
        self.calls.append(f"acquire {request.at} {request.smp}")
        return self  # the handle, too

    def breakpoint(self, location: str) -> None:
        self.calls.append(f"breakpoint {location}")

    def type(self, command: str) -> None:
        self.calls.append(f"type {command}")

    def describe(self) -> list[str]:
        return ["kernel 6.1.192 with TCG"]

    def commands(self) -> list[str]:
        return ["qemu-system-x86_64  -m 256M &"]

    def attach(self, *, commands: Sequence[str]) -> None:
        self.calls.append(f"attach {' '.join(commands)}")
        if self.attached is not None:
            raise self.attached

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session that `attach` boots, with artifacts that do not exist."""
    session_ = Session()

    def made(self: Artifacts, spec: str, config: str | None = None) -> Artifact:
        return Artifact(spec=spec, config=Path("/cache") / (config or "config"))

    monkeypatch.setattr(Artifacts, "kernel", made)
    monkeypatch.setattr(Artifacts, "initrd", lambda self, kernel: Artifact())
    monkeypatch.setattr(Artifacts, "disk", lambda self, kernel: None)
    monkeypatch.setattr(Artifacts, "session", lambda self, *parts: session_)
    return session_


def test_build_says_where_things_are(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--kgdb-kernel=distro:6.1", "--kgdb-kernel=distro:6.12"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "distro:6.1: Linux 6.1.192",
        "  image    /cache/bzImage",
        "  vmlinux  /cache/vmlinux",
        "  config   /cache/config",
        "  initrd   /cache/initrd.cpio",
        "distro:6.12: Linux 6.1.192",
        "  image    /cache/bzImage",
        "  vmlinux  /cache/vmlinux",
        "  config   /cache/config",
        "  initrd   /cache/initrd.cpio",
    ]
    assert session.calls == []


def test_build_builds_each_configuration(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--kgdb-config=minimal", "--kgdb-config=defconfig", "--json"]
    assert main(["build", "--kgdb-kernel=a", "--kgdb-kernel=b", *words]) == 0
    built = [(one["spec"][-1], one["config"]) for one in json.loads(capsys.readouterr().out)]
    assert built == [
        (spec, f"/cache/{config}") for spec in "ab" for config in ("minimal", "defconfig")
    ]


def test_build_says_it_in_json(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--kgdb-kernel=distro:6.1", "--json"]) == 0
    (artifact,) = json.loads(capsys.readouterr().out)
    assert artifact["spec"] == "distro:6.1"
    assert artifact["image"] == "/cache/bzImage"
    assert artifact["disk"] is None


def test_a_build_that_fails(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def kernel(self: Artifacts, spec: str, config: str | None) -> Artifact:
        raise BuildError("the compiler found an error", log="/tmp/build.log")

    monkeypatch.setattr(Artifacts, "kernel", kernel)
    assert main(["build", "--kgdb-kernel=distro"]) == 2
    assert capsys.readouterr().err == ("error: the compiler found an error\nlog: /tmp/build.log\n")


def test_attach(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attach", "--kgdb-kernel=distro", "--at=kgdbwait", "--kgdb-smp=2"]) == 0
    assert session.calls == ["acquire kgdbwait 2", "attach frame", "close"]
    assert "kernel 6.1.192 with TCG" in capsys.readouterr().err
    assert main(["attach", "--kgdb-kernel=distro", "--kgdb-print-commands"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "pytest-kgdb: kernel 6.1.192 with TCG",
        "qemu-system-x86_64  -m 256M &",
    ]


def test_attach_at_breakpoints(session: Session) -> None:
    words = ["--break=vfs_read", "--break", "fs/open.c:1310", "--run=cat /proc/version"]
    assert main(["attach", "--kgdb-kernel=distro", *words]) == 0
    assert session.calls[1:] == [
        "breakpoint vfs_read", "breakpoint fs/open.c:1310", "type cat /proc/version",
        "attach continue", "close",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "option", ["--kgdb-smp=2", "--kgdb-memory=1G", "--kgdb-trust-scripts", "--at=kgdbwait"]
)
def test_a_saved_machine_is_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["attach", str(tmp_path / "m.kgdb"), option]) == 2
    assert f"{option.partition('=')[0]}: the machine in {tmp_path}/m.kgdb is as it was saved" in (
        capsys.readouterr().err
    )


def test_ctrl_c_closes_the_session(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.attached = KeyboardInterrupt()
    assert main(["attach", "--kgdb-kernel=distro"]) == 130
    assert session.calls[-1] == "close"
    assert capsys.readouterr().err.endswith("interrupted\n")


# -- doctor ---------------------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory to be the only one in which programs are looked for."""
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


def put(directory: Path, name: str, script: str = "exit 0") -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def examine(
    monkeypatch: pytest.MonkeyPatch, programs: Path, settings: Settings | None = None
) -> dict[str, _doctor.Finding]:
    from pytest_kgdb.settings import make_settings

    monkeypatch.setattr(_doctor, "system_path", lambda: str(programs))
    monkeypatch.setenv("PATH", str(programs))
    settings = settings or make_settings(cache_dir=programs.parent)
    return {finding.name: finding for finding in _doctor.examine(settings)}


def test_a_bare_host_lacks_everything_and_the_fix_is_to_install_it(
    monkeypatch: pytest.MonkeyPatch, programs: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(_doctor, "USR_SRC", programs)
    findings = examine(monkeypatch, programs)
    fixes = {name: finding.fix for name, finding in findings.items() if finding.state == "missing"}
    assert fixes == {
        "make": "sudo apt-get install make",
        "gcc": "sudo apt-get install gcc",
        "ld": "sudo apt-get install binutils",
        "flex": "sudo apt-get install flex",
        "bison": "sudo apt-get install bison",
        "bc": "sudo apt-get install bc",
        "perl": "sudo apt-get install perl",
        "tar": "sudo apt-get install tar",
        "xz": "sudo apt-get install xz-utils",
        "busybox": "sudo apt-get install busybox-static",
        "QEMU": "sudo apt-get install qemu-system-x86",
        "qemu-img": "sudo apt-get install qemu-utils",
        "gdb": "sudo apt-get install gdb",
    }
    assert findings["kernel sources"].state == "without"
    assert findings["shipped kernels"].fix == "sudo apt-get install apt"
    assert findings["mmdebstrap"].detail == "no --kgdb-disk=debian"
    assert findings["ssh-keygen"].fix == "sudo apt-get install openssh-client"
    assert findings["user namespaces"].fix == "sudo apt-get install uidmap"


def test_the_packages_of_another_distribution(
    monkeypatch: pytest.MonkeyPatch, programs: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(_doctor, "USR_SRC", programs)
    (programs.parent / "etc").mkdir()
    (programs.parent / "etc/os-release").write_text("ID=opensuse-tumbleweed\n")
    monkeypatch.setattr(host, "ROOT", programs.parent)
    findings = examine(monkeypatch, programs)
    assert findings["QEMU"].fix == "sudo zypper install qemu-x86"
    assert findings["mmdebstrap"].fix == "install what Debian calls mmdebstrap"
    assert findings["kernel sources"].fix == ""
    assert not any("apt" in finding.fix for finding in findings.values())


def test_kernels_that_need_no_build(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    monkeypatch.setattr(_doctor, "ROOT", programs)
    assert examine(monkeypatch, programs)["installed kernels"].state == "without"
    for name in ("apt-get", "apt-cache", "dpkg-deb"):
        assert examine(monkeypatch, programs)["shipped kernels"].state == "without"
        put(programs, name)
    for place in ("boot/vmlinuz-6.1.0-9-amd64", "lib/modules/6.8.9-300.fc40.x86_64/vmlinuz"):
        (programs / place).parent.mkdir(parents=True)
        (programs / place).touch()
    findings = examine(monkeypatch, programs)
    assert findings["shipped kernels"].state == "ok"
    assert findings["installed kernels"].detail.startswith("6.1.0-9-amd64, 6.8.9-300.fc40.x86_64 (")


def test_a_disk_without_root(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    assert examine(monkeypatch, programs)["user namespaces"].state == (
        "ok" if os.geteuid() == 0 else "without"
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    put(programs, "newuidmap")
    monkeypatch.setattr(_doctor, "root", lambda: None)
    assert examine(monkeypatch, programs)["user namespaces"].state == "ok"

    def refuse() -> None:
        raise ConfigError("a Debian cannot be built without root: no ids", hint="usermod …")

    monkeypatch.setattr(_doctor, "root", refuse)
    finding = examine(monkeypatch, programs)["user namespaces"]
    assert (finding.state, finding.fix) == ("without", "usermod …")
    assert "no ids" in finding.detail


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'GNU gdb (Debian 10.1-1.7) 10.1.90'; echo pyok", "10.1 (*) is older than 12"),
        ("echo 'GNU gdb (GDB) 13.2'", "13.2 (*) was built without Python"),
        ("exit 127", "* does not start"),
    ],
)
def test_a_gdb_that_will_not_do(
    monkeypatch: pytest.MonkeyPatch, programs: Path, script: str, problem: str
) -> None:
    put(programs, "gdb", script)
    finding = examine(monkeypatch, programs)["gdb"]
    assert finding.state == "missing"
    assert finding.detail.replace(str(programs / "gdb"), "*") == problem
    assert finding.fix


def test_a_gdb_that_will_do(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    put(programs, "gdb", "echo 'GNU gdb (GDB; openSUSE) 13.2'; echo pyok")
    assert examine(monkeypatch, programs)["gdb"].state == "ok"


def test_a_qemu_that_does_not_start(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    put(programs, "qemu-system-x86_64", "echo 'error while loading shared libraries' >&2; exit 127")
    finding = examine(monkeypatch, programs)["QEMU"]
    assert (finding.state, "does not start" in finding.detail) == ("missing", True)


def test_a_busybox_with_libraries(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    (programs / "busybox").write_bytes(b"\x7fELF....\0/lib64/ld-linux-x86-64.so.2\0")
    (programs / "busybox").chmod(0o755)
    finding = examine(monkeypatch, programs)["busybox"]
    assert (finding.state, "linked to libraries" in finding.detail) == ("missing", True)


@pytest.mark.parametrize(
    ("script", "state", "detail"),
    [
        ("exit 33", "ok", "runs a guest"),
        ("echo 'error: failed to set MSR 0x10a' >&2; exit 134", "without", "failed to set MSR"),
        ("exit 1", "without", "QEMU ended with status 1"),
        ("exec sleep 60", "without", "64 million instructions take more than 0 s"),
    ],
)
def test_kvm_is_proved_by_a_guest(
    monkeypatch: pytest.MonkeyPatch, programs: Path, script: str, state: str, detail: str
) -> None:
    device = programs / "kvm"
    device.touch()
    monkeypatch.setattr(_doctor, "KVM", device)
    monkeypatch.setattr(_kvm, "_SECONDS", 0.3)
    put(
        programs,
        "qemu-system-x86_64",
        f"case $* in *accel=kvm*) PATH=/usr/bin:/bin; {script};; esac",
    )
    finding = examine(monkeypatch, programs)["KVM"]
    assert finding.state == state
    assert detail in finding.detail


def test_a_host_without_kvm(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    monkeypatch.setattr(_doctor, "KVM", programs / "absent")
    finding = examine(monkeypatch, programs)["KVM"]
    assert (finding.state, "TCG" in finding.detail) == ("without", True)


def test_little_memory_and_room(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    monkeypatch.setattr(_doctor, "MEMORY_MIB", 1 << 30)
    monkeypatch.setattr(_doctor, "BUILD_MIB", 1 << 40)
    findings = examine(monkeypatch, programs)
    assert findings["memory"].state == findings["cache"].state == "missing"
    assert "pytest-kgdb cache prune" in findings["cache"].fix


def test_a_cache_that_does_not_exist_yet(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    from pytest_kgdb.settings import make_settings

    monkeypatch.setattr(_doctor, "BUILD_MIB", 1)
    settings = make_settings(cache_dir=programs / "not" / "yet")
    assert examine(monkeypatch, programs, settings)["cache"].state == "ok"
    assert not (programs / "not").exists()


def test_the_status_tells_whether_something_is_missing(programs: Path) -> None:
    done = run_command("doctor", path=programs)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("MISSING  gdb") for line in lines)
    assert lines[-1].endswith("QEMU, qemu-img, gdb")
    assert done.stderr == ""
    assert "\x1b" not in done.stdout


def test_a_table_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _doctor.show(
        [
            _doctor.Finding("gdb", "missing", "not installed", "apt-get install gdb"),
            _doctor.Finding("[bold]odd", "ok", "[red]/path[/red]"),
        ]
    )
    printed = capsys.readouterr().out
    assert "apt-get install gdb" in printed
    assert "[red]/path[/red]" in printed  # no markup: a path may look like it
    assert printed.endswith("1 of these are needed and missing: gdb\n")


def test_a_reader_that_went_away_is_no_traceback() -> None:
    command = f"{sys.executable} -m pytest_kgdb.cli doctor | true"
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""


# -- cache ----------------------------------------------------------------------------------------


FILL = """
import os, sys
from pathlib import Path
from pytest_kgdb.cache import Cache
from pytest_kgdb.progress import Silent
cache = Cache(Path(sys.argv[1]), progress=Silent())
for key, size in (("a" * 40, 3000), ("b" * 40, 2000)):
    cache.make(
        "kernel",
        key,
        lambda files: (files / "vmlinux").write_bytes(os.urandom(size)) and None,
        label="a kernel",
        about={"spec": f"distro:{key[0]}"},
    )
"""


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A cache with two entries, which nobody uses: who made them has ended."""
    root = tmp_path / "cache"
    subprocess.run([sys.executable, "-c", FILL, str(root)], cwd=ROOT, check=True)
    os.utime(next((root / "v1/kernel" / ("a" * 40)).glob("use*")), (1, 1))
    return root


def cache_command(root: Path, *args: str) -> Any:
    return run_command("cache", *args, f"--kgdb-cache-dir={root}")


def test_cache_ls(filled: Path) -> None:
    done = cache_command(filled, "ls")
    assert done.returncode == 0
    head, first, second, summary = done.stdout.splitlines()
    assert head == "kernels: 2, 8 kB"
    assert re.fullmatch(r"  distro:b  +\d kB  .* ago +b{12}", first)
    assert re.fullmatch(r"  distro:a  +\d kB  .* ago +a{12}", second)
    assert re.fullmatch(r"2 in all \(2 kernels\), 0 in use: 8 kB of at most .* GB", summary)
    entries = json.loads(cache_command(filled, "ls", "--json").stdout)
    assert [entry["about"] for entry in entries] == [{"spec": "distro:b"}, {"spec": "distro:a"}]


def item(kind: str, key: str = "c" * 40, **about: Any) -> EntryInfo:
    state: Any = about.pop("state", "entry")
    kept = "in use by process 7 (pytest)" if about.pop("in_use", False) else "it fits"
    path = Path("/cache") / key
    return EntryInfo(state, kind, key, about, 5_000_000, 1.0, path, "7" in kept, kept)


def test_cache_ls_has_groups_and_what_users_call_it() -> None:
    options: dict[str, Any] = {"fragment": ["k.config"], "set": ["CONFIG_X=y"], "make": ["LLVM=1"]}
    lines = listing(
        [
            item("snapshot", release="6.1.192", kernel="distro:6.1", smp=2, memory=256),
            item("kernel", spec="distro:6.1 + a.patch", config="minimal", in_use=True, **options),
            item("snapshot", release="6.1.192", smp=1, memory=512),  # of an earlier version
            item("module", source="/home/me/drivers/edu"),
            item("package", spec="package:linux-image-amd64", package="linux-image-6.1 6.1.9-2"),
            item("disk", suite="bookworm", packages=["strace"], size_mib=4096, modules="6.1.192"),
            item("modules", kernel="/home/me/.cache/pytest-kgdb/v1/work/tree/t-1/2", release="6.1"),
            item("tree", "tree-linux-1234", state="work"),
            item("kit", f"kit-{'d' * 40}", state="work"),
            item("apt", "lists", state="work"),
            item("quarantine", "kernel-x", state="broken"),
            item("later", name="\x1b[31m" + "x" * 200),
        ],
        40 * 10**9,
    )
    shown = [" ".join(re.sub(r"\d+ h .* ago", "AGO", line).split()) for line in lines]
    assert shown == [
        "kernels: 2, 10 MB",
        "distro:6.1 + a.patch, minimal, k.config, CONFIG_X=y, LLVM=1 5 MB AGO cccccccccccc "
        "in use by process 7 (pytest)",
        "package:linux-image-amd64 (linux-image-6.1 6.1.9-2) 5 MB AGO cccccccccccc",
        "snapshots of machines: 2, 10 MB",
        "Linux 6.1.192 (distro:6.1), 2 CPUs, 256 MiB 5 MB AGO cccccccccccc",
        "Linux 6.1.192, 1 CPU, 512 MiB 5 MB AGO cccccccccccc",
        "disks: 1, 5 MB",
        "Debian bookworm, strace, 4096 MiB, modules of Linux 6.1.192 5 MB AGO cccccccccccc",
        "modules: 2, 10 MB",
        "/home/me/drivers/edu 5 MB AGO cccccccccccc",
        "those of t-1/2, Linux 6.1 5 MB AGO cccccccccccc",
        "sources and objects: 1, 5 MB",
        "tree-linux-1234 5 MB AGO",
        "headers and tools: 2, 10 MB",
        "headers of kernel dddddddddddd 5 MB AGO",
        "apt lists 5 MB AGO",
        "others: 1, 5 MB",
        f"{'x' * 89}… 5 MB AGO cccccccccccc",
        "quarantine: 1, 5 MB",
        "kernel-x 5 MB AGO it fits",
        "12 in all (2 kernels), 1 in use: 60 MB of at most 40.0 GB",
    ]


def test_each_kind_of_the_cache_is_in_a_group() -> None:
    sources = [path.read_text() for path in (ROOT / "pytest_kgdb").rglob("*.py")]
    kinds = {
        f"{state}/{match[1]}"
        for state, call in (("entry", r"cache\.make"), ("work", "workdir(?:_path)?"))
        for source in sources
        for match in re.finditer(rf'{call}\(\s*"(\w+)"', source)
    }
    assert len(kinds) > 15
    assert kinds | {f"entry/{KIND}"} == {kind for group in GROUPS.values() for kind in group}


def test_cache_prune_by_age(filled: Path) -> None:
    done = cache_command(filled, "prune", "--older-than=1d")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("removed kernel distro:a (aaaaaaaaaaaa), ")
    assert done.stdout.splitlines()[1].startswith("1 removed; ")
    assert len(cache_command(filled, "ls").stdout.splitlines()) == 3


def test_cache_prune_by_size(filled: Path) -> None:
    assert "2 removed" in cache_command(filled, "prune", "--max-size=0").stdout
    assert cache_command(filled, "ls").stdout.startswith("0 in all (0 kernels), ")


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--older-than=yesterday"], "error: --older-than: 'yesterday' is not an age\n"),
        (["--max-size=big"], "error: --max-size: 'big' is not a size\n"),
    ],
)
def test_a_wrong_prune_takes_nothing(filled: Path, args: list[str], problem: str) -> None:
    done = cache_command(filled, "prune", *args)
    assert done.returncode == 2
    assert done.stderr.startswith(problem)
    assert len(cache_command(filled, "ls").stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "size"),
    [("20G", 20 * 10**9), ("1.5GB", 1500 * 10**6), ("512MiB", 512 << 20), ("1k", 1000), ("7", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert _cache._size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 30 * 86400), ("4w", 28 * 86400), ("5m", 300)]
)
def test_ages(text: str, seconds: int) -> None:
    assert _cache._age(text) == seconds


def test_cache_verify(filled: Path) -> None:
    done = cache_command(filled, "verify")
    assert (done.returncode, done.stdout) == (0, "everything is as it was made\n")
    broken = filled / "v1/kernel" / ("a" * 40) / "files/vmlinux"
    broken.chmod(0o644)
    status = broken.stat()
    broken.write_bytes(b"x" * status.st_size)
    os.utime(broken, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a failing disk would
    done = cache_command(filled, "verify")
    assert done.returncode == 1
    assert done.stdout.startswith("broken: kernel aaaaaaaaaaaa: ")
    assert done.stdout.endswith("1 broken\n")


def test_cache_prune_says_what_is_in_use(filled: Path) -> None:
    entry = Cache(filled, progress=Silent()).get("kernel", "b" * 40)
    lines = cache_command(filled, "prune", "--max-size=0").stdout.splitlines()
    assert entry is not None
    assert lines[1].startswith("1 removed; ")
    assert lines[2] == "the rest is in use: `pytest-kgdb cache ls` says by whom"


def test_cache_prune_to_the_caches_own_bound(filled: Path) -> None:
    assert "0 removed" in cache_command(filled, "prune").stdout


def test_cache_push(filled: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    done = cache_command(filled, "push")
    assert (done.returncode, "--kgdb-remote-cache=URL" in done.stderr) == (2, True)
    done = cache_command(filled, "push", f"--kgdb-remote-cache={tmp_path / 'shared'}")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "2 pushed"
    done = cache_command(filled, "push", f"--kgdb-remote-cache={tmp_path / 'shared'}")
    assert done.stdout == "0 pushed\n"


def test_an_empty_cache(tmp_path: Path) -> None:
    assert cache_command(tmp_path / "absent", "ls").stdout.startswith("0 in all (0 kernels), ")
    assert cache_command(tmp_path / "absent", "verify").returncode == 0
    assert cache_command(tmp_path / "absent", "prune", "--max-size=0").returncode == 0
