"""A corrected copy: what follows from the rest is fixed, and what would be a guess is refused."""

import json
import shutil

import pytest
import torch
from breaking import (
    IDS,
    NESTED,
    SGLANG,
    edit_head,
    fixable,
    found,
    other_target,
    trained_on,
    without,
)
from broken_heads import BROKEN, EMBEDDED, LOST, OTHER, SAME_WEIGHTS
from safetensors.torch import load_file

from eagle_hf import Eagle3DraftHead
from eagle_hf.hub.check import check
from eagle_hf.hub.fix import fix


def weights_of(folder):
    return Eagle3DraftHead.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("case", sorted(set(BROKEN) - LOST))
def test_what_follows_from_the_rest_is_fixed(head, saved, target, tmp_path, case):
    BROKEN[case].apply(head)
    before = fixable(check(head, target))
    changes = fix(head, tmp_path / "out", target)
    assert not fixable(check(tmp_path / "out", target))
    assert changes or not before
    fixed = weights_of(tmp_path / "out")
    if case in SAME_WEIGHTS:
        sound = weights_of(saved / "head")
        assert all(torch.equal(fixed[name], sound[name]) for name in sound)


@pytest.mark.parametrize("case", sorted(LOST))
def test_what_would_be_a_guess_is_refused_and_nothing_is_written(head, target, tmp_path, case):
    BROKEN[case].apply(head)
    with pytest.raises(ValueError, match="cannot be mended"):
        fix(head, tmp_path / "out", target)
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


@pytest.mark.parametrize(
    "family, nested_list", [("LlamaForCausalLM", [0, 2, 5]), ("DeepseekV3ForCausalLM", None)]
)
def test_other_layers_are_written_as_each_engine_counts_them(
    head, target, tmp_path, family, nested_list
):
    edit_head(head, trained_on(OTHER))
    other = other_target(target, tmp_path / "other", architectures=[family])
    fix(head, tmp_path / "out", other)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config[IDS] == OTHER
    assert config["eagle_config"].get(IDS) == nested_list
    is_wrong = SGLANG in found(check(tmp_path / "out", other), "error", NESTED)
    assert is_wrong == (nested_list is None)


def test_a_borrowed_lm_head_is_taken_from_the_target(saved, target, tmp_path):
    borrowing = shutil.copytree(saved / "whole", tmp_path / "head")
    edit_head(borrowing, {"draft_vocab_size": None}, weights=without("lm_head.weight"))
    changes = fix(borrowing, tmp_path / "out", target)
    theirs = load_file(target / "model.safetensors")["lm_head.weight"]
    assert torch.equal(weights_of(tmp_path / "out")["lm_head.weight"], theirs)
    assert "lm_head.weight: the target's" in changes[0]
    with pytest.raises(ValueError, match="holds no lm_head.weight"):
        fix(borrowing, tmp_path / "again")


def test_a_map_in_no_order_is_sorted_with_the_rows_of_the_lm_head(head, saved, target, tmp_path):
    order = torch.randperm(24)

    def shuffle(weights):
        ids = (weights["d2t"] + torch.arange(24))[order]
        lm_head = weights["lm_head.weight"][order]
        return weights | {"d2t": ids - torch.arange(24), "lm_head.weight": lm_head}

    edit_head(head, weights=shuffle)
    report = check(head, target)
    assert found(report, "note", "d2t")
    assert not found(report, "error", "d2t")
    fix(head, tmp_path / "out", target)
    fixed = weights_of(tmp_path / "out")
    sound = weights_of(saved / "head")
    for name in ("d2t", "t2d", "lm_head.weight"):
        assert torch.equal(fixed[name], sound[name])


def test_embeddings_are_left_out_only_where_the_target_can_tell(head, target, tmp_path):
    edit_head(head, weights=EMBEDDED)
    with pytest.raises(ValueError, match="embed_tokens.weight: embeddings are shipped"):
        fix(head, tmp_path / "out")
    assert any("not the target's" in change for change in fix(head, tmp_path / "out", target))
    with pytest.raises(ValueError, match="nothing is overwritten"):
        fix(head, tmp_path / "out", target)
