"""Every command of README and docs is one that exists: parsed by its own parser, never run."""

import argparse
import os
import re
import shlex
import sys

import pytest
from pages import ROOT, all_pages, open_script
from trl import TrlParser

from eagle_hf.cli import parser

SHELL = ("sh", "bash", "console")
RECIPE = re.compile(r"\w+\.py --")  # a code span such as `train.py --config ...`
COMMANDS = ("eagle-hf ", "python recipes/", "python docs/", "accelerate launch ", "make ")
# programs of others: nothing to parse them with
FOREIGN = ("cd", "git", "hf", "kubectl", "lm_eval", "mkdocs", "sky", "vllm")
VARIABLE = re.compile(r"[A-Z_]+=\S*")


class Parsed(Exception):
    """Raised in place of running a recipe, once its arguments were understood."""


def shell_commands(code: str) -> list[list[str]]:
    """The commands of a shell block as lists of words, comments and continuations resolved."""
    commands = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        current: list[str] = []
        for word in words:
            if word == "&&":
                commands.append(current)
                current = []
            else:
                current.append(word)
        if current:
            commands.append(current)
    return commands


def span_commands(span: str) -> list[list[str]]:
    """The command in a code span; none where the span is something else."""
    text = " ".join(span.split())
    if RECIPE.match(text):
        text = f"python recipes/{text}"
    is_command = text.startswith(COMMANDS) and "..." not in text
    return [shlex.split(text)] if is_command else []


def documented_commands() -> list:
    """Every command with the page that it stands on, as parameters of a test."""
    found = []
    for page in all_pages():
        commands = []
        for block in page.blocks:
            if block.language in SHELL:
                commands += shell_commands(block.code)
        for span in page.spans:
            commands += span_commands(span)
        for words in commands:
            found.append(pytest.param(words, id=f"{page.name}: {shlex.join(words)}"))
    return found


def check_recipe(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a recipe parse its arguments, and stop it there."""
    path = ROOT / words[0]
    assert path.is_file(), f"{words[0]} does not exist"
    parse_arguments = TrlParser.parse_args_and_config
    parse_plainly = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **kwargs):
        parse_arguments(self, *args, **kwargs)
        raise Parsed

    def parse_plainly_and_stop(self, *args, **kwargs):
        parse_plainly(self, *args, **kwargs)
        raise Parsed

    module = open_script(path)
    monkeypatch.setattr(TrlParser, "parse_args_and_config", parse_and_stop)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_plainly_and_stop)
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.chdir(ROOT)
    with pytest.raises(Parsed):
        module.main()


def check_launch(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate launch: its configuration file exists, and the recipe takes the rest."""
    script = next(number for number, word in enumerate(words) if word.endswith(".py"))
    own = words[:script]
    if own:
        assert own[0] == "--config_file"
        assert len(own) == 2
        assert (ROOT / own[1]).is_file()
    check_recipe(words[script:], monkeypatch)


def check_pip(words: list[str]) -> None:
    """pip: files exist, extras are declared, packages have names."""
    declared = (ROOT / "setup.py").read_text() + (ROOT / "pyproject.toml").read_text()
    assert words[0] == "install"
    for option, value in zip(words, words[1:], strict=False):
        if option in ("-c", "-r"):
            assert (ROOT / value).is_file()
        if value.startswith(".["):
            for extra in value[2:-1].split(","):
                assert re.search(rf"\b{extra}\b", declared), f"there is no extra {extra}"


def check_script(words: list[str]) -> None:
    """A script of ours: it can be run, and the files exist that it is given."""
    assert os.access(ROOT / words[0], os.X_OK)
    for word in words[1:]:
        if word.startswith("recipes/"):
            assert (ROOT / word).is_file(), f"{word} does not exist"


def check_make(words: list[str]) -> None:
    """make: the target is in the Makefile, and so are variables that are set."""
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        if VARIABLE.fullmatch(word):
            name = word.split("=")[0]
            assert re.search(rf"^{name} \?=", makefile, flags=re.MULTILINE)
        else:
            assert re.search(rf"^{word}:", makefile, flags=re.MULTILINE), f"no target {word}"


@pytest.mark.parametrize("words", documented_commands())
def test_documented_commands_are_understood(words, monkeypatch):
    while VARIABLE.fullmatch(words[0]):
        words = words[1:]
    program, *rest = words
    if program == "eagle-hf" and rest[-1] == "--help":
        with pytest.raises(SystemExit) as stopped:
            parser().parse_args(rest)
        assert stopped.value.code == 0
    elif program == "eagle-hf":
        parser().parse_args(rest)
    elif program == "accelerate":
        assert rest[0] == "launch"
        check_launch(rest[1:], monkeypatch)
    elif program == "python" and rest[0].startswith("recipes/"):
        check_recipe(rest, monkeypatch)
    elif program == "python":
        assert (ROOT / rest[0]).is_file()
    elif program == "pip":
        check_pip(rest)
    elif program == "make":
        check_make(rest)
    elif program.startswith("recipes/"):
        check_script(words)
    else:
        assert program in FOREIGN, f"{program} is a program that no test knows"
