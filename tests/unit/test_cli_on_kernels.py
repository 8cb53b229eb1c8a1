"""What the commands that run tests on several kernels check before they begin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_change import git as run_git
from test_change import make_tree

from pytest_kgdb.cache import Cache
from pytest_kgdb.cli._gate import _form
from pytest_kgdb.cli._main import _parser, main
from pytest_kgdb.cli._on_kernels import (
    KernelBuilder,
    check_writable,
    common,
    inputs_key,
    one_kernel,
    source_key,
)
from pytest_kgdb.cli._on_kernels import tests_key as key_of_tests
from pytest_kgdb.errors import ConfigError
from pytest_kgdb.gate import BuiltSide, GateFailed, Runner, from_module
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import Settings, make_settings


def test_where_the_outcome_is_to_be_written(tmp_path: Path) -> None:
    check_writable(str(tmp_path / "out.json"), None)
    with pytest.raises(ConfigError, match=r"cannot write .*nonesuch/x: No such file"):
        check_writable(None, str(tmp_path / "nonesuch/x"))


def test_a_search_is_for_the_tests_as_they_are(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text("one")
    keys = [key_of_tests([f"{test}::test_a", "-k", "x"]), key_of_tests([str(tmp_path)])]
    assert keys[0] == key_of_tests([str(test)])
    test.write_text("two")
    assert keys[0] != key_of_tests([str(test)])
    assert keys[1] != key_of_tests([str(tmp_path)])


@pytest.mark.parametrize("name", ["conftest.py", "suite/conftest.py", "suite/helpers.py"])
def test_a_search_is_for_what_the_tests_import_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    test = suite / "test_it.py"
    for path in (test, tmp_path / name):
        path.write_text("one")
    monkeypatch.chdir(suite)
    lines: list[list[str]] = [[f"{test}::test_a"], ["test_it.py"], ["-k", "x"], [str(suite)]]
    keys = [key_of_tests(line) for line in lines]
    assert keys == [key_of_tests(line) for line in lines]
    (tmp_path / name).write_text("two")
    assert all(key != key_of_tests(line) for key, line in zip(keys, lines, strict=True))


def test_a_search_is_for_the_kernel_as_it_is_asked_for(tmp_path: Path) -> None:
    config, fix, quilt, driver = (tmp_path / one for one in ("config", "fix", "quilt", "driver"))
    (quilt / "patches").mkdir(parents=True)
    driver.mkdir()
    (quilt / "patches/series").write_text("one.patch\n")
    for path in (config, fix, tmp_path / "fragment"):
        path.touch()
    settings = make_settings(
        config=str(config),
        patch=[str(fix), str(quilt)],
        fragment=[str(tmp_path / "fragment")],
        module=[str(driver)],
    )
    keys = [inputs_key(settings)]
    for path in (
        config,
        fix,
        tmp_path / "fragment",
        quilt / "patches/one.patch",
        quilt / "patches/series",
        driver / "driver.c",
        driver / "Kbuild",
    ):
        path.write_text("one.patch\n# changed\n")
        keys.append(inputs_key(settings))
    assert len(set(keys)) == len(keys)
    (driver / "driver.o").touch()
    assert inputs_key(settings) == keys[-1]


def test_a_search_is_for_the_source_as_it_is(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    named = [make_settings(kernel=[spec]) for spec in (str(tree), f"{tree}@HEAD")]
    keys = [[source_key(settings) for settings in named]]
    (tree / "mm/one.c").write_text("mine\n")
    keys.append([source_key(settings) for settings in named])
    assert keys[0][0] != keys[1][0], "it is tested as it is"
    assert keys[0][1] == keys[1][1], "a revision is"
    run_git(tree, "commit", "-q", "-a", "-m", "mine")
    keys.append([source_key(settings) for settings in named])
    assert all(len({key[index] for key in keys}) == 3 - index for index in (0, 1))
    assert source_key(make_settings(kernel=["distro:6.1"])) == "distro:6.1"


def test_a_change_is_tested_with_one_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--kgdb-kernel=distro", "--kgdb-config=minimal", "--kgdb-config=defconfig"]
    assert main(["gate", *words, f"--patch={tmp_path}", str(tmp_path)]) == 4
    assert "gate is about one kernel, and --kgdb-config names several" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "revisions"),
    [
        ("v6.1..HEAD", ("v6.1", "HEAD")),
        ("topic/a..", ("topic/a", "")),
        ("..HEAD~2", ("", "HEAD~2")),
        ("..", None),
        ("../tests/test_it.py::test_it", None),
        ("tests/../test_it.py::test_it", None),
        ("../nonesuch/test_it.py", None),
        ("test_it.py::test_it[a..b]", None),
        ("--deselect=../test_it.py::test_it", None),
    ],
)
def test_what_is_a_range_of_revisions(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    revisions: tuple[str, str] | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("test_it.py", "fix.patch"):
        Path(name).touch()
    change = [] if revisions else ["--patch=fix.patch"]
    options, rest = _parser().parse_known_args(["gate", *change, word])
    options.rest = rest
    form = _form(options)
    assert form.range == revisions
    assert form.arguments == ([] if revisions else [word])


def test_files_of_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves the tilde of `--patch=~/fix.patch` as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "fix.patch").touch()
    options, rest = _parser().parse_known_args(["gate", "--patch=~/fix.patch", "test_it.py"])
    options.rest = rest
    assert _form(options).patches == [tmp_path / "fix.patch"]
    commands = {
        "gate": (
            "revert",
            "module",
            "json",
            "markdown",
            "junit",
            "sarif",
            "gitlab",
            "ktap",
            "logs",
        ),
        "bisect": ("patches", "log", "logs"),
        "bisect-step": ("logs",),
    }
    for command, names in commands.items():
        for name in names:
            options, _ = _parser().parse_known_args([command, f"--{name}=~/x"])
            value = getattr(options, name)
            assert value in (f"{tmp_path}/x", [f"{tmp_path}/x"]), (command, name)
    options, _ = _parser().parse_known_args(["bisect", "--configs", "~/good", "~/bad"])
    assert options.configs == [f"{tmp_path}/good", f"{tmp_path}/bad"]
    options, _ = _parser().parse_known_args(["gate", "--revert=HEAD~2"])
    assert options.revert == "HEAD~2"
    options, _ = _parser().parse_known_args(["gate", "--module=~nonesuch/driver@a..b"])
    cache = Cache(tmp_path / "cache", progress=Silent())
    with pytest.raises(ConfigError, match="there is no directory ~nonesuch/driver"):
        from_module(make_settings(kernel=["distro:6.1"]), options.module, cache)


CONFIGURATION = """
[pytest]
kgdb_kernel = distro:6.1
kgdb_patch = bug.patch
kgdb_set = CONFIG_A=y
kgdb_fragment = of-file.config
kgdb_make = LLVM=1
kgdb_smp = 2
kgdb_config = of-file.config
addopts = --kgdb-set=CONFIG_B=y --kgdb-module=driver
"""

TEST = """
from dataclasses import replace
from pytest_kgdb.plugin._configure import settings_of

