"""The calls and the exits of a patch's lines: which there are, and what failing them came to."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.errors import ConfigError, KgdbError
from pytest_kgdb.kernel import CallSite, CodeAddress, SourceFile, _source_lines
from pytest_kgdb.recipes import FailEach, FileCoverage, KernelCoverage, LineCoverage, PatchFailures
from pytest_kgdb.recipes import PatchCode as RealPatchCode
from pytest_kgdb.recipes._fail_each import NEVER
from pytest_kgdb.recipes._patch_code import ExitLine, _has_code, exits_in, with_whole_calls
from pytest_kgdb.recipes._patch_failures import PatchRunner
from pytest_kgdb.settings import CoverageTarget
from pytest_kgdb.trace import CallPlaces

# The exits

C = """\
	one = get(1); /* return; */
	if (!one)
		return -ENOMEM;
	if (two) {
		err = -EIO;
		pr_info("no\\n");

		goto out;
	}
	if (three) return 0;
	if (four)
		err = 1;
	goto out;
	switch (n) {
	case 1: return 2;
	default:
		count++;
		return 3;
	}
	returned = 1;
out:
	return err;
""".splitlines()


def test_exits_and_the_lines_that_run_with_them() -> None:
    assert [(one.line, one.lines) for one in exits_in("a.c", C, None)] == [
        (3, (3,)), (8, (5, 6, 8)), (13, (13,)), (15, (15,)), (18, (17, 18)), (22, (22,)),
    ]  # fmt: skip
    assert next(exits_in("a.c", C, None)).text == "return -ENOMEM;"


def test_only_lines_of_the_patch_count() -> None:
    assert [(one.line, one.lines) for one in exits_in("a.c", C, {6, 7, 8})] == [(8, (6, 8))]


@pytest.mark.parametrize(
    ("changed", "requested", "exits", "has_code"),
    [
        ({4}, {3, 4}, [], True),  # an argument alone
        ({6}, {5, 6}, [(5, (5,))], True),
        ({8}, {7, 8}, [], True),  # of a call in what goes on
        ({10}, {10}, [], True),  # of what is no call
        ({12}, {12}, [], False),
    ],
)
def test_a_changed_line_in_the_middle_of_a_call(
    tmp_path: Path,
    changed: set[int],
    requested: set[int],
    exits: list[tuple[int, tuple[int, ...]]],
    has_code: bool,
) -> None:
    path = tmp_path / "a.c"
    path.write_text(
        """\
int show(struct seq_file *m)
{
	one = get(m,
		GFP_KERNEL);
		return put(m,
			-ENOMEM);
	two = one + get(m,
		1);
	three = one +
		two;
	int four;
	/* nothing */
}
"""
    )
    code: dict[int, tuple[CodeAddress, ...]] = {
        line: (CodeAddress("", "", line),) for line in (1, 3, 5, 7, 9)
    }
    file = with_whole_calls(SourceFile("a.c", code, frozenset(changed), path))
    assert file.requested == requested
    assert [(one.line, one.lines) for one in exits_in("a.c", file.text, file.requested)] == exits
    assert _has_code(file) == has_code


def test_there_must_be_a_patch() -> None:
    nothing: Any = None
    with pytest.raises(ConfigError, match=r"no patch to look at\n.*--kgdb-patch"):
        RealPatchCode.of(nothing, [], [], nothing)


def test_patches_that_undo_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a bug and its fix, on top of each other."""
    (tmp_path / "a.c").write_text("int f(void)\n{\n\treturn 1;\n}\n")
    bug = "--- a/a.c\n+++ b/a.c\n@@ -3 +3 @@\n-\treturn 1;\n+\treturn 2;\n"
    fix = "--- a/a.c\n+++ b/a.c\n@@ -3 +3 @@\n-\treturn 2;\n+\treturn 1;\n"
    paths = [tmp_path / name for name in ("bug.patch", "fix.patch")]
    for path, text in zip(paths, (bug, fix), strict=True):
        path.write_text(text)
    code = {"a.c": {3: {CodeAddress("", "", 1)}}}
    monkeypatch.setattr(_source_lines._Selector, "_code_of", lambda self, name: code)
    kernel: Any = SimpleNamespace(source=tmp_path, name="linux + bug + fix", spec="/none")
    cache: Any = None
    why = r"no line that bug\.patch, fix\.patch changes has code in .*: the patches together change"
    with pytest.raises(ConfigError, match=why):
        RealPatchCode.of(kernel, paths, [], cache)
    (file,) = _source_lines.select_lines(kernel, [CoverageTarget("patch")], paths[1:], [], cache)
    assert (file.requested, file.why_not) == ({3}, "")


