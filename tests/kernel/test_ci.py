"""The files of docs/ci.md and action.yml: their steps, run as shell in a project of their own."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from test_gate import PATCH

from pytest_kgdb.kernel import Kernel
from pytest_kgdb.process import run
from pytest_kgdb.settings import from_pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SECONDS = 900.0
INSTALLS = re.compile(r"\bapt-get\b|\bpip\b|\b-m venv\b")
_EXPRESSION = re.compile(r"\$\{\{ *(.*?) *\}\}")

TESTS = """
import pytest
from pytest_kgdb import KgdbError

def test_fix(kgdb):
    try:
        assert kgdb.evaluate("kgdb_gate_fix").string() == "fixed"
    except KgdbError:
        pytest.xfail("this kernel has it not") if {expected} else pytest.fail("it is not fixed")

@pytest.mark.parametrize("number", range(5))
def test_other(kgdb, number):
    assert kgdb.run(f"echo {{number}}").output == f"{{number}}\\n"

@pytest.mark.xdist_group("shared")
def test_shared(kgdb_session):
    assert kgdb_session.run("true").status == 0
"""


@dataclass
class Project:
    """A project with tests and a patch, and what its jobs have around them."""

    path: Path
    environment: dict[str, str]
    outputs: dict[str, str] = field(default_factory=dict)

    def tests(self, *, expected: bool) -> None:
        (self.path / "tests/test_it.py").write_text(TESTS.format(expected=expected))

    def git(self, *words: str) -> None:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *words], cwd=self.path, check=True, capture_output=True)

    def shell(self, script: str, environment: Mapping[str, str] = {}) -> tuple[int, str]:
        """Run a step as GitHub does; return its status, and what it printed."""
        done = run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.path,
            env={**self.environment, **environment},
            timeout=SECONDS,
            check=False,
        )
        return done.status, done.output

    def job(self, steps: list[dict[str, Any]], **context: Any) -> tuple[int, str]:
        """Run a job's steps; return the status of the one that failed, and what all printed."""
        output = ""
        for step in steps:
            script = step.get("run")
            if script is None or INSTALLS.search(script):
                continue  # an action of others'; packages: tests/unit/test_ci.py
            assert not _EXPRESSION.search(script), "what others write does not belong in a script"
            environment = {key: expanded(value, context) for key, value in env(step).items()}
            status, text = self.shell(script, environment)
            output += text
            if status:
                return status, output
        return 0, output


def env(part: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in part.get("env", {}).items()}


def expanded(text: str, context: Mapping[str, Any]) -> str:
    """Return a value with the expressions that these files have."""

    def value(match: re.Match[str]) -> str:
        found: Any = context
        for name in match[1].split("."):
            found = found[name]
        return str(found)

    return _EXPRESSION.sub(value, text)


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return loaded


@pytest.fixture
def project(tmp_path: Path, pytestconfig: pytest.Config, kgdb_kernel: Kernel) -> Project:
    """A project of a user's, in a home of its own whose cache has the kernel."""
    home, path = tmp_path / "home", tmp_path / "project"
    cache = home / ".cache/pytest-kgdb"
    cache.mkdir(parents=True)
    for name in ("v1", "gdb-index"):  # what was built; what is measured and logged stays here
        (cache / name).symlink_to(from_pytest(pytestconfig).cache_dir / name)
    (path / "tests").mkdir(parents=True)
    (path / "patches").mkdir()
    (path / "pytest.ini").write_text("[pytest]\n")
    environment = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "KERNEL": kgdb_kernel.spec,
        "TMPDIR": str(tmp_path),
    }
    project = Project(path, environment)
    project.tests(expected=True)
    project.git("init", "-q", "-b", "main")
    project.git("add", ".")
    project.git("commit", "-q", "-m", "tests")
    project.git("update-ref", "refs/remotes/origin/main", "HEAD")
    return project