def test_it(request):
    settings = settings_of(request.config)
    print("settings", repr(replace(settings, origins={}, build_settings=None, repeat=1)))
    print("origin", settings.origin("make"))
"""


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a configuration file that has its say in what is built."""
    (tmp_path / "pytest.ini").write_text(CONFIGURATION)
    (tmp_path / "driver").mkdir()
    for name in ("bug.patch", "other.patch", "of-file.config"):
        (tmp_path / name).touch()
    (tmp_path / "test_it.py").write_text(TEST)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings_of(*words: str) -> Settings:
    options, rest = _parser().parse_known_args(["gate", *words])
    return one_kernel(options, rest)


def test_what_the_configuration_file_says_of_the_build(suite: Path) -> None:
    settings = settings_of("test_it.py")
    assert settings.kernel == ("distro:6.1",)
    assert settings.patch == (suite / "bug.patch",)
    # As pytest has it: addopts is a part of the command line, which replaces the file's list.
    assert settings.set == ("CONFIG_B=y",)
    assert settings.fragment == (suite / "of-file.config",)
    assert settings.config == str(suite / "of-file.config")
    assert settings.make == ("LLVM=1",)
    assert settings.module == (suite / "driver",)
    assert settings.smp == 2
    assert settings.origin("make") == "pytest.ini: kgdb_make"
    words = ["--kgdb-kernel=distro:6.12", "--kgdb-patch=other.patch", "--kgdb-set=CONFIG_C=n"]
    settings = settings_of(*words, "test_it.py")
    assert settings.kernel == ("distro:6.12",)
    assert settings.patch == (suite / "other.patch",)
    assert settings.set == ("CONFIG_B=y", "CONFIG_C=n")


