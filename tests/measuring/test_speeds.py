"""Decoding timed from behind the prefill: the same tokens every time, and a table's seconds."""

import pytest
import torch
from tiny import left_padded, word_tokenizer

from eagle_hf import SelfSpeculation, TreeConfig
from eagle_hf.data.prompts.suites import long_prompts
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.forward import TargetForward
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

# a round of a chain costs 1.5 + 0.25 a level
COSTS = CostTable(
    batches=(1,),
    lengths=(8,),
    tokens=(1, 40),
    widths=(1, 8),
    target=(((1.0, 1.0),),),
    draft=(((0.25, 0.25),),),
    overhead=(0.5,),
    facts={},
)


def generated(target, ids, new_tokens):
    """What generate writes greedily, without an assistant."""
    return target.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )


def prompts_of(target, batch, length):
    return left_padded(target, [length] * batch)["input_ids"]


@pytest.fixture(params=["head", "itself", "selecting"])
def assistant(request, trained_head):
    return {
        "head": trained_head,
        "itself": SelfSpeculation(2, 9),
        "selecting": SelfSpeculation(window=5, snapkv=3),
    }[request.param]


def test_a_started_run_goes_on_to_generates_tokens_again_and_again(target, assistant):
    ids = prompts_of(target, batch=2, length=12)
    expected = generated(target, ids, 30)
    timed_run = TimedRun(PrefilledPrompt(target, assistant, ids), None, 30)
    for _ in range(2):
        run = timed_run.start()
        before = sum(run.sequences.lengths)
        rounds = finish(run)
        clocked = sum(run.sequences.lengths) - before
        assert clocked == sum(done.tokens for done in rounds)
        assert max(run.sequences.lengths) == 42
        assert any(run.sequences.finished)
        with torch.no_grad():
            while not run.is_finished:
                run.round()
        assert torch.equal(run.sequences.ids, expected)
    seconds, tokens = timed_run.decode()
    assert seconds > 0
    assert tokens == clocked


@pytest.mark.parametrize("few", [1, 2])
def test_rows_that_end_with_the_first_round_leave_nothing_to_time(target, assistant, few):
    prompt = PrefilledPrompt(target, assistant, prompts_of(target, batch=2, length=12))
    message = f"new_tokens is {few}, and a row ended with the first round"
    with pytest.raises(ValueError, match=message):
        TimedRun(prompt, None, few).start()


def test_a_table_promises_its_own_seconds_for_the_rounds_that_were_run(target, trained_head):
    ids = prompts_of(target, batch=1, length=12)
    tree = TreeConfig("chain", depth=2)
    [row] = measure_cell(target, trained_head, {"chain of 2": tree}, ids, 40, 2, COSTS)
    timed_run = TimedRun(PrefilledPrompt(target, trained_head, ids), tree, 40)
    rate, stats = timed_run.predicted(COSTS)
    assert rate == pytest.approx(row.predicted)
    assert stats.tau == row.tau
    assert row.achieved == row.over_plain / row.predicted
    assert str(row).startswith("| 1 | 12 | chain of 2 |")
    # the first round is behind the start
    tokens = 52 - timed_run.start().sequences.lengths[0]
    rounds = stats.rounds - 1
    assert 1.5 * rounds <= tokens / rate <= 2.0 * rounds


@pytest.mark.parametrize("method", [hf_generate, plain_loop])
def test_plain_decoding_emits_what_was_asked_for(target, trained_head, method):
    prompt = PrefilledPrompt(target, trained_head, prompts_of(target, batch=2, length=9))
    decode = method(prompt, 5)
    seconds, tokens = decode()
    assert seconds > 0
    assert tokens == 10


def test_the_plain_loop_writes_generates_tokens(target, trained_head):
    ids = prompts_of(target, batch=2, length=9)
    prompt = PrefilledPrompt(target, trained_head, ids)
    tokens = decode_one_by_one(target, prompt.prefilled.cache, prompt.first, 12)
    output = torch.cat([ids, prompt.first, tokens], dim=1)
    assert torch.equal(output, generated(target, ids, 13))


def test_the_plain_loop_on_a_cache_that_keeps_its_size_writes_the_same(target):
    ids = prompts_of(target, batch=2, length=9)
    cache = TargetCache(capacity=64)
    with torch.no_grad():
        logits, _ = TargetForward(target, cache).read_prompt(ids)
    first = logits[:, -1].argmax(-1, keepdim=True)
    tokens = decode_one_by_one(target, cache, first, 12)
    output = torch.cat([ids, first, tokens], dim=1)
    assert torch.equal(output, generated(target, ids, 13))


def test_ways_take_turns_and_the_first_turn_only_warms_up():
    calls = []

    def decode_a():
        calls.append("a")
        return 1.0, len(calls)

    def decode_b():
        calls.append("b")
        return 2.0, 2

    rates = interleaved({"a": decode_a, "b": decode_b}, 3)
    assert calls == ["a", "b"] * 4
    assert rates == {"a": [3.0, 5.0, 7.0], "b": [1.0, 1.0, 1.0]}


def test_the_interval_of_a_ratio_pairs_the_repetitions():
    rates = [1.0, 1.0, 1.0, 8.0, 8.0, 8.0, 8.0]  # slow moments and fast ones
    doubled = [2 * rate for rate in rates]
    assert ratio_interval(doubled, rates) == (2.0, 2.0)


def test_long_prompts_have_the_length_asked_for_and_end_where_an_answer_begins():
    prompts = long_prompts(word_tokenizer(), 50, 3)
    assert prompts.shape == (3, 50)
    assert prompts[:, 0].tolist() == [3, 3, 3]  # the user's turn
    assert prompts[:, -2:].tolist() == [[2, 4]] * 3  # its end, the assistant's turn
    message = "length is 3 tokens; these turns and the template allow 4 to"
    with pytest.raises(ValueError, match=message):
        long_prompts(word_tokenizer(), 3, 1)