def on_github(project: Project) -> None:
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_ENV"):
        path = project.path.parent / name
        path.touch()
        project.environment[name] = str(path)
    project.environment |= {
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(project.path),
        "GITHUB_BASE_REF": "main",
        "RUNNER_TEMP": str(project.path.parent),
        "GITHUB_ACTION_PATH": str(ROOT),
    }


def on_gitlab(project: Project) -> None:
    variables = {key: str(value) for key, value in load("docs/ci/gitlab.yml")["variables"].items()}
    base = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=project.path, text=True)
    project.environment = {
        **variables,
        **project.environment,
        "CI": "true",
        "GITLAB_CI": "true",
        "CI_PROJECT_DIR": str(project.path),
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": base.strip(),
    }
    cache = Path(project.environment["HOME"], ".cache")
    (project.path / ".cache").symlink_to(cache)
    project.environment["XDG_CACHE_HOME"] = str(project.path / ".cache")


def scripts(job: dict[str, Any], common: dict[str, Any]) -> list[dict[str, Any]]:
    """A job of GitLab's as steps: what is run in one shell is one."""
    lines = (*common["before_script"], *job["script"])
    return [{"run": "\n".join(line for line in lines if not INSTALLS.search(line))}]


def ran(path: Path) -> set[str]:
    """The tests of a JUnit file."""
    cases = ElementTree.parse(path).getroot().iter("testcase")
    return {f"{case.get('classname')}::{case.get('name')}" for case in cases}


ALL = {"tests.test_it::test_fix", "tests.test_it::test_shared"} | {
    f"tests.test_it::test_other[{number}]" for number in range(5)
}


def check_shards(shards: list[set[str]]) -> None:
    assert set().union(*shards) == ALL
    for one, other in itertools.combinations(shards, 2):
        assert not one & other


def add_patch(project: Project, text: str = PATCH) -> None:
    project.tests(expected=False)
    (project.path / "patches/fix.patch").write_text(text)
    project.git("add", ".")
    project.git("commit", "-q", "-m", "a fix")


# -- GitHub ---------------------------------------------------------------------------------------


@pytest.fixture
def workflow(project: Project) -> dict[str, Any]:
    on_github(project)
    return load("docs/ci/github.yml")


def test_the_action(project: Project) -> None:
    on_github(project)
    action = load("action.yml")
    # The source's package is that of the host.
    status, output = project.job(
        action["runs"]["steps"], inputs={"source": "libc6", "packages": ""}
    )
    assert status == 0, output
    assert re.search(r"^ok +gdb ", output, re.MULTILINE)
    written = Path(project.environment["GITHUB_OUTPUT"]).read_text()
    assert re.fullmatch(r"version=\d[\w.+~:-]+\n", written)
    status, _ = project.job(action["runs"]["steps"], inputs={"source": "", "packages": ""})
    assert status == 0
    assert Path(project.environment["GITHUB_OUTPUT"]).read_text() == f"{written}version=none\n"


def test_the_kernel_is_built_once(project: Project, workflow: dict[str, Any]) -> None:
    status, output = project.job(workflow["jobs"]["kernel"]["steps"])
    assert status == 0, output
    assert re.search(r"image +/.*bzImage", output)


@pytest.mark.parametrize("measured", [False, True], ids=["even", "measured"])
def test_the_shards(project: Project, workflow: dict[str, Any], measured: bool) -> None:
    if measured:
        tests = {"tests/test_it.py::test_fix": 9.0, "tests/test_it.py::test_shared": 3.0}
        text = json.dumps({"schema": "pytest-kgdb durations 1", "tests": tests})
        (project.path / "tests/durations.json").write_text(text)
    job = workflow["jobs"]["tests"]
    shards, numbers = [], job["strategy"]["matrix"]["shard"]
    for shard in numbers:
        strategy = {"job-total": len(numbers)}
        status, output = project.job(job["steps"], matrix={"shard": shard}, strategy=strategy)
        assert status == 0, output
        assert f"kgdb: shard {shard}/{len(numbers)}: " in output
        assert (" s of " in output) is measured
        shards.append(ran(project.path / "report.xml"))
    check_shards(shards)
    if measured:
        assert {"tests.test_it::test_fix"} in shards