def run_child(suite: Path, settings: Settings, options: list[str]) -> str:
    (suite / "base.log").unlink(missing_ok=True)
    runner = Runner(["test_it.py", "-s"], options, repeat=1, directory=suite)
    with runner.start("base", settings) as child:
        runner.wait({"base": child}, lambda _: None)
    return (suite / "base.log").read_text()


def test_the_tests_run_on_the_kernel_that_is_built(suite: Path) -> None:
    """Neither the file's patches are lost where others come, nor is one of addopts there twice."""
    options, rest = _parser().parse_known_args(["gate", "--kgdb-memory=1G", "test_it.py"])
    base = one_kernel(options, rest)
    patched = replace(base, patch=(*base.patch, suite / "other.patch"), kernel=("distro:6.12",))
    for settings in (base, patched, replace(base, patch=(), set=(), config="minimal", origins={})):
        log = run_child(suite, settings, common(options))
        expected = replace(settings, origins={}, record=suite / "base.jsonl")
        assert f"settings {expected!r}" in log
        assert ("origin pytest.ini: kgdb_make" in log) == bool(settings.origins)


def test_each_run_has_a_cache_of_pytests_that_is_empty(suite: Path) -> None:
    """What failed before is no matter, and options and fixtures that need the cache work."""
    with (suite / "pytest.ini").open("a") as file:
        file.write(" --lf --ff\n")
    (suite / "test_it.py").write_text("def test_a(cache): pass\ndef test_b(): assert 0\n")
    settings = settings_of("test_it.py")
    runner = Runner(["test_it.py"], [], repeat=1, directory=Path("logs"))
    Path("logs").mkdir()
    for _ in range(2):
        with runner.start("base", settings) as child:
            runner.wait({"base": child}, lambda _: None)
            runs = runner.result("base", child)
        assert {name: run.status for name, (run,) in runs.items()} == {
            "test_it.py::test_a": "PASS",
            "test_it.py::test_b": "FAIL",
        }
    assert not [*suite.rglob(".pytest_cache"), *suite.rglob("base.cache")]


def test_what_cannot_be_read(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patch = f"--patch={suite / 'other.patch'}"
    assert main(["gate", patch, "--kgdb-smp=none", "test_it.py"]) == 4
    assert "--kgdb-smp: " in capsys.readouterr().err
    assert main(["gate", patch, "--nonesuch", "test_it.py"]) == 4
    error = capsys.readouterr().err
    assert "pytest cannot read its configuration" in error
    assert "--nonesuch" in error
    (suite / "pytest.ini").write_text("[pytest]\nkgdb_target = serial:/dev/ttyS0,115200\n")
    assert main(["gate", patch, "test_it.py"]) == 4
    assert "pytest.ini: kgdb_target: gate builds kernels" in capsys.readouterr().err
    (suite / "pytest.ini").write_text("[pytest]\nkgdb_kernel = distro:6.1\n  distro:6.12\n")
    assert main(["bisect", "--good=a", "--bad=b", "test_it.py"]) == 4
    assert "bisect is about one kernel" in capsys.readouterr().err
    assert main(["bisect-step", "test_it.py"]) == 128
    assert "bisect-step is about one kernel" in capsys.readouterr().err


def test_a_file_of_settings_that_is_none(suite: Path) -> None:
    for text in ("", "[]", '{"kernel": 1}'):
        (suite / "file").write_text(text)
        with pytest.raises(GateFailed, match="--kgdb-build-settings: cannot read"):
            settings_of("--kgdb-build-settings=file")


def test_kernels_that_differ_in_the_image_alone(tmp_path: Path) -> None:
    """The code of arch/x86/boot is not in vmlinux."""
    for name, text in (("one", "boots"), ("two", "boots"), ("three", "boots otherwise")):
        (tmp_path / name).write_text(text)
    builder = KernelBuilder(Cache(tmp_path / "cache", progress=Silent()), Silent())

    def side(image: str, build_id: str = "abc") -> Any:
        kernel = SimpleNamespace(image=tmp_path / image, build_id=build_id, modules_dir=None)
        return BuiltSide(kernel)  # type: ignore[arg-type]

    assert builder.same(side("one"), side("two"))
    assert not builder.same(side("one"), side("three"))
    assert not builder.same(side("one"), side("two", "def"))
    assert not builder.same(side("one", ""), side("two", ""))
