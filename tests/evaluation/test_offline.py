"""Measuring: both runs of every prompt, honest equality, the report."""

import json

import pytest
import torch
from tiny import left_padded, word_tokenizer
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from eagle_hf.data.prompts.suites import first_turn_ids, load_suite
from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation import (
    by_category,
    evaluate,
    first_difference,
    markdown_table,
    measured_setting,
    read_metrics,
    write_report,
)
from eagle_hf.evaluation.equality import sampling_noise

PROMPTS = [
    {"id": "p0", "category": "code", "turns": ["w5 w7"]},
    {"id": "p1", "category": "chat", "turns": ["w6 w7"]},
    {"id": "p2", "category": "code", "turns": ["w7 w7"]},
    {"id": "p3", "category": "chat", "turns": ["w8 w7"]},
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
    assert set(summaries) == {"chat", "code", "all"}
    assert summaries["all"].prompts == 4
    assert summaries["all"].identical == 1.0
    assert summaries["all"].tau >= 1
    for answer in answers:
        assert answer.plain_seconds > 0
        assert torch.equal(answer.plain_ids, answer.fast_ids)


@pytest.fixture(scope="module")
def summaries(target, trained_head, tokenizer):
    answers = evaluate(target, tokenizer, trained_head, PROMPTS, max_new_tokens=30, progress=False)
    return by_category(answers)


def test_the_report_holds_what_was_measured(target, summaries, tmp_path):
    setting = measured_setting(
        target, summaries, tree="by machine", temperature=0.0, max_new_tokens=30
    )
    write_report(tmp_path, summaries, setting, head_fingerprint="f", target="t", head="h")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["head_fingerprint"] == "f"
    assert metrics["settings"] == [json.loads(json.dumps(setting))]
    assert metrics["settings"][0]["dtype"] == "float64"
    assert metrics["settings"][0]["results"]["all"]["tau"] == summaries["all"].tau
    assert markdown_table(summaries) in (tmp_path / "report.md").read_text()
    assert (tmp_path / "acceptance.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_have_one_schema(target, summaries):
    setting = measured_setting(
        target, summaries, tree="chain:4:1:4", temperature=1.0, max_new_tokens=30, left_out=2
    )
    assert list(setting) == [
        "dtype",
        "tree",
        "temperature",
        "max_new_tokens",
        "left_out",
        "machine",
        "results",
    ]


def test_older_metrics_still_open(tmp_path):
    (tmp_path / "metrics.json").write_text('{"head_sha256": "f", "settings": []}')
    assert read_metrics(tmp_path) == {"head_fingerprint": "f", "settings": []}
    (tmp_path / "metrics.json").write_text('{"head_fingerprint": "g", "settings": []}')
    assert read_metrics(tmp_path) == {"head_fingerprint": "g", "settings": []}


@pytest.fixture
def plain(target):
    """A greedy run of four new tokens or more after six."""
    return target.generate(
        **left_padded(target, [6]),
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_scores=True,
    )


def test_an_equal_output_has_no_difference(plain):
    assert first_difference(plain, plain.sequences) is None


def test_a_difference_is_found_with_its_gap(plain):
    other = plain.sequences.clone()
    other[0, 9] = (other[0, 9] + 1) % 31
    found = first_difference(plain, other)
    best, second = plain.scores[3][0].topk(2).values
    assert found.position == 9
    assert found.gap == pytest.approx(float(best - second))
    assert not found.is_tie


def test_an_output_that_goes_on_differs_without_bound(plain):
    longer = torch.cat([plain.sequences, torch.tensor([[4]])], dim=1)
    assert first_difference(plain, longer).gap == float("inf")


def test_sampling_noise_is_the_one_multinomial_draws():
    torch.manual_seed(5)
    probs = torch.rand(4, 1, 1000).softmax(-1)
    torch.manual_seed(7)
    drawn = [int(torch.multinomial(row, 1)) for row in probs]
    replayed = []
    for step, row in enumerate(probs):
        replayed.append(int((row[0] / sampling_noise(7, step, 1000)).argmax()))
    assert drawn == replayed


def test_stats_of_several_runs_add_up():
    first = DecodingStats()
    first.count(trials=2, accepted=1, tokens=2)
    second = DecodingStats()
    second.count(trials=1, accepted=0, tokens=1)
    second.count(trials=3, accepted=3, tokens=4)
    total = first + second
    assert total.rounds == 3
    assert total.tokens == 7
    assert total.tau == 7 / 3
    assert total.trials == [3, 2, 1]
    assert total.accepted == [2, 1, 1]
    assert total.alpha == [2 / 3, 0.5, 1.0]


def test_suites_are_spread_evenly_and_unknown_names_refused():
    prompts = load_suite(("chat", "math"), per_category=4)
    assert [prompt["category"] for prompt in prompts] == ["chat"] * 4 + ["math"] * 4
    assert len({prompt["id"] for prompt in prompts}) == 8
    with pytest.raises(ValueError, match="poetry"):
        load_suite(("poetry",))


def test_what_a_head_was_chosen_on_can_be_left_out():
    chosen = {prompt["id"] for prompt in load_suite(("math",), 20)}
    others = load_suite(("math",), 30, leave_out=20)
    assert len(others) == 30
    assert not chosen & {prompt["id"] for prompt in others}
    reason = "math has 100 prompts and leave_out is 100; leave fewer out"
    with pytest.raises(ValueError, match=reason):
        load_suite(("math",), 30, leave_out=100)


def test_no_prompts_are_refused(target, head, tokenizer):
    with pytest.raises(ValueError, match="no prompts"):
        evaluate(target, tokenizer, head, [])


def test_no_template_is_refused():
    model = models.WordLevel({"w0": 0}, unk_token="w0")
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    with pytest.raises(ValueError, match="chat template"):
        first_turn_ids(bare, PROMPTS[0])
