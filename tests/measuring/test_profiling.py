"""Where a round's time goes: nothing is lost, and products are known by their shapes."""

import re

import pytest
import torch
from tiny import left_padded, tiny_head, tiny_target

from eagle_hf import TreeConfig
from eagle_hf.measuring.profiling import profile_metrics, profile_page, profile_rounds, profile_text
from eagle_hf.measuring.profiling.groups import BETWEEN, LM_HEAD, OTHER, PRODUCTS
from eagle_hf.measuring.profiling.reading import multiplied_bytes, stored_bytes
from eagle_hf.measuring.profiling.report import group_totals, operator_totals
from eagle_hf.measuring.profiling.rounds import TRACED_ROUNDS
from eagle_hf.measuring.profiling.timeline import median_round

CHAIN = TreeConfig("chain", depth=2)
FLOAT64 = 8  # bytes
HIDDEN = 32


def prompt_of(target, length=20):
    return left_padded(target, [length])["input_ids"]


@pytest.fixture(scope="module")
def plain(target):
    """A profile of plain decoding."""
    return profile_rounds(target, None, prompt_of(target), rounds=4)


@pytest.fixture(scope="module")
def drafted(target, trained_head):
    """A profile of rounds with a chain of two."""
    return profile_rounds(target, trained_head, prompt_of(target), tree=CHAIN, rounds=4)


@pytest.fixture(params=["plain", "drafted"])
def profile(request):
    return request.getfixturevalue(request.param)


def test_operators_and_what_lies_between_add_up_to_each_round(profile):
    traced = profile.traced
    assert len(traced.seconds) == TRACED_ROUNDS
    for number, whole in enumerate(traced.seconds):
        own = [call.seconds for call in traced.calls if call.round == number]
        assert sum(own) == pytest.approx(whole, rel=1e-6)
        assert min(own) >= 0
    totals = group_totals(traced.calls)
    assert sum(total.seconds for total in totals) == pytest.approx(sum(traced.seconds))


def test_phases_lie_within_the_timed_rounds(profile):
    timed = profile.timed
    assert len(timed.seconds) == 4
    for number, whole in enumerate(timed.seconds):
        assert 0 < sum(seconds[number] for seconds in timed.phases.values()) <= whole


def test_every_phase_has_operators(plain, drafted):
    def phases(profile):
        return {call.phase for call in profile.traced.calls if call.group != BETWEEN}

    assert phases(plain) == {"target", "accept"}
    assert phases(drafted) == {"target", "head", "draft", "accept", "commit"}
    assert set(plain.timed.phase_medians) == phases(plain)
    assert set(drafted.timed.phase_medians) == phases(drafted)


def test_few_operators_of_our_rounds_are_unknown(profile):
    unknown = sum(call.seconds for call in profile.traced.calls if call.group == OTHER)
    assert unknown < 0.02 * sum(profile.traced.seconds)


def test_products_of_a_forward_read_every_matrix_once(target, plain):
    products = [call for call in plain.traced.calls if call.product and call.round == 0]
    groups = [call.group for call in products]
    assert groups.count(PRODUCTS) == 7 * 7  # layers, and q k v o gate up down
    assert groups.count(LM_HEAD) == 1
    norms = (2 * 7 + 1) * HIDDEN * FLOAT64
    read = sum(call.product.weight_bytes for call in products)
    assert read == multiplied_bytes(target) - norms
    assert {str(call.product) for call in products} == {
        "1 x 32 -> 32",
        "1 x 32 -> 16",
        "1 x 32 -> 64",
        "1 x 64 -> 32",
        "1 x 32 -> 31",
    }


def test_speeds_of_products_are_bytes_over_seconds(plain):
    totals = operator_totals(plain.traced.calls)
    (lm_head,) = [total for total in totals if total.group == LM_HEAD]
    read = TRACED_ROUNDS * 31 * HIDDEN * FLOAT64
    assert lm_head.bytes_per_second == pytest.approx(read / lm_head.seconds)


def test_a_round_reads_the_target_once_and_the_head_with_each_of_its_forwards(
    drafted, trained_head
):
    limit = drafted.limit
    fusion = 3 * HIDDEN * HIDDEN * FLOAT64
    assert limit.fusion_bytes == fusion
    assert limit.head_bytes == stored_bytes(trained_head) - fusion
    assert limit.draft_forwards == drafted.timed.draft_forwards == 2
    assert limit.round_bytes == limit.target_bytes + fusion + 2 * limit.head_bytes
    assert drafted.over_limit == pytest.approx(
        drafted.timed.median * limit.bytes_per_second / limit.round_bytes
    )
    in_head = [call for call in drafted.traced.calls if call.phase == "head"]
    assert [call.group for call in in_head].count(LM_HEAD) == 2 * TRACED_ROUNDS