def test_a_pull_request_with_a_patch(project: Project, workflow: dict[str, Any]) -> None:
    add_patch(project)
    status, output = project.job(workflow["jobs"]["gate"]["steps"])
    assert status == 0, output
    assert "proven: 1 proves the fix, 6 passes both" in output
    summary = Path(project.environment["GITHUB_STEP_SUMMARY"]).read_text()
    assert "### pytest-kgdb gate: proven" in summary
    assert json.loads((project.path / "gate.json").read_text())["verdict"] == "proven"
    assert list((project.path / "artifacts").glob("*.log"))


def test_a_pull_request_whose_tests_prove_nothing(
    project: Project, workflow: dict[str, Any]
) -> None:
    add_patch(project)
    project.tests(expected=True)
    text = (project.path / "tests/test_it.py").read_text()
    (project.path / "tests/test_it.py").write_text(text.replace("def test_fix", "def fix"))
    status, output = project.job(workflow["jobs"]["gate"]["steps"])
    assert status == 1, output
    assert "not proven" in Path(project.environment["GITHUB_STEP_SUMMARY"]).read_text()


def test_a_pull_request_without_a_patch(project: Project, workflow: dict[str, Any]) -> None:
    assert project.job(workflow["jobs"]["gate"]["steps"]) == (0, "")
    summary = Path(project.environment["GITHUB_STEP_SUMMARY"]).read_text()
    assert summary == "No patch is changed.\n"


def test_the_night(project: Project, workflow: dict[str, Any]) -> None:
    kernel = project.environment["KERNEL"]
    status, output = project.job(workflow["jobs"]["nightly"]["steps"], matrix={"kernel": kernel})
    assert status == 0, output
    assert "kgdb: tests by kernel" in output
    assert re.search(r"the same in all 2 columns: 1 XFAIL, 6 PASS", output)
    assert len(ran(project.path / "report.xml")) == 14
    (durations,) = (project.path / "durations").glob("project-*.json")
    assert "tests/test_it.py::test_other[smp2-4]" in json.loads(durations.read_text())["tests"]


# -- GitLab ---------------------------------------------------------------------------------------


@pytest.fixture
def pipeline(project: Project) -> dict[str, Any]:
    on_gitlab(project)
    return load("docs/ci/gitlab.yml")


def run_job(
    project: Project, pipeline: dict[str, Any], name: str, **variables: str
) -> tuple[int, str]:
    project.environment |= variables
    return project.job(scripts(pipeline[name], pipeline[".kgdb"]))


def test_the_kernel_is_built_on_gitlab(project: Project, pipeline: dict[str, Any]) -> None:
    status, output = run_job(project, pipeline, "kernel")
    assert status == 0, output
    assert re.search(r"image +/.*bzImage", output)


def test_the_shards_on_gitlab(project: Project, pipeline: dict[str, Any]) -> None:
    shards, total = [], pipeline["tests"]["parallel"]
    for index in range(1, total + 1):
        words = {"CI_NODE_INDEX": str(index), "CI_NODE_TOTAL": str(total)}
        status, output = run_job(project, pipeline, "tests", **words)
        assert status == 0, output
        shards.append(ran(project.path / "report.xml"))
    check_shards(shards)


def test_a_merge_request(project: Project, pipeline: dict[str, Any]) -> None:
    status, output = run_job(project, pipeline, "gate")
    assert status == 0, output
    assert "No patch is changed." in output
    add_patch(project)
    status, output = run_job(project, pipeline, "gate")
    assert status == 0, output
    assert "proven: 1 proves the fix, 6 passes both" in output
    assert "### pytest-kgdb gate: proven" in (project.path / "gate.md").read_text()


def test_the_night_on_gitlab(project: Project, pipeline: dict[str, Any]) -> None:
    status, output = run_job(project, pipeline, "nightly")
    assert status == 0, output
    assert len(ran(project.path / "report.xml")) == 14
    assert list((project.path / "durations").glob("project-*.json"))
