"""Flags come from dataclasses: every type of field, defaults in the help, groups."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eagle_hf import TreeConfig, cli
from eagle_hf.cli.command import add_arguments, read_arguments
from eagle_hf.data.prompts import suites


@dataclass(kw_only=True)
class Example:
    name: str = field(metadata={"help": "A name.", "positional": True, "metavar": "NAME"})
    out: Path = field(metadata={"help": "A folder."})
    sizes: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "Some sizes."})
    tree: str | None = field(default=None, metadata={"help": "A tree."})
    keep_all: bool = field(default=False, metadata={"help": "Keep everything."})


def parse(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser, Example)
    return read_arguments(Example, parser.parse_args(words))


def test_fields_become_flags_and_defaults_stay():
    assert parse("a", "--out", "b") == Example(name="a", out=Path("b"))


def test_every_type_of_field_is_read():
    flags = "--out b --sizes 3 4 5 --tree chain:4:1:4 --keep-all"
    expected = Example(name="a", out=Path("b"), sizes=[3, 4, 5], tree="chain:4:1:4", keep_all=True)
    assert parse("a", *flags.split()) == expected


def test_a_field_without_default_is_required(capsys):
    with pytest.raises(SystemExit):
        parse("a")
    assert "--out" in capsys.readouterr().err


def test_help_names_the_defaults():
    parser = argparse.ArgumentParser()
    add_arguments(parser, Example)
    text = " ".join(parser.format_help().split())
    assert "Some sizes. (default: 1 2)" in text
    assert "default: None" not in text


@pytest.mark.parametrize(
    "command, defaults",
    [
        (
            "evaluate --target t --head h",
            {"per_category": 8, "max_new_tokens": 64, "temperature": 0.0, "dtype": "auto"},
        ),
        (
            "plan --target t --head h",
            {"batches": [1, 4, 8], "lengths": [256, 2048, 8000], "window": 496, "repeats": 3},
        ),
        ("quickstart", {"minutes": 5.0, "prompts": 480, "no_train": False}),
        ("serve-command h --engine vllm", {"method": "eagle3", "tp": 1, "tree": None}),
    ],
)
def test_the_defaults_of_the_commands(command, defaults):
    options = vars(cli.parser().parse_args(command.split()))
    for name, value in defaults.items():
        assert options[name] == value


@pytest.mark.parametrize("name", ["export", "check", "merge", "roofline"])
def test_every_command_has_a_help(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([name, "--help"])
    assert exit_.value.code == 0
    assert f"eagle-hf {name}" in capsys.readouterr().out


def test_version_names_what_a_report_needs(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    printed = capsys.readouterr().out
    for name in ("torch", "transformers", "eagle_hf"):
        assert f"{name} " in printed


def test_trees_are_parsed():
    assert TreeConfig.parse("dynamic:4:3:9") == TreeConfig(depth=4, top_k=3, nodes=9)
    assert str(TreeConfig.parse("chain:4:1:4")) == "chain:4:1:4"
    with pytest.raises(ValueError, match="policy:depth:top_k:nodes"):
        TreeConfig.parse("dynamic:4")


def test_every_bundled_category_has_prompts():
    counts = {name: len(suites.load_suite((name,))) for name in suites.SUITES}
    assert counts == {"chat": 80, "code": 164, "math": 100, "multilingual": 80}
