"""Which configuration is wanted: bases, what is laid over them, and their keys."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from pytest_kgdb.errors import ConfigError
from pytest_kgdb.kernel import _recipe
from pytest_kgdb.kernel._config import missing
from pytest_kgdb.kernel._recipe import lsmod, recipe
from pytest_kgdb.settings import Settings, make_settings


def settings(**values: object) -> Settings:
    return make_settings(**values)


@pytest.fixture(autouse=True)
def distro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Debian's configurations of a machine that has what a test puts here."""
    for name, directory in (("DISTRO_CONFIGS", "src"), ("BOOT", "boot")):
        (tmp_path / directory).mkdir()
        monkeypatch.setattr(_recipe, name, tmp_path / directory)
    return tmp_path


def packaged(root: Path, version: str, text: str) -> None:
    directory = root / f"src/linux-config-{version}"
    directory.mkdir()
    (directory / "config.amd64_none_amd64.xz").write_bytes(lzma.compress(text.encode()))


def test_minimal_has_all_that_we_need() -> None:
    result = recipe(settings(), "6.1")
    assert result.target == "tinyconfig"
    assert missing(result.over({}), kgdb=True) == {}


def test_requests_override_and_the_last_counts(tmp_path: Path) -> None:
    fragment = tmp_path / "f"
    fragment.write_text("CONFIG_KASAN=y\nCONFIG_NET=n\n")
    result = recipe(settings(fragment=[str(fragment)], set=["CONFIG_KASAN=m", "CONFIG_X=1"]), "6.1")
    laid = result.over({"NET": "y", "X": "2", "OTHER": "y"})
    assert (laid["KASAN"], laid["NET"], laid["X"], laid["OTHER"]) == ("m", "n", "1", "y")
    assert result.requests["KASAN"].origin == "--kgdb-set"
    assert result.requests["NET"].origin == str(fragment)


def test_key_changes_with_every_wish() -> None:
    keys = {
        recipe(settings(), "").key,
        recipe(settings(config="defconfig"), "").key,
        recipe(settings(set=["CONFIG_A=y"]), "").key,
        recipe(settings(set=["CONFIG_A=n"]), "").key,
    }
    assert len(keys) == 4


def test_key_does_not_tell_how_a_wish_was_written(tmp_path: Path) -> None:
    fragment = tmp_path / "f"
    fragment.write_text("# because\nCONFIG_A=y\n")
    assert (
        recipe(settings(fragment=[str(fragment)]), "").key
        == recipe(settings(set=["CONFIG_A=y"]), "").key
    )


class TestFile:
    def test_is_the_base(self, tmp_path: Path) -> None:
        (tmp_path / "my.config").write_text("CONFIG_SMP=y\nCONFIG_DEBUG_INFO_DWARF4=y\n")
        result = recipe(settings(config=str(tmp_path / "my.config")), "6.1")
        laid = result.over({})
        assert (result.base, result.target, laid["SMP"], laid["KGDB"]) == ("file", None, "y", "y")
        assert "DEBUG_INFO_DWARF5" not in laid

    def test_with_no_symbol_in_it(self, tmp_path: Path) -> None:
        (tmp_path / "notes").write_text("hello\n")
        with pytest.raises(ConfigError, match="is not a kernel configuration"):
            recipe(settings(config=str(tmp_path / "notes")), "6.1")

    def test_names_its_commit_unless_it_says_no(self, tmp_path: Path) -> None:
        path = tmp_path / "c"
        path.write_text("CONFIG_SMP=y\n")
        assert recipe(settings(config=str(path)), "").names_its_commit
        path.write_text("# CONFIG_LOCALVERSION_AUTO is not set\n")
        assert not recipe(settings(config=str(path)), "").names_its_commit
        assert not recipe(settings(), "").names_its_commit
        assert recipe(settings(set=["CONFIG_LOCALVERSION_AUTO=y"]), "").names_its_commit


class TestDistro:
    def test_takes_the_configuration_of_the_version(self, distro: Path) -> None:
        packaged(distro, "6.1", "CONFIG_OLD=y\n")
        packaged(distro, "6.12", "CONFIG_NEW=y\n")
        assert "OLD" in recipe(settings(config="distro"), "6.1.192").symbols
        assert "NEW" in recipe(settings(config="distro"), "6.12.1").symbols

    def test_or_the_nearest_older_one(self, distro: Path) -> None:
        packaged(distro, "6.1", "CONFIG_OLD=y\n")
        packaged(distro, "6.12", "CONFIG_NEW=y\n")
        assert "OLD" in recipe(settings(config="distro"), "6.9-rc1").symbols
        assert "OLD" in recipe(settings(config="distro"), "5.10").symbols

    def test_an_installed_kernels_will_do(self, distro: Path) -> None:
        (distro / "boot/config-6.1.0-44-amd64").write_text("CONFIG_BOOT=y\n")
        (distro / "boot/config-6.1.0-44-cloud-arm64").write_text("CONFIG_ARM=y\n")
        assert "BOOT" in recipe(settings(config="distro"), "6.1").symbols

    def test_absent_names_the_package(self) -> None:
        with pytest.raises(ConfigError, match=r"apt install linux-config-6\.12$"):
            recipe(settings(config="distro"), "6.12.3")

    def test_broken(self, distro: Path) -> None:
        packaged(distro, "6.1", "")
        (distro / "src/linux-config-6.1/config.amd64_none_amd64.xz").write_bytes(b"no xz")
        with pytest.raises(ConfigError, match="cannot read"):
            recipe(settings(config="distro"), "6.1")

    def test_drops_debians_keys_and_trims(self, distro: Path) -> None:
        packaged(distro, "6.1", 'CONFIG_SYSTEM_TRUSTED_KEYS="debian/certs/x.pem"\n')
        trimmed = recipe(settings(config="distro"), "6.1")
        full = recipe(settings(config="distro-full"), "6.1")
        assert trimmed.over({})["SYSTEM_TRUSTED_KEYS"] == '""'
        assert (trimmed.trimmed, full.trimmed) == (True, False)
        assert trimmed.key != full.key

    def test_what_was_trimmed_stays_away_unless_it_is_wished_for(self, distro: Path) -> None:
        packaged(distro, "6.1", "CONFIG_BTRFS_FS=m\nCONFIG_XFS_FS=m\n")
        result = recipe(settings(config="distro", set=["CONFIG_XFS_FS=m"]), "6.1")
        trimmed = {"BTRFS_FS": "n", "XFS_FS": "n"}
        assert result.with_requests(trimmed)["BTRFS_FS"] == "n"
        assert result.with_requests(trimmed)["XFS_FS"] == "m"
        assert result.with_requests(trimmed)["KGDB"] == "y"

    def test_list_of_modules_is_as_lsmod_writes_it(self) -> None:
        head, *lines = lsmod().splitlines()
        assert head.split()[0] == "Module"
        assert all(len(line.split()) == 3 for line in lines)
        assert len({line.split()[0] for line in lines}) == len(lines)
