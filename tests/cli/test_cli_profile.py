"""`eagle-hf profile`: text, page, trace and metrics; bad input is one line that says what to do."""

import json

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import cli

COMMON = "--dtype float32 --prompt-tokens 24 --rounds 2"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder of a target, a head, and a target without a chat template."""
    folder = tmp_path_factory.mktemp("models")
    target = tiny_target(dtype=torch.float32)
    tokenizer = word_tokenizer()
    for name, model in {"target": target, "head": tiny_head(target), "bare": target}.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "bare" / "chat_template.jinja").unlink()
    return folder


@pytest.fixture(autouse=True)
def in_models(models, monkeypatch):
    monkeypatch.chdir(models)


def test_a_head_is_profiled_into_a_folder(capsys, tmp_path):
    folder = tmp_path / "new" / "out"
    command = f"profile --target target --head head --tree chain:2:1:2 {COMMON} --output-dir"
    assert cli.main([*command.split(), str(folder)]) == 0
    screen = capsys.readouterr().out
    assert "the tree chain:2:1:2 behind 24 tokens, float32" in screen
    assert "| head | LM head | 2 |" in screen
    written = sorted(path.name for path in folder.iterdir())
    assert written == ["metrics.json", "profile.html", "run.json", "trace.json"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == json.loads(screen.splitlines()[-1])
    assert metrics["round_ms"] > metrics["limit_ms"] > 0
    assert json.loads((folder / "run.json").read_text())["settings"]["tree"] == "chain:2:1:2"
    assert "Where a round&#x27;s time goes: target" in (folder / "profile.html").read_text()


def test_plain_decoding_is_profiled_without_a_head(capsys, fixed_sizes):
    assert cli.main(["profile", "--target", "target", "--compile", *COMMON.split()]) == 0
    screen = capsys.readouterr().out
    assert screen.startswith("plain decoding behind 24 tokens, float32")
    assert "| target | matrix products | 49 |" in screen


def test_without_a_chat_template_the_prompt_is_random_and_that_is_said(capsys):
    assert cli.main(["profile", "--target", "bare", *COMMON.split()]) == 0
    assert "no chat template: the prompt is random tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, reason",
    [
        ("--tree chain:2:1:2", "tree is 'chain:2:1:2', but nobody drafts it; give --head"),
        ("--vocab-size 31", "vocab_size is 31, but no --head was given"),
        ("--head head --tree chain:2", "write policy:depth:top_k:nodes"),
        ("--head head --tree adaptive:4:4:8", "plan"),
        ("--prompt-tokens 0", "prompt_tokens is 0; give 1 or more"),
        ("--rounds 0", "rounds is 0; give 1 or more"),
        ("--prompt-tokens 500", "the target's context is 512 tokens; give a prompt of at most"),
        ("--output-dir target/config.json", "output_dir is target/config.json, a file; give a"),
    ],
)
def test_bad_input_says_what_to_do(capsys, flags, reason):
    assert cli.main(["profile", "--target", "target", *flags.split()]) == 2
    assert reason in capsys.readouterr().err
