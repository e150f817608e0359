"""Chunks of a stream become tokens, and counters become acceptance."""

import json

import pytest

from eagle_hf.data.answers.draft_counts import read_counters
from eagle_hf.evaluation.serving.load import Arrival, mixed
from eagle_hf.evaluation.serving.measures import Limits, counts_in_answers, measure
from eagle_hf.evaluation.serving.records import RequestRecord
from eagle_hf.evaluation.serving.stream import BrokenStreamError, read_stream

# as vLLM 0.32.0 writes it
VLLM = """\
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="models/target"} 10.0
# TYPE vllm:spec_decode_num_draft_tokens_total counter
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="models/target"} 20.0
# TYPE vllm:spec_decode_num_accepted_tokens_total counter
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="models/target"} 9.0
# TYPE vllm:spec_decode_num_accepted_tokens_per_pos_total counter
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 6.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="1"} 3.0
"""
SGLANG = """\
# TYPE sglang:generation_tokens_total counter
sglang:generation_tokens_total{model_name="tiny"} 70.0
# TYPE sglang:num_requests_total counter
sglang:num_requests_total{model_name="tiny"} 10.0
# TYPE sglang:spec_verify_calls_total counter
sglang:spec_verify_calls_total{model_name="tiny"} 20.0
"""


def chunk(seconds, text="", count=None, last=False, part="usage", **event):
    """A line of a stream that arrives after so many seconds."""
    choice = {"delta": {"content": text}, "finish_reason": "stop" if last else None}
    event = {"choices": [choice]} | event
    if count is not None:
        name = "completion_tokens" if part == "usage" else "predicted_n"
        event[part] = {name: count}
    return seconds, b"data: " + json.dumps(event).encode()


def total(seconds, count, **event):
    """The line that holds the usage alone."""
    return chunk(seconds, count=count, **{"choices": [], **event})


END = (9.0, b"data: [DONE]")


def test_chunks_are_unpacked_by_a_running_count():
    answer = read_stream(
        [
            chunk(0.1, "", 0),
            chunk(1.0, "a", 1),
            chunk(2.0, "b c", 3),
            chunk(3.5, "d e", 6, last=True),
            total(3.6, 6),
            END,
        ]
    )
    assert answer.arrivals == [(1.0, 1), (2.0, 2), (3.5, 3)]
    assert (answer.first, answer.last, answer.tokens) == (1.0, 3.5, 6)


def test_a_token_that_only_the_total_counts_came_with_the_last_chunk():
    """llama.cpp counts the end-of-turn token there."""
    answer = read_stream(
        [
            chunk(1.0, "a", 1, part="timings"),
            chunk(2.0, "b", 2, part="timings"),
            chunk(4.0, last=True),
            total(4.1, 3),
            END,
        ]
    )
    assert answer.arrivals == [(1.0, 1), (2.0, 1), (4.0, 1)]


def test_a_total_that_equals_the_chunks_makes_each_chunk_a_token():
    answer = read_stream([chunk(1.0, "a"), chunk(2.0, "b", last=True), total(2.1, 2), END])
    assert answer.arrivals == [(1.0, 1), (2.0, 1)]


def test_a_total_alone_does_not_unpack_chunks():
    answer = read_stream([chunk(1.0, "a"), chunk(2.0, "b c d", last=True), total(2.1, 7), END])
    assert answer.arrivals == []
    assert (answer.first, answer.last, answer.tokens) == (1.0, 2.0, 7)


def test_without_any_count_the_times_remain():
    answer = read_stream([chunk(1.0, "a"), chunk(2.0, "b", last=True), END])
    assert (answer.first, answer.last, answer.tokens) == (1.0, 2.0, None)


def test_reasoning_counts_as_text():
    reasoning = {"choices": [{"delta": {"reasoning_content": "hm"}}]}
    answer = read_stream([chunk(1.0, **reasoning), chunk(2.0, "b", last=True), total(2, 2), END])
    assert answer.first == 1.0


@pytest.mark.parametrize(
    "lines, kind",
    [
        ([chunk(1.0, "a")], "the stream broke off"),
        ([], "the stream broke off"),
        ([(1.0, b"data: {half")], "a chunk that is no JSON"),
        ([(1.0, b"data: [1]")], "a chunk that is no JSON object"),
        ([(1.0, b'data: {"error": {"message": "no"}}')], "an error in the stream"),
        ([chunk(1.0, "", last=True), total(1.1, 0), END], "an answer without tokens"),
        ([(1.0, b'data: {"choices": ["?"]}')], "a chunk without a choice"),
    ],
)
def test_what_is_no_whole_answer_is_named(lines, kind):
    with pytest.raises(BrokenStreamError) as stopped:
        read_stream(lines)
    assert stopped.value.kind == kind


def record(**changes) -> RequestRecord:
    """An answer of 6 tokens: 1 after 1 s, 2 after 2 s, 3 after 3.5 s."""
    fields = {
        "prompt": "p",
        "category": "chat",
        "sent": 0.0,
        "ended": 3.6,
        "ttft": 1.0,
        "e2e": 3.5,
        "tokens": 6,
        "arrivals": [(1.0, 1), (2.0, 2), (3.5, 3)],
    }
    return RequestRecord(**(fields | changes))


