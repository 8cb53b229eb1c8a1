"""Where a Debian comes from, and what it asks of a kernel and of a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.disk._sources import Source, configured, debian
from pytest_kgdb.disk._tree import _failure, _listener
from pytest_kgdb.progress import Stage

BOOKWORM = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
UBUNTU = {"ID": "ubuntu", "VERSION_CODENAME": "noble"}

DEB822 = """\
# A comment
Types: deb deb-src
# another one
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcd
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
Enabled: no
URIs: http://mirror.test/off
Suites: bookworm
Components: main

Types: deb-src
URIs: http://mirror.test/source
Suites: bookworm
Components: main
"""

ONE_LINE = """\
# deb http://mirror.test/commented bookworm main
deb [arch=amd64,arm64 signed-by=/k.gpg] http://mirror.test/debian bookworm main contrib # tail
deb http://mirror.test/debian-security bookworm-security main
deb-src http://mirror.test/debian bookworm main
deb http://vendor.test/apt bookworm stable
deb http://vendor.test/apt2 cloud-bookworm main
deb http://mirror.test/debian bookworm-backports main
nonsense
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def lines(sources: list[Source]) -> list[str]:
    return [f"{' '.join(s.uris)} {' '.join(s.suites)} {' '.join(s.components)}" for s in sources]


def test_deb822(etc: Path) -> None:
    (etc / "sources.list.d/debian.sources").write_text(DEB822)
    first, second = configured(etc)
    assert first.uris == ("http://mirror.test/debian",)
    assert first.suites == ("bookworm", "bookworm-updates")
    assert first.options == (("Signed-By", "/usr/share/keyrings/debian-archive-keyring.gpg"),)
    assert "BEGIN PGP" in second.text()
    assert configured(etc) == configured(etc)


def test_what_is_written_is_read_again(etc: Path) -> None:
    (etc / "sources.list.d/debian.sources").write_text(DEB822)
    read = configured(etc)
    (etc / "sources.list.d/debian.sources").write_text("\n".join(s.text() for s in read))
    assert configured(etc) == read


def test_one_line(etc: Path) -> None:
    (etc / "sources.list").write_text(ONE_LINE)
    first = configured(etc)[0]
    assert first.uris == ("http://mirror.test/debian",)
    assert first.options == (("Architectures", "amd64 arm64"), ("Signed-By", "/k.gpg"))


def test_files_of_other_names_are_not_read(etc: Path) -> None:
    (etc / "sources.list.d/debian.sources.disabled").write_text(DEB822)
    (etc / "sources.list.d/old.list.save").write_text(ONE_LINE)
    assert configured(etc) == []


def test_the_hosts_own_suite_from_the_hosts_own_mirror(etc: Path) -> None:
    (etc / "sources.list").write_text(ONE_LINE)
    suite, sources = debian(None, configured(etc), BOOKWORM)
    assert suite == "bookworm"
    assert lines(sources) == [
        "http://mirror.test/debian bookworm main",
        "http://mirror.test/debian-security bookworm-security main",
    ]


def test_another_suite_from_the_hosts_own_mirror(etc: Path) -> None:
    (etc / "sources.list.d/debian.sources").write_text(DEB822)
    suite, sources = debian("trixie", configured(etc), BOOKWORM)
    assert suite == "trixie"
    assert lines(sources) == [
        "http://mirror.test/debian trixie main",
        "http://mirror.test/debian trixie-updates main",
        "http://mirror.test/debian-security trixie-security main",
    ]


def test_sid_has_no_updates_and_no_security(etc: Path) -> None:
    (etc / "sources.list.d/debian.sources").write_text(DEB822)
    _, sources = debian("sid", configured(etc), BOOKWORM)
    assert lines(sources) == ["http://mirror.test/debian sid main"]


def test_a_host_that_says_stable(etc: Path) -> None:
    (etc / "sources.list").write_text("deb http://mirror.test/debian stable main\n")
    assert debian(None, configured(etc), BOOKWORM)[0] == "stable"
    assert lines(debian("trixie", configured(etc), BOOKWORM)[1]) == [
        "http://mirror.test/debian trixie main"
    ]


@pytest.mark.parametrize("release", [UBUNTU, {}])
def test_a_host_without_a_debian_leaves_it_to_mmdebstrap(
    release: dict[str, str], etc: Path
) -> None:
    (etc / "sources.list").write_text("deb http://ubuntu.test/ubuntu noble main\n")
    assert debian(None, configured(etc), release) == ("stable", [])
    assert debian("bookworm", configured(etc), release) == ("bookworm", [])


def test_the_suite_without_its_updates(etc: Path) -> None:
    """A mirror of the updates alone is no place to install from."""
    (etc / "sources.list").write_text("deb http://mirror.test/debian bookworm-updates main\n")
    assert debian(None, configured(etc), BOOKWORM) == ("bookworm", [])


def failure(output: str, tmp_path: Path) -> str:
    stage, errors = Stage("installing"), list[str]()
    read = _listener(stage, errors)
    for line in output.splitlines():
        read(line)
    source = Source(("http://mirror.test/debian",), ("bookworm",), ("main",))
    return str(_failure("bookworm", [source], errors or ["?"], tmp_path / "log"))


def test_no_network_names_the_source(tmp_path: Path) -> None:
    message = failure(
        """\
I: running apt-get update...
Err:1 http://mirror.test/debian bookworm InRelease
  Could not resolve 'mirror.test'
Reading package lists...
E: Failed to fetch http://mirror.test/dists/bookworm/InRelease  Could not resolve 'mirror.test'
E: Some index files failed to download. They have been ignored, or old ones used instead.
E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> -oDpkg::Use-Pty=false failed
I: main() received signal PIPE: waiting for setup...
E: mmdebstrap failed to run
""",
        tmp_path,
    )
    assert "http://mirror.test/debian bookworm InRelease" in message
    assert "Could not resolve 'mirror.test'" in message
    assert "the network is needed to build a disk, not to use one that was built" in message
    assert "mmdebstrap failed to run" not in message


def test_no_such_suite(tmp_path: Path) -> None:
    message = failure(
        """\
Err:2 http://mirror.test/debian bookwurm Release
  404  Not Found [IP: 192.0.2.1 80]
E: The repository 'http://mirror.test/debian bookwurm Release' does not have a Release file.
""",
        tmp_path,
    )
    assert "hint: is there a suite bookworm at http://mirror.test/debian?" in message


def test_no_such_package(tmp_path: Path) -> None:
    message = failure(
        "E: Unable to locate package nosuchpkg\nE: setup failed: E: apt-get … failed\n", tmp_path
    )
    assert "Unable to locate package nosuchpkg" in message
    assert "--kgdb-disk-package" in message
    assert "setup failed" not in message


def test_the_present_step_is_reported() -> None:
    stage = Stage("installing")
    read = _listener(stage, [])
    read("I: installing essential packages...")
    read("I: using /tmp/mmdebstrap.x as tempdir")
    assert stage.text == "installing essential packages"
