"""The files for CI services: their form, their packages, and what could go wrong unseen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = ("action.yml", "docs/ci/github.yml", "docs/ci/gitlab.yml")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text(name))
    return loaded


@pytest.mark.parametrize("name", FILES)
def test_the_page_has_the_file(name: str) -> None:
    assert f"```yaml\n{text(name)}```" in text("docs/ci.md")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("action.yml", ["vendor.github-actions"]),
        ("docs/ci/github.yml", ["vendor.github-workflows"]),
        ("docs/ci/gitlab.yml", ["vendor.gitlab-ci", "--data-transform=gitlab-ci"]),
    ],
)
def test_the_published_schema(name: str, words: list[str]) -> None:
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", *words, str(ROOT / name)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def packages() -> set[str]:
    """Those of the README, without the kernel's source, of which there are several.

    A container has no certificates, which pip and git need.
    """
    makefile = text("Makefile").replace("\\\n", " ")
    line = re.search(r"^PACKAGES := (.+)$", makefile, re.MULTILINE)
    assert line is not None
    return set(line[1].split()) - {"linux-source-6.1"} | {"ca-certificates"}


@pytest.mark.parametrize("name", ["action.yml", "docs/ci/gitlab.yml"])
def test_the_packages_are_the_projects(name: str) -> None:
    if name == "action.yml":
        scripts = [step.get("run", "") for step in load(name)["runs"]["steps"]]
    else:
        scripts = load(name)[".kgdb"]["before_script"]
    (script,) = (one for one in scripts if "apt-get install" in one)
    words = script.partition("--no-install-recommends")[2].replace("\\\n", " ").split()
    assert {word for word in words if not word.startswith("$")} == packages()
    assert "$SOURCE" in words


def test_the_source_is_of_the_kernel() -> None:
    assert load("action.yml")["inputs"]["source"]["default"] == "linux-source-6.1"
    nightly = load("docs/ci/github.yml")["jobs"]["nightly"]["strategy"]["matrix"]["include"]
    jobs = [(one["kernel"], one["source"], one["image"]) for one in nightly]
    on_gitlab = load("docs/ci/gitlab.yml")["nightly"]["parallel"]["matrix"]
    assert [(one["KERNEL"], one["SOURCE"], one["IMAGE"]) for one in on_gitlab] == jobs
    for kernel, source, _ in jobs:
        assert source == f"linux-source-{kernel.partition(':')[2]}"


def cached(paths: str | list[str], root: str) -> set[str]:
    lines = paths.split() if isinstance(paths, str) else paths
    return {line.removeprefix(root) for line in lines}


def test_what_was_built_is_cached_and_not_where() -> None:
    (step,) = (one for one in load("action.yml")["runs"]["steps"] if one.get("id") == "cache")
    kinds = cached(step["with"]["path"], "~/.cache/pytest-kgdb/v1/")
    assert kinds == {"kernel", "initrd", "disk", "snapshot", "memo"}
    assert "${{ steps.source.outputs.version }}" in step["with"]["key"]
    for job in ("kernel", "nightly"):
        assert load("docs/ci/gitlab.yml")[job]["cache"]["policy"] == "pull-push"
    cache = load("docs/ci/gitlab.yml")[".kgdb"]["cache"]
    assert cached(cache["paths"], ".cache/pytest-kgdb/v1/") == kinds


@pytest.mark.parametrize("name", FILES[:2])
def test_nothing_that_others_write_is_put_into_a_script(name: str) -> None:
    content = load(name)
    jobs = content["jobs"].values() if "jobs" in content else [content["runs"]]
    steps = [step for job in jobs for step in job["steps"]]
    assert steps
    for step in steps:
        assert "${{" not in step.get("run", ""), step["name"]
        # A release of others, not whatever they push.
        uses = step.get("uses", "")
        assert not uses or uses.startswith("OWNER/") or re.fullmatch(r"actions/[\w-]+@v\d+", uses)


def test_jobs_of_the_workflow() -> None:
    jobs = load("docs/ci/github.yml")["jobs"]
    assert set(jobs) == {"kernel", "tests", "gate", "nightly"}
    for job in jobs.values():
        assert job["timeout-minutes"] <= 180
        assert any(step.get("uses", "").startswith("OWNER/pytest-kgdb@") for step in job["steps"])
        names = [step["name"] for step in job["steps"] if "name" in step]
        assert job is jobs["kernel"] or names[-1] == "Keep the reports"
    shards = jobs["tests"]["strategy"]["matrix"]["shard"]
    assert shards == list(range(1, len(shards) + 1))
    # Without its history, there is nothing to compare a pull request with; without git, none.
    first, second = jobs["gate"]["steps"][:2]
    assert first["run"].endswith("git ca-certificates")
    assert second["uses"].startswith("actions/checkout@")
    assert second["with"]["fetch-depth"] == 0
    assert load("docs/ci/gitlab.yml")["gate"]["variables"]["GIT_DEPTH"] == 0


def test_the_actions_inputs_are_described() -> None:
    table = set(re.findall(r"^\| `([a-z-]+)` \|", text("docs/ci.md"), re.MULTILINE))
    assert table == set(load("action.yml")["inputs"])
