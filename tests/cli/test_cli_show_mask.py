"""`eagle-hf show-mask`: what is learnt, in the terminal and as a page, without weights."""

import json

import pytest
from tiny import word_tokenizer
from transformers import GenerationConfig

from eagle_hf import cli


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command on two conversations of a target that is a tokenizer and a generation config."""
    monkeypatch.chdir(tmp_path)
    word_tokenizer().save_pretrained("target")
    GenerationConfig(eos_token_id=2).save_pretrained("target")
    lines = []
    for number in (5, 6):
        question = {"role": "user", "content": f"w{number} w9"}
        answer = {"role": "assistant", "content": "w7 w8"}
        lines.append(json.dumps({"id": f"c{number}", "messages": [question, answer]}) + "\n")
    (tmp_path / "data.jsonl").write_text("".join(lines))
    return ["show-mask", "--target", "target", "--dataset", "data.jsonl"]


def test_a_conversation_is_shown_in_colour(command, capsys):
    assert cli.main([*command, "--row", "1"]) == 0
    out = capsys.readouterr().out
    assert "c6: 8 tokens, 3 learnt" in out
    assert "\x1b[32mw7 w8 w2\x1b[0m" in out


def test_a_conversation_becomes_a_page(command, tmp_path, capsys):
    assert cli.main([*command, "--html", "mask.html"]) == 0
    assert "mask.html" in capsys.readouterr().out
    page = (tmp_path / "mask.html").read_text()
    assert "<mark>w7 w8 w2</mark>" in page
    assert "<h2>c5</h2>" in page


def test_a_row_beyond_the_last_is_refused(command, capsys):
    assert cli.main([*command, "--row", "2"]) == 2
    assert "row is 2 and data.jsonl ends before it" in capsys.readouterr().err


def test_variables_that_the_template_never_reads_are_refused(command, capsys):
    flags = ["--chat-template-kwargs", '{"enable_thinking": false}']
    assert cli.main([*command, *flags]) == 2
    assert "reads no enable_thinking" in capsys.readouterr().err
