"""Counters of drafts: several ranks are one server, and answers that say little are read."""

from eagle_hf.data.answers.draft_counts import DraftCounts, counts_of, drafts_in_answer
from eagle_hf.data.answers.draft_counts import read_counters as read

RANKS = """\
vllm:spec_decode_num_drafts_total{engine="0",model_name="a {b} c"} 1e+06
vllm:spec_decode_num_drafts_total{engine="1",model_name="a {b} c"} 2.0
vllm:spec_decode_num_drafts_created{engine="0"} 1.7e+09
vllm:spec_decode_num_accepted_tokens_total{engine="0"} 3.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="10"} 1.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="2"} 1.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",position="2"} 4.0
"""


def test_ranks_are_added_and_positions_are_in_order_of_numbers():
    assert read(RANKS) == DraftCounts(1_000_002, 3, None, [5, 1])


def test_an_older_sglang_counts_rounds_alone():
    drafts = drafts_in_answer({"meta_info": {"spec_verify_ct": 4}})
    assert counts_of(drafts, 10) == DraftCounts(4, 5)


def test_an_answer_without_drafts_says_nothing():
    for payload in ({}, {"timings": {"draft_n": None}}, {"meta_info": {"id": "a"}}):
        assert counts_of(drafts_in_answer(payload), 3) is None