@pytest.mark.parametrize("is_tied", [False, True])
def test_an_embedding_table_is_read_where_it_is_the_lm_head(is_tied):
    target = tiny_target(layers=1, tie_word_embeddings=is_tied)
    attention = 2 * HIDDEN * (32 + 16)
    mlp = 3 * HIDDEN * 64
    norms = 3 * HIDDEN
    lm_head = HIDDEN * 31
    assert multiplied_bytes(target) == FLOAT64 * (attention + mlp + norms + lm_head)


def test_plain_rounds_emit_one_token_and_drafted_ones_at_least_one(plain, drafted):
    assert plain.timed.tokens == 1
    assert plain.timed.draft_forwards == 0
    assert 1 <= drafted.timed.tokens <= 3


@pytest.mark.usefixtures("fixed_sizes")
@pytest.mark.parametrize("drafts", [False, True])
def test_rounds_of_fixed_sizes_are_profiled_too(target, trained_head, drafts):
    head = trained_head if drafts else None
    profile = profile_rounds(target, head, prompt_of(target), rounds=1, keeps_size=True)
    attention = [call for call in profile.traced.calls if call.phase == "target"]
    assert attention
    assert profile.tree == (str(trained_head.tree) if drafts else None)


def test_a_trace_is_kept_for_other_viewers(target, tmp_path):
    path = tmp_path / "trace.json"
    profile_rounds(target, None, prompt_of(target), rounds=1, trace=path)
    text = path.read_text()
    assert text.count('"eagle_hf.round"') >= TRACED_ROUNDS
    assert "aten::linear" in text


def test_text_says_how_far_a_round_is_from_its_limit(profile):
    text = profile_text(profile)
    assert f"a round takes {profile.over_limit:.1f} times what reading its weights takes" in text
    assert "| target | matrix products | 49 |" in text
    assert "rows x inputs -> outputs" in text


def test_metrics_have_the_numbers_of_the_text(drafted):
    metrics = profile_metrics(drafted)
    assert metrics["tree"] == "chain:2:1:2"
    assert metrics["round_ms"] == 1000 * drafted.timed.median
    groups = sum(row["ms"] for row in metrics["groups"])
    assert groups == pytest.approx(metrics["profiled_round_ms"])


def test_the_page_needs_no_other_file_and_draws_every_operator(drafted):
    page = profile_page(drafted, "Rounds of <mine>")
    assert "<h1>Rounds of &lt;mine&gt;</h1>" in page
    for loading in ("<script", "<link", "<img", "src=", "href=", "url(", "@import", "http"):
        assert loading not in page
    number = median_round(drafted.traced)
    bars = [
        call for call in drafted.traced.calls if call.round == number and call.start is not None
    ]
    spans = [span for span in drafted.traced.spans if span.round == number]
    assert page.count("<rect") == len(bars) + len(spans)
    assert page.count("<title>") == len(bars) + len(spans) + 1
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_bars_lie_inside_the_drawing(drafted):
    page = profile_page(drafted, "Rounds")
    for left, width in re.findall(r'<rect [^>]*x="([\d.]+)"[^>]*width="([\d.]+)"', page):
        assert 75 <= float(left) <= float(left) + float(width) <= 1200.2


def test_a_prompt_that_leaves_the_context_is_refused(target):
    ids = torch.full((1, 500), 5)
    message = "the prompt has 500 tokens .* context is 512 tokens; give a prompt of at most"
    with pytest.raises(ValueError, match=message):
        profile_rounds(target, None, ids)


def test_a_tree_without_a_head_is_refused(target):
    with pytest.raises(ValueError, match="chain:2:1:2 was given without a head"):
        profile_rounds(target, None, prompt_of(target), tree=CHAIN)


def test_no_rounds_are_refused(target):
    with pytest.raises(ValueError, match="rounds is 0"):
        profile_rounds(target, None, prompt_of(target), rounds=0)


def test_a_head_of_another_target_is_refused(target):
    other = tiny_target(vocab_size=40)
    with pytest.raises(ValueError, match="vocab"):
        profile_rounds(target, tiny_head(other), prompt_of(target))
