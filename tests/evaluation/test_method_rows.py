"""The rows of metrics.json: tau two ways, the tree, tiers of entropy, predictions."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import tiny_head, tiny_target, word_tokenizer

from eagle_hf import TreeConfig
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.side_by_side import (
    Contest,
    GroupAnswer,
    KeptAnswers,
    OpenMethod,
    Setting,
    named_methods,
    open_methods,
    predicted_speeds,
    summaries,
    tier_table,
)
from eagle_hf.evaluation.side_by_side.acceptance import acceptance_of, tree_of
from eagle_hf.head.acceptance import Acceptance
from eagle_hf.measuring import fingerprint
from eagle_hf.planning.calibration import Calibration
from eagle_hf.planning.cost import CostTable
from eagle_hf.planning.plan import Plan


def two_requests():
    """One request of 1 round with 4 tokens, one of 3 rounds with 3 tokens; chains of 3."""
    stats = DecodingStats(rows=2)
    for row, accepted in ((0, 3), (1, 0), (1, 0), (1, 0)):
        stats.count(min(3, accepted + 1), accepted, accepted + 1)
        stats.count_row(row, accepted + 1)
        stats.count_draft(3, accepted, 3)
    return stats


def test_tau_by_request_and_by_token():
    found = acceptance_of([two_requests()])
    assert found["tau_requests"]["median"] == (4 + 1) / 2
    assert found["tau_tokens"] == 7 / 4
    assert found["alpha"] == [1 / 4, 1.0, 1.0]
    assert found["vllm"] == {
        "mean_acceptance_length": 1 + 3 / 4,
        "draft_acceptance_rate": 3 / 12,
        "acceptance_histogram": [3, 0, 0, 1],
        "acceptance_histogram_by_draft_length": {"3": [3, 0, 0, 1]},
        "num_spec_steps": 4,
        "num_accepted_draft_tokens": 3,
        "num_draft_tokens": 12,
        "num_spec_tokens": 3,
    }
    assert acceptance_of([DecodingStats(rounds=3, tokens=3)]) is None


def test_the_tree_has_parents_before_children():
    stats = DecodingStats(nodes={"1": [4, 1], "0": [4, 2], "0.0": [2, 2], "1.0": [1, 0]})
    tree = tree_of(stats)
    assert [(node["parent"], node["depth"], node["rank"]) for node in tree] == [
        (-1, 1, 0),
        (-1, 1, 1),
        (0, 2, 0),
        (1, 2, 0),
    ]
    assert [node["accepted"] for node in tree] == [2, 1, 2, 0]
    many = DecodingStats(nodes={"0": [200, 1]} | {f"0.{n}": [n + 1, 0] for n in range(100)})
    assert len(tree_of(many)) == 64
    assert tree_of(many)[0]["visited"] == 200


def test_tiers_are_terciles_of_the_targets_entropy(tmp_path):
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    drafts = DecodingStats(rounds=5, tokens=10, drafted=5)
    for number, entropy in enumerate((0.5, 0.1, 0.9, 0.4, 0.8, 0.2)):
        for method, seconds in (("plain", 1.0), ("drafts", 0.5 + entropy)):
            answer = GroupAnswer(
                method=method,
                setting=Setting(),
                category="all of one",
                prompts=[str(number)],
                seconds=seconds,
                tokens=10,
                stats=drafts if method == "drafts" else DecodingStats(),
                same=1,
                ties=0,
                entropy=entropy if method == "plain" else None,
            )
            kept.add([answer])
    rows = summaries(kept)
    row = next(r for r in rows if (r["method"], r["category"]) == ("drafts", "all"))
    tiers = row["by_entropy"]
    assert [tier["entropy"] for tier in tiers.values()] == [[0.1, 0.2], [0.4, 0.5], [0.8, 0.9]]
    assert [tier["prompts"] for tier in tiers.values()] == [2, 2, 2]
    speeds = [tier["speedup"] for tier in tiers.values()]
    assert speeds == sorted(speeds, reverse=True)
    assert "tau 2.00 (0.10-0.20 nats)" in tier_table(rows)


def test_entropy_is_that_of_the_targets_own_distribution(tmp_path):
    """At temperature 2, too, it is the distribution at temperature 1."""
    target = tiny_target(layers=2, dtype=torch.float32)
    tokenizer = word_tokenizer()
    prompt = {"id": "p", "category": "c", "turns": ["w5 w6"]}
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    contest = Contest(target, tokenizer, [OpenMethod("plain", {})], max_new_tokens=6)
    contest.run([prompt], [Setting(), Setting(temperature=2.0)], kept)
    ids = tokenizer("w3 w5 w6 w2 w4", return_tensors="pt")["input_ids"]
    output = target.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    with torch.no_grad():
        probs = target(output).logits[0, ids.shape[1] - 1 : -1].softmax(-1)
    wanted = float(-(probs * probs.log()).sum(-1).mean())
    assert kept.answers[0].entropy == pytest.approx(wanted, rel=1e-3)
    assert 0 < kept.answers[1].entropy < math.log(31)


def test_trees_that_are_chosen_by_a_plan_are_methods_too(tmp_path):
    target = tiny_target(layers=4, dtype=torch.float32)
    head = tiny_head(target)
    head.save_pretrained(tmp_path / "head")
    costs = CostTable(
        batches=(1,),
        lengths=(64,),
        tokens=(1, 5),
        widths=(1, 2),
        target=(((1.0, 1.1),),),
        draft=(((0.1, 0.1),),),
        overhead=(0.1,),
        facts=fingerprint(target, head),
    )
    Plan(costs, Acceptance().shares, Calibration()).save(tmp_path / "head")
    names = ("head@sequoia:2:2:4", "head@adaptive:2:2:4", "head@dynamic:2:2:4")
    methods = named_methods(list(names))
    tokenizer = word_tokenizer()
    opened, unopened = open_methods(methods, target, tokenizer, str(tmp_path / "head"))
    assert unopened == {}
    prompt = {"id": "p", "category": "c", "turns": ["w5 w6"]}
    kept = KeptAnswers(tmp_path / "answers.jsonl", {})
    Contest(target, tokenizer, opened, max_new_tokens=12).run([prompt], [Setting()], kept)
    predicted = predicted_speeds(opened, target, kept.answers)
    rows = {row["method"]: row for row in summaries(kept, predicted=predicted)}
    for name in names:
        assert rows[name]["identical"] == 1.0
        assert rows[name]["acceptance"]["vllm"]["num_spec_tokens"] <= 2
        assert rows[name]["predicted_speed"] > 0
        assert len(rows[name]["tree"]) >= 2


def test_a_plan_predicts_the_speed_of_the_rounds_that_were_made():
    """With costs that are known, a chain of 2 takes 3 + 2 + 1 where a token takes 1."""
    target = tiny_target(layers=4, dtype=torch.float32)
    head = tiny_head(target)
    head.tree = TreeConfig.parse("chain:2:1:2")
    grids = {"batches": (1,), "lengths": (64,), "tokens": (1, 3), "widths": (1,)}
    costs = CostTable(
        **grids,
        target=(((1.0, 3.0),),),
        draft=(((1.0,),),),
        overhead=(1.0,),
        facts=fingerprint(target, head),
    )
    head.plan = Plan(costs, Acceptance().shares, Calibration())
    method = OpenMethod("head", {"assistant_model": head}, head)
    stats = DecodingStats(rounds=4, tokens=6, drafted=8, forwards=[0, 8])
    stats.by_size = [[], [], [2, 2]]
    answer = GroupAnswer("head", Setting(), "c", ["p"], 1.0, 7, stats, 1, 0)
    found = predicted_speeds([method], target, [answer])
    assert found == {("head", Setting()): pytest.approx((6 / 4) / (3 + 2 + 1))}
    in_batches = replace(answer, setting=Setting(batch=2))
    assert predicted_speeds([method], target, [in_batches]) == {}
