"""Decoding timed from behind the prefill: the same tokens every time, and the table's seconds for the same rounds."""

import pytest
import torch
from tiny import left_padded, word_tokenizer

from eagle_hf import SelfSpeculation, TreeConfig
from eagle_hf.data.suites import long_prompts
from eagle_hf.measuring.intervals import ratio_interval
from eagle_hf.measuring.runs import (
    PrefilledPrompt,
    TimedRun,
    decode_one_by_one,
    finish,
    hf_generate,
    plain_loop,
)
from eagle_hf.measuring.speeds import interleaved, measure_cell
from eagle_hf.planning.cost import CostTable

COSTS = CostTable(
    (1,), (8,), (1, 40), (1, 8), (((1.0, 1.0),),), (((0.25, 0.25),),), (0.5,), {}
)  # a round of a chain: 1.5 + 0.25 a level


@pytest.mark.parametrize("assistant", ["head", "itself", "selecting"])
def test_a_started_run_goes_on_to_generates_tokens_again_and_again(target, trained_head, assistant):
    assistant = {
        "head": trained_head,
        "itself": SelfSpeculation(2, 9),
        "selecting": SelfSpeculation(window=5, snapkv=3),
    }[assistant]
    ids = left_padded(target, [12, 12])["input_ids"]
    expected = target.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=30,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    prompt = PrefilledPrompt(target, assistant, ids)
    timed_run = TimedRun(prompt, None, 30)
    for _ in range(2):
        run = timed_run.start()
        before = sum(run.sequences.lengths)
        rounds = finish(run)
        clocked = sum(run.sequences.lengths) - before
        assert clocked == sum(done.tokens for done in rounds)
        assert max(run.sequences.lengths) == 42 and any(run.sequences.finished)
        with torch.no_grad():
            while not run.is_finished:
                run.round()
        assert torch.equal(run.sequences.ids, expected)
    seconds, tokens = timed_run.decode()
    assert seconds > 0 and tokens == clocked
    for few in (1, 2):
        with pytest.raises(
            ValueError, match=f"new_tokens is {few}, and a row ended with the first round"
        ):
            TimedRun(prompt, None, few).start()


def test_a_table_promises_its_own_seconds_for_the_rounds_that_were_run(target, trained_head):
    ids = left_padded(target, [12])["input_ids"]
    (row,) = measure_cell(
        target, trained_head, {"chain of 2": TreeConfig("chain", depth=2)}, ids, 40, 2, COSTS
    )
    prompt = PrefilledPrompt(target, trained_head, ids)
    timed_run = TimedRun(prompt, TreeConfig("chain", depth=2), 40)
    rate, stats = timed_run.predicted(COSTS)
    assert (
        rate == pytest.approx(row.predicted)
        and stats.tau == row.tau
        and row.achieved == row.over_plain / row.predicted
    )
    tokens, rounds = (
        52 - timed_run.start().sequences.lengths[0],
        stats.rounds - 1,
    )  # the first round is behind the start
    assert 1.5 * rounds <= tokens / rate <= 2.0 * rounds and str(row).startswith(
        "| 1 | 12 | chain of 2 |"
    )


@pytest.mark.parametrize("way", [hf_generate, plain_loop])
def test_plain_decoding_emits_what_was_asked_for(target, trained_head, way):
    seconds, tokens = way(
        PrefilledPrompt(target, trained_head, left_padded(target, [9, 9])["input_ids"]), 5
    )()
    assert seconds > 0 and tokens == 10


def test_the_plain_loop_writes_generates_tokens(target, trained_head):
    ids = left_padded(target, [9, 9])["input_ids"]
    expected = target.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=13,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    prompt = PrefilledPrompt(target, trained_head, ids)
    tokens = decode_one_by_one(target, prompt.read.cache, prompt.first, 12)
    assert torch.equal(torch.cat([ids, prompt.first, tokens], dim=1), expected)


def test_ways_take_turns_and_the_first_turn_only_warms_up():
    calls = []
    rates = interleaved(
        {
            "a": lambda: (calls.append("a"), (1.0, len(calls)))[1],
            "b": lambda: (calls.append("b"), (2.0, 2))[1],
        },
        3,
    )
    assert calls == ["a", "b"] * 4 and rates == {"a": [3.0, 5.0, 7.0], "b": [1.0] * 3}


def test_the_interval_of_a_ratio_pairs_the_repetitions():
    slow_and_fast = [1.0, 1.0, 1.0, 8.0, 8.0, 8.0, 8.0]
    assert ratio_interval([2 * rate for rate in slow_and_fast], slow_and_fast) == (2.0, 2.0)


def test_long_prompts_have_the_length_asked_for_and_end_where_an_answer_begins():
    rows = long_prompts(word_tokenizer(), 50, 3)
    assert (
        rows.shape == (3, 50)
        and rows[:, 0].tolist() == [3] * 3
        and rows[:, -2:].tolist() == [[2, 4]] * 3
    )  # user ... end, assistant
    with pytest.raises(
        ValueError, match="length is 3 tokens; these turns and the template allow 4 to"
    ):
        long_prompts(word_tokenizer(), 3, 1)
