"""A kernel is compiled once; where it cannot be, one sentence says what helps."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eagle_hf.compilation import building
from eagle_hf.compilation.building import BuildError, build_library
from eagle_hf.compilation.operators import SOURCE, Library

LOGGER = "eagle_hf.compilation.operators"
FAILING = (
    "#!/bin/sh\necho 'x.cpp:1: error: no such thing' >&2\n"
    "case $1 in --version) exit 0;; esac\nexit 1\n"
)
COPYING = (
    '#!/bin/sh\necho run >> "$RUNS"\ncase $1 in --version) exit 0;; esac\n'
    'while [ "$1" != -o ]; do shift; done\necho library > "$2"\n'
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EAGLE_HF_CACHE", str(folder))
    return folder


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Installs a script as the C++ compiler; its runs are lines of a file."""
    runs = tmp_path / "runs"
    monkeypatch.setenv("RUNS", str(runs))

    def install(script):
        path = tmp_path / "compiler"
        path.write_text(script)
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return runs

    return install


def test_a_library_is_compiled_once_and_again_when_its_source_changes(cache, compiler, tmp_path):
    runs = compiler(COPYING)
    source = tmp_path / "kernel.cpp"
    source.write_text("int one;")
    first = build_library(source)
    assert first.read_text() == "library\n"
    assert build_library(source) == first
    assert len(runs.read_text().split()) == 3  # one compilation, two questions for the version
    source.write_text("int two;")
    second = build_library(source)
    (tmp_path / "part.h").write_text("int three;")
    assert len({first, second, build_library(source)}) == 3
    assert sorted(path.suffix for path in (cache / "kernels").iterdir()) == [".so"] * 3


@pytest.mark.parametrize("changed", ["compiler_version", "cpu_features"])
def test_a_machine_of_another_kind_gets_a_library_of_its_own(
    changed, cache, compiler, tmp_path, monkeypatch
):
    compiler(COPYING)
    first = build_library(SOURCE)
    monkeypatch.setattr(building, changed, lambda *_: "another")
    assert build_library(SOURCE) != first


def test_a_missing_compiler_is_named(cache, monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"a C\+\+ compiler was not found; install g\+\+"):
        build_library(SOURCE)


def test_the_compiler_may_be_called_by_another_program(cache, compiler, tmp_path, monkeypatch):
    runs = compiler(COPYING)
    launcher = tmp_path / "launch it"
    launcher.write_text('#!/bin/sh\necho launched >> "$RUNS"\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{launcher}' {os.environ['CXX']}")
    assert build_library(SOURCE).read_text() == "library\n"
    assert runs.read_text().split() == ["launched", "run"] * 2  # the version, and the library


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("'g++", r"CXX='g\+\+ cannot be read \(No closing quotation\); install"),
        (" ", "CXX names no compiler"),
        ("no-such-program g++", r"CXX=no-such-program g\+\+ was not found"),
    ],
)
def test_a_compiler_that_cannot_be_called_is_named(command, message, cache, monkeypatch):
    monkeypatch.setenv("CXX", command)
    with pytest.raises(BuildError, match=message):
        build_library(SOURCE)


def test_a_failing_compiler_is_quoted_and_leaves_nothing(cache, compiler):
    compiler(FAILING)
    with pytest.raises(BuildError, match="failed .x.cpp:1: error: no such thing.; install"):
        build_library(SOURCE)
    assert list((cache / "kernels").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(compiler, tmp_path, monkeypatch):
    compiler(COPYING)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("EAGLE_HF_CACHE", str(blocked))
    with pytest.raises(BuildError, match="cannot be written .* set EAGLE_HF_CACHE"):
        build_library(SOURCE)


def test_a_library_is_used_from_a_folder_that_cannot_be_written(cache, compiler, monkeypatch):
    compiler(COPYING)
    library = build_library(SOURCE)
    monkeypatch.setattr(building, "compile_library", None)  # would be a TypeError
    assert build_library(SOURCE) == library


def test_torch_goes_on_where_the_library_cannot_be_built_and_it_is_said_once(
    cache, compiler, caplog
):
    runs = compiler(FAILING.replace("#!/bin/sh", '#!/bin/sh\necho run >> "$RUNS"'))
    library = Library()
    assert not library.load()
    assert not library.load()
    (said,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert said.startswith("torch's own matrix products are used: ")
    assert "install g++" in said
    assert len(runs.read_text().split()) == 2  # the version and one try


def test_a_broken_library_is_refused_and_not_loaded(cache, compiler):
    compiler(COPYING)
    assert not Library().load()


def test_two_builds_at_once_leave_one_whole_library(cache, compiler):
    # each compiler goes on when both have been started, for their version and for the library
    waiting = 'while [ $(wc -l < "$RUNS") -lt 4 ]; do sleep 0.01; done\necho library'
    compiler(COPYING.replace("echo library", waiting))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(build_library, [SOURCE, SOURCE])
    assert first == second
    assert first.read_text() == "library\n"
    assert list(first.parent.iterdir()) == [first]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_two_processes_may_build_at_once(cache):
    code = (
        "import torch; from eagle_hf.compilation.operators import is_available;"
        "assert is_available();"
        "print(torch.ops.eagle_hf.linear(torch.ones(1, 8), torch.ones(2, 8), None).sum().item())"
    )
    environment = {**os.environ, "EAGLE_HF_CACHE": str(cache), "CXX": "g++"}
    processes = []
    for _ in range(2):
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert output.strip() == "16.0"
    assert len(list((cache / "kernels").glob("*.so"))) == 1


def test_the_package_ships_the_sources():
    setup = Path(__file__).parents[2] / "setup.py"
    assert SOURCE.is_file()
    assert '"eagle_hf.compilation": ["*.cpp", "*.h"]' in setup.read_text()