def test_measures_of_hand_computed_records():
    slow = record(ttft=2.0, e2e=7.0, arrivals=[(2.0, 1), (4.0, 2), (7.0, 3)])
    failed = record(ttft=None, e2e=None, tokens=None, arrivals=[], failure="HTTP 500")
    row = measure([record(), slow, failed], 10.0, Limits(ttft_ms=1500, tpot_ms=600))
    assert row["ttft_ms"]["median"] == pytest.approx(1500)
    assert row["tpot_ms"]["median"] == pytest.approx(750)  # 2.5 / 5 and 5 / 5 seconds
    assert row["tpot_ms"]["interval"] == pytest.approx([500, 1000])
    assert "interval" not in row["itl_ms"]  # tokens of one request wait together
    assert row["itl_ms"]["median"] == pytest.approx(750)  # 5 gaps of 0.5 s and 5 of 1 s
    assert row["e2e_ms"]["p99"] == pytest.approx(1000 * (3.5 + 0.99 * 3.5))
    assert row["output_tokens_s"] == pytest.approx(1.2)
    assert row["goodput"] == {
        "limits": {"ttft_ms": 1500, "tpot_ms": 600},
        "requests_s": pytest.approx(0.1),
    }
    assert row["requests"] == {"sent": 3, "finished": 2, "failed": {"HTTP 500": 1}}


def test_what_was_not_counted_has_no_throughput_and_no_goodput_of_tokens():
    row = measure([record(tokens=None, arrivals=[])], 10.0, Limits(tpot_ms=600))
    assert row["requests"]["without_token_counts"] == 1
    assert row["output_tokens_s"] is None
    assert row["goodput"] is None
    assert row["ttft_ms"] == {"median": 1000.0, "p99": 1000.0}


def test_limits_that_are_none_are_refused():
    for text in ("ttft", "ttft:fast", "itl:50", "tpot:0"):
        with pytest.raises(ValueError, match="as ttft:500"):
            Limits.parse([text])
    assert Limits.parse([]) is None


def test_acceptance_between_two_pages_of_vllm():
    before = read_counters(VLLM)
    page = VLLM.replace(" 10.0", " 30.0").replace(" 20.0", " 60.0").replace(" 9.0", " 29.0")
    after = read_counters(page.replace(" 6.0", " 18.0").replace(" 3.0", " 11.0"))
    acceptance = after.since(before).acceptance("counters")
    assert acceptance["tau"] == 2.0
    assert acceptance["alpha"] == [12 / 20, 8 / 12]
    assert (acceptance["drafted"], acceptance["accepted"]) == (40, 20)
    assert acceptance["accepted_per_position"] == [12, 8]


def test_a_server_that_had_drafted_nothing_lists_no_positions():
    start = "\n".join(line for line in VLLM.splitlines() if "per_pos" not in line) + "\n"
    acceptance = read_counters(VLLM).since(read_counters(start)).acceptance("counters")
    assert acceptance is None  # no round in between
    assert read_counters(VLLM).since(read_counters(start)).by_position == [6, 3]


def test_llamacpp_uses_the_same_names():
    counts = read_counters(VLLM.replace("vllm:", "llamacpp:"))
    assert (counts.rounds, counts.accepted, counts.by_position) == (10, 9, [6, 3])


def test_sglang_counts_tokens_requests_and_verifications():
    counts = read_counters(SGLANG)
    assert (counts.rounds, counts.accepted, counts.drafted) == (20, 40, None)
    assert counts.acceptance("counters")["tau"] == 3.0


def test_a_page_without_drafts_has_no_acceptance():
    assert read_counters("# TYPE other_total counter\nother_total 3.0\n") is None
    assert read_counters("<html><body>No such page</body></html>") is None


def test_a_server_that_was_started_again_has_no_acceptance():
    later = read_counters(VLLM)
    fresh = read_counters("\n".join(VLLM.splitlines()[:3]).replace(" 10.0", " 1.0") + "\n")
    assert fresh.since(later).acceptance("counters") is None


def test_answers_tell_their_own_acceptance():
    vllm = record(drafts={"acceptance_histogram": [1, 2, 1], "num_draft_tokens": 8})
    llamacpp = record(drafts={"draft_n": 6, "draft_n_accepted": 3})  # 6 tokens: 2 rounds
    counts = counts_in_answers([vllm, llamacpp])
    assert (counts.rounds, counts.accepted, counts.drafted) == (6, 7, 14)
    assert counts.by_position == [3, 1]
    assert counts_in_answers([vllm, record()]) is None


def test_prompts_of_all_categories_take_turns():
    prompts = [{"id": name, "category": name[0]} for name in ("a1", "a2", "a3", "b1")]
    ids = [prompt["id"] for prompt in mixed(prompts, 6)]
    assert ids == ["a1", "b1", "a2", "a3", "a1", "b1"]


def test_an_arrival_is_closed_or_poisson():
    for wrong in ({}, {"concurrency": 1, "rate": 1.0}, {"concurrency": 0}, {"rate": 0.0}):
        with pytest.raises(ValueError, match="concurrency|rate"):
            Arrival(**wrong)
