"""A head follows a target whose embeddings were resized; what it drafts stays the same."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import left_padded, tiny_head, tiny_target, word_tokenizer

from eagle_hf import Eagle3DraftHead, Eagle3Trainer, Eagle3TrainingArguments, load_target
from eagle_hf.cli.main import main
from eagle_hf.hub.check import check
from eagle_hf.hub.export import LAYOUTS, export_head
from eagle_hf.target import check_compatible

GREW = 41  # tokens of the resized target; it had 31


@pytest.fixture(scope="module")
def grown():
    """The tiny target after resize_token_embeddings."""
    target = tiny_target()
    target.resize_token_embeddings(GREW, mean_resizing=False)
    return target


@pytest.fixture(params=[24, 31], ids=["part", "whole vocabulary"])
def saved(request, target, tmp_path):
    """The folder of a head that was made for 31 tokens."""
    tiny_head(target, request.param).save_pretrained(tmp_path / "head")
    return tmp_path / "head"


def opened(saved, vocab_size):
    """The head, in float64, with a tree of its own."""
    return Eagle3DraftHead.from_pretrained(
        saved, dtype=torch.float64, tree="saved", vocab_size=vocab_size
    ).eval()


def test_a_head_of_another_size_is_refused_and_the_door_is_named(grown, saved):
    head = opened(saved, None)
    message = "vocabulary 31, this target's is 41.*vocab_size=41.*resize_vocabulary"
    with pytest.raises(ValueError, match=message):
        check_compatible(grown, head.config)


def test_a_head_that_was_told_drafts_losslessly_and_no_new_token(grown, saved):
    head = opened(saved, GREW)
    assert head.draft_to_target.equal(opened(saved, None).draft_to_target)
    assert int(head.draft_to_target.max()) < 31
    inputs = left_padded(grown, [6, 9])
    settings = dict(max_new_tokens=40, do_sample=False, pad_token_id=0)
    plain = grown.generate(**inputs, **settings)
    assert torch.equal(grown.generate(**inputs, assistant_model=head, **settings), plain)
    assert head.last_run.rounds > 0


def test_drafts_are_those_of_before(target, saved):
    """Rows of the old tokens are the same, so that until a new one is emitted nothing changes."""
    same = deepcopy(target)
    same.resize_token_embeddings(GREW, mean_resizing=False)
    with torch.no_grad():
        same.lm_head.weight[31:] = 0
        same.lm_head.weight[31:] -= 1e-9  # never the likeliest: its logits are about 0
    taus = []
    for model, size in ((target, None), (same, GREW)):
        head = opened(saved, size)
        inputs = left_padded(target, [6])
        output = model.generate(
            **inputs, assistant_model=head, max_new_tokens=40, do_sample=False, pad_token_id=0
        )
        taus.append((output.tolist(), head.last_run.rounds))
    assert taus[0] == taus[1]


@pytest.mark.parametrize("to", LAYOUTS)
def test_the_export_has_the_new_size_in_every_layout(to, target, grown, saved, tmp_path):
    head = opened(saved, GREW)
    export_head(head, tmp_path / "out", to, "me/target", grown.config)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    offsets = head.draft_to_target - torch.arange(len(head.draft_to_target))
    assert torch.equal(weights["d2t"], offsets)
    assert weights["t2d"].shape == (GREW,)
    assert weights["t2d"].nonzero()[:, 0].equal(head.draft_to_target)
    config = json.loads(Path(tmp_path, "out", "config.json").read_text())
    config = config.get("transformer_layer_config", config) | config
    assert config["vocab_size"] == GREW
    assert config["draft_vocab_size"] == len(offsets)
    again = Eagle3DraftHead.from_pretrained(tmp_path / "out", dtype="auto")
    assert again.draft_to_target.equal(head.draft_to_target)


def test_a_saved_head_of_the_new_size_passes_the_check(grown, saved, tmp_path):
    opened(saved, GREW).save_pretrained(tmp_path / "resized")
    assert not check(tmp_path / "resized", grown.config).failed
    remedies = [finding.remedy for finding in check(saved, grown.config).findings]
    assert any("export the head with --vocab-size" in remedy for remedy in remedies)


def test_a_smaller_target_needs_every_token_that_is_drafted(target, tmp_path):
    head = tiny_head(target)
    head.set_draft_vocabulary(torch.arange(24))
    with pytest.raises(ValueError, match="vocab_size is 23 but the head drafts tokens up to 23"):
        head.resize_vocabulary(23)
    head.resize_vocabulary(26)
    assert head.t2d.shape == (26,)
    head.resize_vocabulary(24)  # the whole vocabulary, for which engines want no map
    head.save_pretrained(tmp_path)
    assert not {"d2t", "t2d"} & set(load_file(tmp_path / "model.safetensors"))
    assert Eagle3DraftHead.from_pretrained(tmp_path).draft_to_target.equal(torch.arange(24))
    head.resize_vocabulary(31)
    assert head.draft_to_target.equal(torch.arange(24))


def test_a_resized_head_trains(saved, tmp_path):
    target = tiny_target(dtype=torch.float32)
    target.resize_token_embeddings(GREW, mean_resizing=False)
    head = Eagle3DraftHead.from_pretrained(saved, dtype=torch.float32, vocab_size=GREW)
    rows = [{"input_ids": [5, 40, 7, 33, 9, 8, 11, 6], "loss_mask": [0] * 2 + [1] * 6}]
    arguments = Eagle3TrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=2, use_cpu=True, report_to="none", bf16=False
    )
    trainer = Eagle3Trainer(head, target, arguments, rows)
    assert trainer.train().global_step == 2


def test_commands_take_the_size_and_a_tokenizer(saved, tmp_path, capsys):
    target = tiny_target(dtype=torch.float32)
    target.resize_token_embeddings(GREW, mean_resizing=False)
    target.save_pretrained(tmp_path / "target")
    word_tokenizer(GREW).save_pretrained(tmp_path / "words")
    out = tmp_path / "out"
    flags = ["--target", str(tmp_path / "target"), "--vocab-size", str(GREW)]
    assert not main(["export", str(saved), "--to", "vllm", "--out", str(out), *flags])
    assert json.loads((out / "config.json").read_text())["vocab_size"] == GREW
    prompts = tmp_path / "asked.jsonl"
    prompts.write_text(json.dumps({"id": "a", "turns": ["w5 w6"], "category": "words"}) + "\n")
    flags += ["--tokenizer", str(tmp_path / "words"), "--head", str(saved)]
    flags += ["--categories", str(prompts), "--max-new-tokens", "8", "--dtype", "float32"]
    assert not main(["evaluate", *flags, "--out", str(tmp_path / "evaluation")])
    assert load_target(tmp_path / "target", tokenizer=tmp_path / "words")[1].vocab_size == GREW
