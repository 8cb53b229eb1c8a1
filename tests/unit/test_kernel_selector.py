"""Which kernels a test is for: the order of releases, and configuration symbols."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel import Config, Selector


@dataclass
class FakeKernel:
    release: str
    config: Config
    spec: str = "distro:6.1"
    name: str = ""
    headers: object = "headers.tar.gz"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / ".config"
    path.write_text(
        "CONFIG_KGDB=y\nCONFIG_BRIDGE=m\n# CONFIG_KASAN is not set\nCONFIG_NR_CPUS=64\n"
        'CONFIG_LOCALVERSION="-mine"\n'
    )
    return Config(path)


def holds(version: str, release: str) -> bool:
    return Selector.parse(version).unmet(FakeKernel(release, Config("/none"))) is None


ORDER = [
    "5.9.16",
    "5.15.0-rc1",
    "5.15.0-rc10",
    "5.15.0",
    "5.15.1",
    "6.1.0-rc3-00012-gabcdef012345",
    "6.1.0-rc4+",
    "6.1.0",
    "6.1.9",
    "6.1.192",
    "6.6.87.2-microsoft-standard-WSL2",
    "6.12.117+deb13-amd64",
    "7.0.0-rc1-next-20260401",
]


def test_releases_are_ordered_as_the_kernels() -> None:
    versions = [release.split("+")[0].split("-g")[0].split("-m")[0] for release in ORDER]
    versions = [version.split("-0")[0].split("-next")[0] for version in versions]
    for one, release in enumerate(ORDER):
        for other, version in enumerate(versions):
            assert holds(f"<{version}", release) == (one < other), (release, version)
            assert holds(f">={version}", release) == (one >= other), (release, version)
            assert holds(f"=={version}", release) == (one == other), (release, version)
            assert holds(f"!={version}", release) == (one != other), (release, version)
            assert holds(f">{version}", release) == (one > other), (release, version)
            assert holds(f"<={version}", release) == (one <= other), (release, version)


@pytest.mark.parametrize(
    ("version", "release", "result"),
    [
        (">=5.15", "6.1.192", True),
        (">=5.15,<6.2", "6.1.192", True),
        (" >= 5.15 , <6.1.100 ", "6.1.192", False),
        ("==6.1.*", "6.1.192", True),
        ("==6.1.*", "6.12.1", False),
        ("==6.1.*", "6.1.0-rc3", True),
        ("!=6.1.*", "6.1.192", False),
        ("~=6.1.5", "6.1.192", True),
        ("~=6.1.5", "6.2.0", False),
        ("~=6.1", "6.12.1", True),
        ("~=6.1", "7.0.0", False),
        ("~=6.1", "6.1.0-rc1", False),
        (">=6.1", "6.1.0-rc8", False),
        (">=6.1-rc1", "6.1.0-rc8", True),
        ("<6.1", "6.1.0-rc8", True),
        (">=v6.1rc2", "6.1.0-rc1", False),
    ],
)
def test_comparisons(version: str, release: str, result: bool) -> None:
    assert holds(version, release) is result


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("5.15",), "'5.15' is not a comparison: write"),
        ((">=",), "'>=' is not a comparison"),
        ((">=5.x",), "'5.x' is not a version"),
        ((">=5.15,",), "'' is not a comparison"),
        (("=>5.15",), "'=>5.15' is not a comparison"),
        ((">=5.15.*",), '".\\*" is for == and !='),
        (("~=6",), "~= needs two numbers"),
        ((">=1.2.3.4.5",), "more than 4 numbers"),
        ((5.15,), "5.15 is not a text"),
        ((), "neither a version nor a symbol"),
        (("", ["KASAN or KCSAN"]), "write CONFIG_X, CONFIG_X=y"),
        (("", ["!KASAN=y"]), "write CONFIG_X"),
        (("", ["CONFIG_KASAN="]), "write CONFIG_X"),
        (("", [None]), "None is not the name of a symbol"),
        (("", 7), "config=7 is not a list"),
    ],
)
def test_what_means_nothing(arguments: tuple[object, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Selector.parse(*arguments)


@pytest.mark.parametrize(
    ("symbols", "reason"),
    [
        ("CONFIG_KGDB", None),
        (["KGDB=y", "BRIDGE", "CONFIG_BRIDGE=m", "!KASAN", "KASAN=n", "!CONFIG_NEW"], None),
        (["NR_CPUS=64", "LOCALVERSION=-mine", 'LOCALVERSION="-mine"'], None),
        (
            ["CONFIG_KASAN"],
            "needs CONFIG_KASAN, which distro:6.1 has not (set it by --kgdb-set=CONFIG_KASAN=y)",
        ),
        (
            ["BRIDGE=y"],
            "needs CONFIG_BRIDGE=y, which distro:6.1 has as m "
            "(set it by --kgdb-set=CONFIG_BRIDGE=y)",
        ),
        (
            ["!KGDB"],
            "needs a kernel without CONFIG_KGDB, which distro:6.1 has as y "
            "(set it by --kgdb-set=CONFIG_KGDB=n)",
        ),
    ],
)
def test_symbols(config: Config, symbols: object, reason: str | None) -> None:
    unmet = Selector.parse(config=symbols).unmet(FakeKernel("6.1.192", config))
    assert (unmet and unmet.reason) == reason
    assert unmet is None or not unmet.by_version


def test_every_reason_is_given(config: Config) -> None:
    kernel = FakeKernel("6.1.192", config, name="distro:6.1 + fix.patch", headers=None)
    unmet = Selector.parse(">=6.5", ["KASAN", "KCSAN"]).unmet(kernel)
    assert unmet is not None
    assert unmet.by_version
    assert unmet.reason == (
        "needs a kernel >=6.5, and distro:6.1 + fix.patch is 6.1.192; "
        "needs CONFIG_KASAN, which distro:6.1 + fix.patch has not; "
        "needs CONFIG_KCSAN, which distro:6.1 + fix.patch has not"
    )


@pytest.mark.parametrize(
    ("version", "advice"),
    [("==6.1", '6.1 is 6.1.0; all of it is "==6.1.*"'), ("<=6.1", 'all of it is "<6.2"')],
)
def test_what_probably_was_meant(version: str, advice: str) -> None:
    unmet = Selector.parse(version).unmet(FakeKernel("6.1.192", Config("/none")))
    assert unmet is not None
    assert advice in unmet.reason
    other = Selector.parse(version).unmet(FakeKernel("6.5.1", Config("/none")))
    assert other is not None
    assert "all of it" not in other.reason


@pytest.mark.parametrize(
    ("version", "tells"),
    [
        (">=6.1", True),
        ("<6.2", True),
        (">=6.5", True),
        ("==6.1.*", True),
        (">=6.1.100", False),
        ("!=6.1.7", False),
        (">6.1.50,<6.1.60", False),
        (">=5.15.100", True),
    ],
)
def test_a_distributions_release_does_not_say_which_stable_one_it_is(
    version: str, tells: bool
) -> None:
    kernel = FakeKernel("6.1.0-56-cloud-amd64", Config("/none"), headers=None)
    if tells:
        Selector.parse(version).unmet(kernel)
    else:
        with pytest.raises(ConfigError, match="does not say which stable release"):
            Selector.parse(version).unmet(kernel)
    kernel.headers = "built here: it is 6.1.0 of somebody's"
    Selector.parse(version).unmet(kernel)


def test_what_is_no_release() -> None:
    with pytest.raises(ConfigError, match="'mine' is not the release"):
        Selector.parse(">=6.1").unmet(FakeKernel("mine", Config("/none")))
