"""Imports point down, never up, and never through the package root; recipes use the public API."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import eagle_hf

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "eagle_hf"
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
FLOORS = {
    "compat": 0,
    "contract": 0,
    "head": 0,
    "target": 1,
    "provenance": 2,
    "planning": 2,
    "compilation": 2,
    "decoding": 3,
    "data": 4,
    "hub": 5,
    "measuring": 5,
    "training": 5,
    "evaluation": 6,
    "rollouts": 6,
    "following": 7,
    "pipeline": 7,
    "cluster": 8,
    "quickstart": 9,
    "demo": 10,
    "cli": 11,
}
ROOT_NAMES = {
    "DecodingStats",
    "Eagle3Config",
    "Eagle3DraftHead",
    "Eagle3Trainer",
    "Eagle3TrainingArguments",
    "Plan",
    "SelfSpeculation",
    "SpeculativeRollouts",
    "TreeConfig",
    "WindowedDraft",
    "__version__",
    "compile_target",
    "load_target",
    "new_head",
}
PUBLIC = (
    "cluster",
    "data",
    "evaluation",
    "following",
    "head",
    "hub",
    "measuring",
    "pipeline",
    "target",
    "training",
)


def name_of(path):
    """What a test is called by."""
    return path.stem


def imports(path):
    """The names of all modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name


def imported_names(path):
    """(module, name) of everything that a file imports from this package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "eagle_hf":
            for alias in node.names:
                yield node.module, alias.name


def test_no_import_goes_up_or_through_the_root():
    seen = 0
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "__init__.py":
            continue
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imports(path):
            if name.split(".")[0] == "eagle_hf":
                assert name != "eagle_hf", f"{path} imports through the package root"
                assert FLOORS[name.split(".")[1]] <= FLOORS[room], (
                    f"{path} imports {name}, which is above it"
                )
                seen += 1
    assert seen > 20


def test_the_root_has_a_dozen_names():
    assert set(eagle_hf.__all__) == ROOT_NAMES


@pytest.mark.parametrize("room", PUBLIC)
def test_every_public_name_exists(room):
    module = import_module(f"eagle_hf.{room}")
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name), f"eagle_hf.{room} has no {name}"


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_uses_the_public_api_alone(path):
    rooms = {"eagle_hf"} | {f"eagle_hf.{room}" for room in PUBLIC}
    for module, name in imported_names(path):
        assert module in rooms, f"{path.name} imports {name} from {module}"
        assert name in import_module(module).__all__, f"{module} does not export {name}"


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_no_recipe_imports_another(path):
    others = {recipe.stem for recipe in RECIPES} | {"recipes"}
    for name in imports(path):
        assert name.split(".")[0] not in others, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_says_what_it_needs_and_how_it_is_run(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    for heading in ("Hardware:", "Duration:", "Command:", "Expected:"):
        assert heading in text, f"{path.name} has no {heading}"


@pytest.mark.parametrize("room", PUBLIC)
def test_public_functions_document_their_arguments(room):
    module = import_module(f"eagle_hf.{room}")
    for name in module.__all__:
        function = getattr(module, name)
        if inspect.isfunction(function) and len(inspect.signature(function).parameters) > 1:
            assert "Args:" in inspect.getdoc(function), f"eagle_hf.{room}.{name}"
