"""Drafters of one target, ranked: those that fit are judged, the others say why."""

import json

import pytest
import torch
from tiny import CHAT_TEMPLATE, tiny_head, tiny_target, word_tokenizer

from eagle_hf import WindowedDraft, cli
from eagle_hf.evaluation.side_by_side import OpenMethod
from eagle_hf.evaluation.side_by_side.pairing import notes_on


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A target, its copy as a drafter, a smaller model, a head, and a head of another target."""
    folder = tmp_path_factory.mktemp("models")
    target = tiny_target(layers=4, dtype=torch.float32)
    small = tiny_target(layers=2, seed=3, dtype=torch.float32)
    for name, model in (("target", target), ("copy", target), ("small", small)):
        model.save_pretrained(folder / name)
        word_tokenizer().save_pretrained(folder / name)
    tiny_head(target).save_pretrained(folder / "head")
    other = tiny_target(layers=4, hidden_size=64, dtype=torch.float32)
    tiny_head(other).save_pretrained(folder / "foreign")
    row = {"turns": ["w5 w6"], "category": "mine"}
    (folder / "asked.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"id": "b"}))
    return folder


def test_drafters_are_judged_and_ranked(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    flags = (
        "--target target --heads head foreign --models copy small nowhere --itself --drafts 3 "
        "--categories asked.jsonl --dtype float32 --max-new-tokens 20"
    )
    assert cli.main(["pair", *flags.split()]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((folder / "outputs" / "pair" / "metrics.json").read_text())
    pairs = {pair["drafter"]: pair for pair in metrics["pairs"]}
    assert set(pairs) == {"head head", "model copy", "model small", "itself"}
    assert pairs["model copy"]["tau"] > pairs["model small"]["tau"]
    assert pairs["model copy"]["tau"] > 3
    assert pairs["model copy"]["accepted"] == 1
    assert pairs["model small"]["accepted"] < 1
    assert pairs["model copy"]["size"] == 1
    assert pairs["model small"]["size"] < 1
    for pair in pairs.values():
        assert pair["draft_cost"] > 0
        assert pair["predicted"] > 0
        low, high = pair["interval"]
        assert low <= pair["measured"] <= high
        assert "a round takes" in pair["verdict"]
    assert set(metrics["failures"]) == {"head foreign", "model nowhere"}
    assert "| does not fit: " in printed
    ranks = [line.split(" | ")[1] for line in printed.splitlines() if line.startswith("| 1")]
    assert ranks == [max(pairs, key=lambda name: pairs[name]["measured"])]


@pytest.mark.parametrize(
    ("flags", "message"),
    [("", "give --heads or --models"), ("--itself --drafts 0", "needs at least one")],
)
def test_what_cannot_be_judged_is_refused(flags, message, capsys):
    assert cli.main(["pair", "--target", "target", *flags.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("template", "note"),
    [
        ("{{ messages[0].content }}", "the chat templates differ"),
        (None, "it has no chat template"),
        (CHAT_TEMPLATE, None),
        (CHAT_TEMPLATE + "{# the same #}", None),
    ],
)
def test_chat_templates_are_compared_by_what_they_render(template, note):
    target = tiny_target(layers=2, dtype=torch.float32)
    own = word_tokenizer()
    own.chat_template = template
    drafter = WindowedDraft(tiny_target(layers=2, dtype=torch.float32), vocab_size=31)
    method = OpenMethod("model", {}, drafter, own)
    notes = notes_on(method, target, word_tokenizer())
    assert len(notes) == (note is not None)
    assert all(found.startswith(note) for found in notes)


def test_a_vocabulary_without_a_head_is_refused(capsys):
    assert cli.main(["pair", "--target", "target", "--itself", "--vocab-size", "31"]) == 2
    assert "no --head was given" in capsys.readouterr().err