# The runner

CODE = 0xFFFFFFFF81000000
GET, PUT = CODE + 0x1000, CODE + 0x2000


def site(line: int, callee: str, *, jump: bool = False, module: str = "") -> CallSite:
    after = CodeAddress(module, "", CODE + 16 * line)
    return CallSite("fs/a.c", line, "caller", callee, after, jump, line == 2)


class Exits:
    """The coverage of two exits: at lines 5, and 6 and 7."""

    modules = frozenset[str]()

    def __init__(self) -> None:
        self.tests: dict[int, list[str]] = {5: [], 6: [], 7: []}

    def kernel_code(self, *, booted: bool) -> list[int]:
        assert booted
        return [CODE + 5, CODE + 6]

    def record(self, test: str, places: list[CodeAddress]) -> None:
        for place in places:
            self.tests[place.offset - CODE].append(test)

    def result(self) -> KernelCoverage:
        states = {line: "ran" if tests else "not reached" for line, tests in self.tests.items()}
        states[7] = "optimised away"
        lines = {line: LineCoverage(state, self.tests[line]) for line, state in states.items()}
        return KernelCoverage("k", {"fs/a.c": FileCoverage("fs/a.c", "", lines)})


class World:
    """A kernel of which a scenario calls get() twice from the patch, and put() never."""

    def __init__(self) -> None:
        self.memory = {CODE + 32: (0xE8, GET), CODE + 48: (0xE9, PUT), CODE + 64: (0xE8, GET)}
        self.sites = [site(2, "get"), site(3, "put", jump=True), site(4, "get")]
        self.overrides: list[tuple[str, object, CallPlaces, int]] = []
        self.events: list[str] = []
        self.names: list[str] = []
        self.failing: Any = None
        self.arrived: Any = None
        self.failures: dict[str, int | KgdbError | None] = {"get": 0, "put": -12}
        self.calls = {"get": 2, "put": 0}
        self.ended = False

    # Snapshots, and the kernel

    def take(self, name: str) -> None:
        self.events.append(f"take {name}")

    def restore(self, name: str) -> None:
        self.events.append(f"restore {name}")

    def read(self, address: int, size: int) -> bytes:
        opcode, target = self.memory[address + size]
        return bytes([opcode]) + (target - address - size).to_bytes(4, "little", signed=True)

    # Instruments

    def likely_failure(
        self, function: str, *, checked: bool, entries: Collection[int]
    ) -> int | None:
        assert entries, "which of several functions of the name is called"
        assert checked == (function == "get")
        value = self.failures[function]
        if isinstance(value, KgdbError):
            raise value
        return value

    def arrivals(self, addresses: list[int]) -> Any:
        assert addresses == [CODE + 5, CODE + 6]
        self.arrived = Arrived()
        return self.arrived

    def override(
        self, function: str, value: object, places: CallPlaces, skip: int, times: int | None
    ) -> Any:
        self.overrides.append((function, value, places, skip))
        return Failing(self, function, skip)

    # The scenario, and what runs it

    def scenario(self) -> str:
        self.events.append("scenario")
        self.arrived.reached.add(CODE + 5)
        return "well"

    def run(self, function: str, scenario: Any, fail: Any, *, limit: int, again: bool) -> FailEach:
        assert (limit, again) == (9, False)
        for number in range(self.calls[function] + 1):
            fail(number, 1)
            if number == 1:
                self.arrived.reached.add(CODE + 6)
        return FailEach(function, [], calls=2, complete=not self.ended, ended=self.ended)


class Failing:
    def __init__(self, world: World, function: str, skip: int) -> None:
        self.calls = world.calls[function] if skip == NEVER else 0
        self.function = function

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def delete(self) -> None:
        pass


class Arrived:
    def __init__(self) -> None:
        self.reached: set[int] = set()

    def __enter__(self) -> Arrived:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, failing: object) -> None:
        self.reached = set()


def run(world: World, **options: Any) -> PatchFailures:
    code: Any = SimpleNamespace(
        sites=tuple(world.sites),
        exits=Exits(),
        exit_lines=(
            ExitLine("fs/a.c", 5, "return 0;", (5,)),
            ExitLine("fs/a.c", 7, "goto out;", (6, 7)),
        ),
    )
    parts: Any = world
    runner = PatchRunner(
        parts, parts, parts,
        address=lambda place: None if place.module == "gone" else place.offset, read=world.read,
    )  # fmt: skip
    options = {"returns": {}, "skip": (), "limit": 9, "again": False, **options}
    return runner.run(code, world.scenario, world.override, **options)


