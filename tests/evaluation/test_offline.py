"""Measuring: both runs of every prompt, honest equality, the report."""

import json

import pytest
import torch
from tiny import left_padded, word_tokenizer
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from eagle_hf.data.suites import first_turn_ids, load_suite
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.equality import first_difference, sampling_noise
from eagle_hf.evaluation.offline import by_category, evaluate
from eagle_hf.evaluation.report import markdown_table, write_report

PROMPTS = [
    {"id": f"p{i}", "category": "chat" if i % 2 else "code", "turns": [f"w{5 + i} w7"]}
    for i in range(4)
]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "top_k": 0}])
def test_every_prompt_is_answered_both_ways_and_alike(target, trained_head, tokenizer, sampling):
    answers = evaluate(
        target, tokenizer, trained_head, PROMPTS, max_new_tokens=30, progress=False, **sampling
    )
    summaries = by_category(answers)
    assert set(summaries) == {"chat", "code", "all"} and summaries["all"].prompts == 4
    assert summaries["all"].identical == 1.0 and summaries["all"].tau >= 1
    assert all(
        answer.plain_seconds > 0 and torch.equal(answer.plain_ids, answer.fast_ids)
        for answer in answers
    )


def test_the_report_holds_what_was_measured(target, trained_head, tokenizer, tmp_path):
    summaries = by_category(
        evaluate(target, tokenizer, trained_head, PROMPTS, max_new_tokens=30, progress=False)
    )
    write_report(tmp_path, summaries, {"dtype": "float64"})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (
        metrics["facts"] == {"dtype": "float64"}
        and metrics["results"]["all"]["tau"] == summaries["all"].tau
    )
    assert markdown_table(summaries) in (tmp_path / "report.md").read_text()
    assert (tmp_path / "acceptance.png").read_bytes().startswith(b"\x89PNG")


def test_a_difference_is_found_and_its_gap_told(target):
    inputs = left_padded(target, [6])
    plain = target.generate(
        **inputs,
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert first_difference(plain, plain.sequences) is None
    other = plain.sequences.clone()
    other[0, 9] = (other[0, 9] + 1) % 31
    found = first_difference(plain, other)
    best = plain.scores[3][0].topk(2).values
    assert (
        found.position == 9
        and found.gap == pytest.approx(float(best[0] - best[1]))
        and not found.is_tie
    )
    longer = torch.cat([plain.sequences, torch.tensor([[4]])], dim=1)
    assert first_difference(plain, longer).gap == float("inf")


def test_sampling_noise_is_the_one_multinomial_draws():
    torch.manual_seed(5)
    probs = torch.rand(4, 1, 1000).softmax(-1)
    torch.manual_seed(7)
    drawn = [int(torch.multinomial(row, 1)) for row in probs]
    assert drawn == [
        int((row[0] / sampling_noise(7, step, 1000)).argmax()) for step, row in enumerate(probs)
    ]


def test_stats_of_several_runs_add_up():
    first, second = DecodingStats(), DecodingStats()
    first.count(trials=2, accepted=1, tokens=2)
    second.count(trials=1, accepted=0, tokens=1)
    second.count(trials=3, accepted=3, tokens=4)
    total = first + second
    assert total.rounds == 3 and total.tokens == 7 and total.tau == 7 / 3
    assert (
        total.trials == [3, 2, 1]
        and total.accepted == [2, 1, 1]
        and total.alpha == [2 / 3, 0.5, 1.0]
    )


def test_suites_are_spread_evenly_and_unknown_names_refused(tmp_path):
    prompts = load_suite(("chat", "math"), per_category=4)
    assert [prompt["category"] for prompt in prompts] == ["chat"] * 4 + ["math"] * 4
    assert len({prompt["id"] for prompt in prompts}) == 8
    with pytest.raises(ValueError, match="poetry"):
        load_suite(("poetry",))


def test_what_a_head_was_chosen_on_can_be_left_out():
    chosen, others = load_suite(("math",), 20), load_suite(("math",), 30, leave_out=20)
    assert len(others) == 30 and not {prompt["id"] for prompt in chosen} & {
        prompt["id"] for prompt in others
    }
    with pytest.raises(
        ValueError, match="math has 100 prompts and leave_out is 100; leave fewer out"
    ):
        load_suite(("math",), 30, leave_out=100)


def test_no_prompts_and_no_template_are_refused(target, head, tokenizer):
    with pytest.raises(ValueError, match="no prompts"):
        evaluate(target, tokenizer, head, [])
    bare = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"w0": 0}, unk_token="w0"))
    )
    with pytest.raises(ValueError, match="chat template"):
        first_turn_ids(bare, PROMPTS[0])
