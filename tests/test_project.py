"""The project's front door: what is shipped, under which licence, and that its files agree."""

import email
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest
import yaml

import eagle_hf

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [
    path
    for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    if path.stem != "config"
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that pip builds from a copy of the project, with the setuptools at hand."""
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "eagle_hf", source / "eagle_hf", ignore=ignored)
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", folder, source], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def lint_pins(metadata) -> set[str]:
    """The requirements of the `lint` extra, as "ruff==0.17.6"."""
    pins = set()
    for requirement in metadata.get_all("Requires-Dist"):
        name, _, condition = requirement.partition(";")
        if condition.strip() == 'extra == "lint"':
            pins.add(name.strip())
    return pins


def test_the_wheel_names_its_licence_and_its_authors(metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "The eagle_hf authors"
    assert metadata.get_all("License-File") == ["LICENSE", "eagle_hf/data/bundled/SOURCES.md"]


def test_the_wheel_holds_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    missing = []
    for path in sorted((ROOT / "eagle_hf").rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and "__pycache__" not in path.parts and name not in shipped:
            missing.append(name)
    assert missing == []


def test_the_package_says_that_it_is_typed(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert "eagle_hf/py.typed" in archive.namelist()


def test_the_version_stands_in_one_place(metadata):
    assert metadata["Version"] == eagle_hf.__version__
    for name in ("setup.py", "pyproject.toml"):
        assert f'"{eagle_hf.__version__}"' not in (ROOT / name).read_text()


def test_the_citation_is_that_of_this_version(metadata):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == eagle_hf.__version__
    assert citation["license"] == metadata["License-Expression"]
    assert citation["authors"] == [{"name": metadata["Author"]}]
    assert citation["repository-code"] == metadata["Home-page"]


def test_the_changelogs_newest_release_is_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    version, date = re.search(r"^## (\d\S*) - (\S+)$", text, re.MULTILINE).groups()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert version == eagle_hf.__version__
    assert date == citation["date-released"]


def make_targets() -> set[str]:
    """What the Makefile declares as targets that are no files."""
    declared = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return set(" ".join(declared).split())


def commands_of(workflow: dict) -> list[str]:
    """The shell commands of a workflow, with `${{ matrix.target }}` filled in."""
    commands = []
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {}).get("include", [{}])
        for step in job["steps"]:
            for values in matrix:
                command = step.get("run", "")
                commands.append(command.replace("${{ matrix.target }}", values.get("target", "")))
    return commands


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_that_exist(path):
    commands = commands_of(yaml.safe_load(path.read_text()))
    named = re.findall(r"\bmake ([\w-]+)", "\n".join(commands))
    assert named
    assert set(named) <= make_targets()


def test_public_ci_runs_the_linters_both_transformers_the_docs_and_the_slow_tests():
    named = set()
    for path in WORKFLOWS:
        for command in commands_of(yaml.safe_load(path.read_text())):
            named.update(re.findall(r"\bmake ([\w-]+)", command))
    assert named == {
        "lint",
        "test",
        "test-oldest",
        "test-quantised",
        "test-lm-eval",
        "docs",
        "test-slow",
    }


def test_ci_begins_with_the_linters_and_runs_targets_that_exist():
    named = re.findall(r"^make ([\w-]+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert named[0] == "lint"
    assert set(named) <= make_targets()


def test_documents_name_targets_that_exist():
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        named = re.findall(r"`make ([\w-]+)", (ROOT / name).read_text())
        assert set(named) <= make_targets()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_ask_labelled_questions(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    questions = [field["id"] for field in form["body"]]
    assert len(set(questions)) == len(questions)
    for field in form["body"]:
        assert field["type"] in {"dropdown", "input", "textarea"}
        assert field["attributes"]["label"]


def test_hooks_before_a_commit_have_the_versions_of_the_lint_extra(lint_pins):
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    pins = set()
    for repository in hooks["repos"]:
        if repository["repo"].endswith("/ruff-pre-commit"):
            pins.add("ruff==" + repository["rev"].removeprefix("v"))
        for hook in repository["hooks"]:
            pins.update(hook.get("additional_dependencies", []))
    assert pins == lint_pins
