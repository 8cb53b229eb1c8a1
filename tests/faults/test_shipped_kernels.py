"""Kernels as shipped, from archives and systems that are made up here."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import pytest
from fake_shipped import CONFIG, KGDB, RELEASE, ROOT, Archive, Built, boot_image, build, put

from pytest_kgdb.cache import Cache
from pytest_kgdb.errors import BuildError, ConfigError, KgdbError
from pytest_kgdb.kernel import Kernel, _installed, _package, prepare
from pytest_kgdb.kernel._apt import Apt
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import make_settings


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Another build of the same release."""
    return build(tmp_path_factory.mktemp("other"), number=2)


class Packages:
    """Kernels from an archive, with package lists of our own and a cache of our own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.archive = Archive(directory / "archive")
        self.said = Silent()
        self.cache = Cache(directory / "cache", progress=self.said)

    def use(self, name: str, stub: str = "auto") -> Kernel:
        lists = self.cache.workdir("apt", "lists")
        self.apt = Apt(
            lists,
            self.said,
            options=self.archive.options(),
            host_lists=self.directory / "no lists",
        )
        return _package.use(name, self.cache, self.said, stub=stub, apt=self.apt)

    def forget_lists(self) -> None:
        """As on a host whose lists are old, with an archive that has changed."""
        shutil.rmtree(self.cache.workdir("apt", "lists") / "state")


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    return Packages(tmp_path)


def test_a_metapackage_leads_to_a_kernel(packages: Packages, built: Built) -> None:
    packages.archive.add_kernel(built)
    kernel = packages.use("linux-image-test")
    assert kernel.name == f"package:linux-image-{RELEASE} (6.1.99-1)"
    assert kernel.release == RELEASE
    assert kernel.version == (6, 1, 99)
    assert kernel.vmlinux.read_bytes() == built.vmlinux
    assert kernel.image.read_bytes() == built.image
    assert kernel.build_id in built.vmlinux.hex()
    assert kernel.config.get("MODULES") == "y"
    assert kernel.vmlinux.with_name("System.map").exists()
    assert kernel.guest_modules is not None
    assert kernel.modules_dir is not None
    module = "kernel/drivers/dummy.ko"
    assert (kernel.guest_modules / module).read_text() == "as shipped"
    assert (kernel.modules_dir / module).read_text() == "with debug information"
    assert str(kernel.debug_source) == ROOT
    (line,) = [line for line in packages.said.lines if line.startswith("to be downloaded")]
    assert f"linux-image-{RELEASE} 6.1.99-1, linux-image-{RELEASE}-dbg 6.1.99-1 (" in line
    assert line.endswith(" MB)")


def test_the_second_use_downloads_nothing(packages: Packages, built: Built) -> None:
    packages.archive.add_kernel(built)
    first = packages.use("linux-image-test")
    packages.said.lines.clear()
    assert packages.use("linux-image-test") == first
    assert packages.use(f"linux-image-{RELEASE}").vmlinux == first.vmlinux
    assert not packages.said.lines


def test_what_is_cached_needs_no_archive(packages: Packages, built: Built) -> None:
    packages.archive.add_kernel(built)
    first = packages.use("linux-image-test")
    packages.forget_lists()
    (packages.archive.directory / "Packages").unlink()
    assert packages.use("linux-image-test") == first
    with pytest.raises(ConfigError, match="lists of Debian's packages could not be downloaded"):
        packages.use("linux-image-never-seen")


def test_similar_names_are_shown(packages: Packages, built: Built) -> None:
    packages.archive.add_kernel(built)
    with pytest.raises(ConfigError, match="apt knows no package linux-image-tost") as caught:
        packages.use("linux-image-tost")
    assert "did you mean linux-image-test" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="no kernel image in it") as caught:
        packages.use(f"linux-image-{RELEASE}-dbg")
    assert str(caught.value.hint).endswith(f": linux-image-{RELEASE}")


def test_a_package_that_is_no_kernel(packages: Packages) -> None:
    packages.archive.add("hello", "1", {"usr/bin/hello": ""})
    with pytest.raises(ConfigError, match="package:hello: that package has no kernel image"):
        packages.use("hello")


def test_no_debug_symbols(packages: Packages, built: Built) -> None:
    packages.archive.add(f"linux-image-{RELEASE}", "6.1.99-1", {"boot/x": ""})
    packages.archive.add(f"linux-image-{RELEASE}-dbg", "6.1.99-2", {"boot/x": ""})
    with pytest.raises(ConfigError, match=f"no debug symbols: .*{RELEASE}-dbg 6.1.99-1"):
        packages.use(f"linux-image-{RELEASE}")


def test_debug_symbols_of_another_build(packages: Packages, built: Built, other: Built) -> None:
    packages.archive.add_kernel(built, debug=other)
    with pytest.raises(ConfigError, match="the debug symbols are of another build"):
        packages.use("linux-image-test")
    assert not list(packages.directory.glob("cache/v1/package/*"))


def test_a_truncated_package_is_refused_and_downloaded_again(
    packages: Packages, built: Built
) -> None:
    packages.archive.add_kernel(built)
    (file,) = packages.archive.directory.glob(f"pool/linux-image-{RELEASE}_*.deb")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KgdbError, match=rf"linux-image-{RELEASE} 6.1.99-1"):
        packages.use("linux-image-test")
    assert not list(packages.directory.glob("cache/v1/package/*"))
    file.write_bytes(whole)
    assert packages.use("linux-image-test").image.read_bytes() == built.image


def test_a_changed_package_is_refused(packages: Packages, built: Built) -> None:
    packages.archive.add_kernel(built)
    (file,) = packages.archive.directory.glob(f"pool/linux-image-{RELEASE}_*.deb")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BuildError, match="a downloaded file is damaged, and is not used"):
        packages.use("linux-image-test")


def test_what_the_archive_has_replaced(packages: Packages, built: Built, tmp_path: Path) -> None:
    """The lists name a version whose file is gone: newer ones are fetched, and followed."""
    packages.archive.add_kernel(built)
    host = tmp_path / "no lists"
    # As a host whose apt-get update was run long ago.
    Apt(tmp_path / "host", packages.said, options=packages.archive.options()).update()
    shutil.copytree(tmp_path / "host/state/lists", host)
    packages.archive.clear()
    shutil.rmtree(packages.archive.directory / "pool")
    (packages.archive.directory / "pool").mkdir()
    newer = build(tmp_path / "newer", release="6.1.0-10-test")
    packages.archive.add_kernel(newer, release="6.1.0-10-test", version="6.1.100-1")
    kernel = packages.use("linux-image-test")
    assert kernel.name == "package:linux-image-6.1.0-10-test (6.1.100-1)"


def test_a_kernel_without_kgdb(packages: Packages, built: Built) -> None:
    packages.archive.add_kernel(built)
    assert packages.use("linux-image-test", "qemu").stop_layout is None
    with pytest.raises(ConfigError, match=r"was built without\n  CONFIG_KGDB=y") as caught:
        packages.use("linux-image-test", "kgdb")
    assert "leave --kgdb-stub out" in str(caught.value.hint)


def test_a_kernel_that_cannot_be_tested(packages: Packages, built: Built) -> None:
    config = CONFIG.replace("CONFIG_SERIAL_8250_CONSOLE=y\n", "")
    packages.archive.add_kernel(built._replace(config=config))
    with pytest.raises(ConfigError, match="CONFIG_SERIAL_8250_CONSOLE=y"):
        packages.use("linux-image-test")


def test_headers_name_no_place_on_this_host(packages: Packages, built: Built) -> None:
    packages.archive.add_kernel(built)
    common = "linux-headers-6.1.0-9-common"
    packages.archive.add("linux-kbuild-6.1", "6.1.99-2", {"usr/lib/linux-kbuild-6.1/x": ""})
    packages.archive.add(common, "6.1.99-1", {f"usr/src/{common}/Makefile": "$(info it is here)\n"})
    packages.archive.add(
        f"linux-headers-{RELEASE}",
        "6.1.99-1",
        {f"usr/src/linux-headers-{RELEASE}/Makefile": f"include /usr/src/{common}/Makefile\n"},
        depends=f"{common} (= 6.1.99-1), linux-kbuild-6.1 (>= 6.1.99-1), linux-compiler-gcc-12-x86",
    )
    kernel = packages.use("linux-image-test")
    assert kernel.make_headers is not None
    headers = kernel.make_headers()
    assert headers.name == f"linux-headers-{RELEASE}"
    assert (headers / "Makefile").read_text() == f"include ../{common}/Makefile\n"
    assert (headers.parent / common / "Makefile").is_file()
    assert (headers.parents[1] / "lib/linux-kbuild-6.1").is_dir()


def test_no_headers(packages: Packages, built: Built) -> None:
    packages.archive.add_kernel(built)
    kernel = packages.use("linux-image-test")
    assert kernel.make_headers is not None
    with pytest.raises(ConfigError, match=r"no module can be built for .*linux-headers-6\.1\.0-9"):
        kernel.make_headers()


def source_package(packages: Packages, version: str, tmp_path: Path) -> None:
    put(tmp_path / "source", {"linux-source-6.1/init/main.c": "int main;\n"})
    tarball = shutil.make_archive(
        str(tmp_path / "linux-source-6.1"), "xztar", tmp_path / "source", "linux-source-6.1"
    )
    packages.archive.add(
        "linux-source-6.1",
        version,
        {"usr/src/linux-source-6.1.tar.xz": Path(tarball).read_bytes()},
    )


def test_source_comes_when_it_is_asked_for(
    packages: Packages, built: Built, tmp_path: Path
) -> None:
    packages.archive.add_kernel(built)
    source_package(packages, "6.1.99-1", tmp_path)
    kernel = packages.use("linux-image-test")
    sources = kernel.sources
    assert kernel.source is None
    assert not sources.is_local
    names = (f"{ROOT}/init/main.c", "init/main.c", f"{sources.directory}/init/main.c")
    assert {sources.name(name) for name in names} == {"init/main.c"}
    assert not sources.is_local
    assert {sources.read(name) for name in names} == {b"int main;\n"}
    assert sources.is_local
    packages.said.lines.clear()
    sources.unpack()
    assert not packages.said.lines
    assert packages.use("linux-image-test").source == sources.directory


def test_source_of_another_version_is_not_shown(
    packages: Packages, built: Built, tmp_path: Path
) -> None:
    packages.archive.add_kernel(built)
    source_package(packages, "6.1.99-2", tmp_path)
    kernel = packages.use("linux-image-test")
    for ask in (kernel.sources.unpack, lambda: kernel.sources.read("init/main.c")):
        with pytest.raises(ConfigError, match=r"no source lines: .*linux-source-6.1 6.1.99-1"):
            ask()
    assert not kernel.sources.is_local


def test_options_of_a_build_cannot_apply(tmp_path: Path) -> None:
    settings = make_settings(
        kernel=["package:linux-image-test"], set=["CONFIG_A=y"], cache_dir=str(tmp_path)
    )
    said = Silent()
    with pytest.raises(ConfigError, match="used as it was shipped: --kgdb-set cannot apply"):
        prepare(settings, settings.kernel[0], Cache(tmp_path, progress=said), said)


# Installed kernels. Each layout is a distribution's: image, configuration, debug symbols, modules.

LAYOUTS = {
    "debian": (
        f"boot/vmlinuz-{RELEASE}",
        f"boot/config-{RELEASE}",
        f"usr/lib/debug/boot/vmlinux-{RELEASE}",
        f"lib/modules/{RELEASE}/kernel/dummy.ko",
    ),
    "fedora": (
        f"lib/modules/{RELEASE}/vmlinuz",
        f"lib/modules/{RELEASE}/config",
        f"usr/lib/debug/lib/modules/{RELEASE}/vmlinux",
        f"lib/modules/{RELEASE}/kernel/dummy.ko.xz",
    ),
    "opensuse": (
        f"usr/lib/modules/{RELEASE}/vmlinuz",
        f"usr/lib/modules/{RELEASE}/config",
        f"usr/lib/debug/usr/lib/modules/{RELEASE}/vmlinux.debug",
        f"usr/lib/modules/{RELEASE}/kernel/dummy.ko.xz",
    ),
    "arch": (
        f"usr/lib/modules/{RELEASE}/vmlinuz",
        f"usr/lib/modules/{RELEASE}/build/.config",
        f"usr/lib/debug/usr/lib/modules/{RELEASE}/vmlinux",
        f"usr/lib/modules/{RELEASE}/kernel/dummy.ko.xz",
    ),
}


def install(root: Path, layout: str, built: Built, *, without: str = "") -> dict[str, Path]:
    image, config, vmlinux, module = LAYOUTS[layout]
    content = b"a module"
    files = {
        "image": (image, built.image),
        "config": (config, built.config.encode()),
        "vmlinux": (vmlinux, built.vmlinux),
        "module": (module, lzma.compress(content) if module.endswith(".xz") else content),
    }
    files.pop(without, None)
    if layout in ("opensuse", "arch"):
        (root / "usr/lib").mkdir(parents=True)
        (root / "lib").symlink_to("usr/lib")
    put(root, dict(files.values()))
    return {part: root / name for part, (name, _) in files.items()}


class Host:
    """A host on which a kernel is installed."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.said = Silent()
        self.cache = Cache(directory / "cache", progress=self.said)

    def use(
        self,
        release: str = RELEASE,
        stub: str = "auto",
        running: str | None = None,
        source: Path | None = None,
    ) -> Kernel:
        return _installed.use(
            release,
            self.cache,
            self.said,
            stub=stub,
            source=source,
            origin="--kgdb-source",
            root=self.root,
            running=running,
        )


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    return Host(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_installed(host: Host, built: Built, layout: str) -> None:
    places = install(host.root, layout, built)
    kernel = host.use()
    assert kernel.image.samefile(places["image"])
    assert kernel.vmlinux.samefile(places["vmlinux"])
    assert kernel.config.samefile(places["config"])
    assert kernel.name == f"release:{RELEASE}"
    assert kernel.release == RELEASE
    assert kernel.guest_modules is not None
    assert (kernel.guest_modules / "kernel/dummy.ko").read_text() == "a module"
    assert not list(kernel.guest_modules.rglob("*.xz"))
    assert host.use() == kernel


def test_the_running_one(host: Host, built: Built) -> None:
    install(host.root, "debian", built)
    kernel = host.use("", running=RELEASE)
    assert (kernel.spec, kernel.name) == ("release:", f"release:{RELEASE}")


def test_headers_of_an_installed_kernel(host: Host, built: Built) -> None:
    install(host.root, "debian", built)
    assert host.use().build_dir is None
    headers = host.root / f"usr/src/linux-headers-{RELEASE}"
    put(headers, {"Makefile": ""})
    (host.root / f"lib/modules/{RELEASE}/build").symlink_to(headers)
    assert host.use().build_dir == headers


def test_half_a_kgdb(host: Host, built: Built) -> None:
    """With kgdboc in the kernel, `auto` is kgdb; what that lacks is said."""
    install(host.root, "fedora", built._replace(config=CONFIG + KGDB))
    with pytest.raises(ConfigError, match=r"was built without\n  CONFIG_KGDB=y"):
        host.use()
    assert host.use(stub="qemu").release == RELEASE


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("image", f"there is no image: neither .*/boot/vmlinuz-{RELEASE} nor"),
        ("config", f"there is no configuration: neither .*/boot/config-{RELEASE} nor"),
        ("vmlinux", f"no debug symbols: neither .*/usr/lib/debug/boot/vmlinux-{RELEASE} nor"),
    ],
)
def test_a_part_is_missing(host: Host, built: Built, without: str, message: str) -> None:
    install(host.root, "debian", built, without=without)
    with pytest.raises(ConfigError, match=message):
        host.use()


