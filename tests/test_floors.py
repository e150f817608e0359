"""Imports point down, never up, and never through the package root."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "eagle_hf"
FLOORS = {
    "compat": 0,
    "head": 0,
    "target": 1,
    "provenance": 2,
    "planning": 2,
    "decoding": 3,
    "data": 4,
    "hub": 5,
    "measuring": 5,
    "training": 5,
    "evaluation": 6,
    "quickstart": 7,
    "cli": 8,
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


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