def test_each_function_that_is_called_fails_at_its_places() -> None:
    world = World()
    report = run(world)
    assert [one.function for one in report] == ["get"]
    places = CallPlaces({CODE + 32: GET, CODE + 64: GET}, {})
    assert ("get", 0, places, 1) in world.overrides
    assert ("put", -12, CallPlaces({}, {CODE + 43: PUT}), NEVER) in world.overrides
    assert world.events == ["take of_patch-0", "scenario", "restore of_patch-0"]
    assert report.uncalled == ("put(), at fs/a.c:3",)
    assert report.unaimed == ()
    assert report.complete
    assert report.ok
    assert repr(report) == "<PatchFailures of get: 0 not handled>"


def test_which_exits_ran() -> None:
    report = run(World())
    usual, error = report.exits
    assert (usual.usual, usual.state, usual.failures) == (True, "ran", ())
    assert (error.usual, error.state, error.failures) == (False, "ran", ("get() call 2",))
    assert report.error_exits == (error,)
    assert report.missed == ()
    assert "error exits of the patch: 1 of 1 ran\n    fs/a.c:7: goto out;: after get() call 2" in (
        str(report)
    )


def test_an_exit_that_no_run_comes_to() -> None:
    world = World()
    world.calls["get"] = 1
    world.run = lambda *_, **__: FailEach("get", [], calls=1, complete=True)  # type: ignore[method-assign]
    report = run(world)
    (missed,) = report.missed
    assert str(missed) == "fs/a.c:7: goto out;: not reached"


def test_what_is_not_made_to_fail_is_named() -> None:
    world = World()
    world.failures["put"] = KgdbError("put returns a thing")
    world.sites += [site(8, ""), site(9, "far", module="gone")]
    report = run(world)
    assert report.unaimed == (
        "fs/a.c:8: what is called is said by a pointer",
        "put(), at fs/a.c:3: put returns a thing",
        "far(), at fs/a.c:9: its code in caller is not in the kernel now: load the module gone "
        "before of_patch()",
    )
    assert not report.complete
    assert "not made to fail:\n    fs/a.c:8" in str(report)


def test_a_machine_that_has_ended() -> None:
    world = World()
    world.ended, world.calls["put"] = True, 1
    report = run(world)
    assert [one.function for one in report] == ["get"]
    assert not report.complete
    assert report.unaimed == ("put(), at fs/a.c:3: the machine had ended",)


def test_what_returns_nothing_is_left_out() -> None:
    world = World()
    world.failures["put"] = None
    report = run(world)
    assert report.complete
    assert report.uncalled == ()


def test_a_call_that_the_kernel_has_rewritten() -> None:
    world = World()
    world.memory[CODE + 48] = (0x90, PUT)
    (unaimed,) = run(world).unaimed
    assert unaimed == f"put(), at fs/a.c:3: caller has no direct call in front of {CODE + 48:#x}"


def test_the_users_values() -> None:
    world = World()
    run(world, returns={"get": "-EIO"}, skip=["put"])
    assert {(function, value) for function, value, *_ in world.overrides} == {("get", "-EIO")}


@pytest.mark.parametrize("options", [{"skip": ["got"]}, {"returns": {"got": 1}}])
def test_a_function_that_is_not_called(options: Any) -> None:
    with pytest.raises(KgdbError, match=r"do not call got\n.*they call get, put"):
        run(World(), **options)


def test_nothing_to_fail() -> None:
    world = World()
    world.failures = {"get": None, "put": KgdbError("put is odd")}
    with pytest.raises(KgdbError, match=r"can be made to fail:\n  put\(\), at fs/a.c:3: put is"):
        run(world)
    world = World()
    world.calls["get"] = 0
    with pytest.raises(KgdbError, match=r"makes none of the calls .*: get\(\), at .*; put\(\)"):
        run(world)


def test_the_machine_is_restored_where_the_scenario_raises() -> None:
    world = World()

    def scenario() -> str:
        raise AssertionError("it does not pass")

    world.scenario = scenario  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="does not pass"):
        run(world)
    assert world.events[-1] == "restore of_patch-0"


def test_paths_of_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_kgdb.handle._failing import _paths

    monkeypatch.chdir(tmp_path)
    assert _paths(None) is None
    assert _paths("a.patch") == [tmp_path / "a.patch"]
    assert _paths([Path("a"), "/b"]) == [tmp_path / "a", Path("/b")]