@pytest.mark.parametrize(
    ("system", "command"),
    [
        ("ID=debian", f"apt install linux-image-{RELEASE}-dbg"),
        ("ID=ubuntu\nID_LIKE=debian", f"apt install linux-image-{RELEASE}-dbgsym"),
        ("ID=fedora", f"dnf debuginfo-install kernel-{RELEASE}"),
        ('ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"', "zypper install kernel-default-deb"),
        ("ID=arch", "pacman -S linux-debug"),
        ("ID=other", "install the distribution's package"),
    ],
)
def test_how_debug_symbols_are_installed(
    host: Host, built: Built, system: str, command: str
) -> None:
    install(host.root, "debian", built, without="vmlinux")
    put(host.root, {"etc/os-release": system + "\n"})
    with pytest.raises(ConfigError) as caught:
        host.use()
    assert str(caught.value.hint).startswith(command)


def test_the_source_of_an_installed_kernel(host: Host, built: Built, tmp_path: Path) -> None:
    install(host.root, "debian", built)
    with pytest.raises(KgdbError, match=f"this kernel was built in {ROOT}, which is not there"):
        host.use().sources.read("init/main.c")
    source = tmp_path / "linux-6.1"
    files = {"Kconfig": "", "Kbuild": "", "init/main.c": "int main;\n"}
    put(source, {"Makefile": "VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 99\n", **files})
    kernel = host.use(source=source)
    assert kernel.source == source
    assert kernel.sources.read(f"{ROOT}/init/main.c") == b"int main;\n"
    (source / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\n")
    with pytest.raises(ConfigError, match=r"--kgdb-source: \S+ is the source of 6\.12\.1, and"):
        host.use(source=source)


def test_a_release_that_is_not_installed(host: Host, built: Built) -> None:
    install(host.root, "debian", built)
    with pytest.raises(ConfigError) as caught:
        host.use("6.1.0-8-test")
    assert caught.value.hint == f"did you mean release:{RELEASE}?"


def test_debug_symbols_that_were_left_from_another_build(
    host: Host, built: Built, other: Built
) -> None:
    install(host.root, "debian", built)
    host.use()
    put(host.root, {LAYOUTS["debian"][2]: other.vmlinux})
    with pytest.raises(ConfigError, match="the debug symbols are of another build"):
        host.use()


def test_an_image_of_another_release(host: Host, built: Built) -> None:
    install(host.root, "debian", built)
    put(host.root, {LAYOUTS["debian"][0]: boot_image(built.vmlinux, "6.1.0-8-test")})
    with pytest.raises(ConfigError, match=r"vmlinuz-.* is an image of 6.1.0-8-test"):
        host.use()


def test_an_image_that_cannot_be_unpacked(host: Host, built: Built) -> None:
    install(host.root, "debian", built)
    put(host.root, {LAYOUTS["debian"][0]: built.image[:1024] + b"\x28\xb5\x2f\xfd rubbish"})
    with pytest.raises(ConfigError, match="are of one build cannot be told"):
        host.use()


DEBUGINFOD = """\
#!/bin/sh
[ "$1" = debuginfo ] && [ "$2" = {build_id} ] && echo {path} && exit 0
echo 'Server query failed: No such file or directory' >&2
exit 1
"""


def test_debuginfod(
    host: Host, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(host.root, "debian", built)
    build_id = host.use().build_id
    (host.root / LAYOUTS["debian"][2]).unlink()
    put(tmp_path / "debuginfod", {"debuginfo": built.vmlinux})
    answer = tmp_path / "debuginfod/debuginfo"
    put(tmp_path / "bin", {"debuginfod-find": DEBUGINFOD.format(build_id=build_id, path=answer)})
    (tmp_path / "bin/debuginfod-find").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    with pytest.raises(ConfigError, match="no debug symbols"):
        host.use()  # nobody has named a server
    monkeypatch.setenv("DEBUGINFOD_URLS", "http://localhost:1")
    assert host.use().vmlinux == answer
    put(tmp_path / "bin", {"debuginfod-find": "#!/bin/sh\nexit 1\n"})
    with pytest.raises(ConfigError, match="no debug symbols"):
        host.use()
    assert host.said.lines[-1].endswith(f"has no debug symbols of build id {build_id}")
