"""Processors and criteria for the whole batch: they see plain generate's calls, and have its say."""

import random

import pytest
import torch
from drafting import given_tree
from tiny import left_padded, tiny_head, tiny_target
from transformers import LogitsProcessorList, StoppingCriteriaList
from user_callbacks import CRITERIA, PROCESSORS, Recorder

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft

GREEDY = dict(do_sample=False)
SAMPLED = dict(do_sample=True, temperature=0.9, top_k=0)


def both(target, assistant, inputs, seed=0, processors=(), criteria=(), **settings):
    """Generate plainly and with the assistant, with callbacks made anew for each run.

    Returns:
        The two outputs, and the two recorders of what processors were called with.
    """
    rows = len(inputs["input_ids"])
    vocabulary = target.config.vocab_size
    outputs = []
    recorders = []
    for one in (None, assistant):
        recorder = Recorder()
        made = [PROCESSORS[name](rows, vocabulary) for name in processors]
        ends = [CRITERIA[name](rows, vocabulary) for name in criteria]
        torch.manual_seed(seed)
        output = target.generate(
            **inputs,
            assistant_model=one,
            logits_processor=LogitsProcessorList([*made, recorder]),
            stopping_criteria=StoppingCriteriaList(ends),
            **settings,
        )
        outputs.append(output)
        recorders.append(recorder)
    return outputs, recorders


def check_equal(target, assistant, inputs, seed=0, **settings):
    """Output and calls of both ways are the same; returns the output."""
    (plain, fast), (seen, ours) = both(target, assistant, inputs, seed, **settings)
    if settings.get("return_dict_in_generate"):
        for name in ("scores", "logits"):
            assert_all_close(plain.get(name, ()), fast.get(name, ()))
        plain = plain.sequences
        fast = fast.sequences
    assert torch.equal(plain, fast)
    assert len(seen.ids) == len(ours.ids)
    for expected, given in zip(seen.ids, ours.ids, strict=True):
        assert torch.equal(expected, given)
    assert_all_close(seen.scores, ours.scores)
    return fast


def assert_all_close(expected, given):
    assert len(expected) == len(given)
    for one, other in zip(expected, given, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("mode", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_of_the_whole_batch_gives_plain_output(target, trained_head, name, mode):
    inputs = left_padded(target, [7, 3, 5])
    settings = dict(max_new_tokens=30, processors=[name], **mode)
    check_equal(target, trained_head, inputs, **settings)


@pytest.mark.parametrize("end_token", [None, 2])
@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_of_the_whole_batch_gives_plain_output(target, trained_head, name, end_token):
    inputs = left_padded(target, [7, 3, 5])
    settings = dict(max_new_tokens=30, eos_token_id=end_token, criteria=[name])
    keeps = dict(return_dict_in_generate=True, output_scores=True, output_logits=True)
    check_equal(target, trained_head, inputs, **settings, **SAMPLED)
    out = check_equal(target, trained_head, inputs, **settings, **keeps)
    assert out.shape[1] < 7 + 30


@pytest.mark.parametrize("rows", [1, 3])
def test_a_stateful_processor_sees_every_token_once_and_in_order(target, trained_head, rows):
    inputs = left_padded(target, [7, 3, 5][:rows])
    for mode in (GREEDY, SAMPLED):
        settings = dict(max_new_tokens=40, processors=["automaton", "counter"], **mode)
        check_equal(target, trained_head, inputs, **settings)
    assert trained_head.last_run.tau > 1


def test_ended_rows_keep_the_scores_of_plain_decoding(target, trained_head):
    inputs = left_padded(target, [7, 3, 5])
    settings = dict(max_new_tokens=60, eos_token_id=[5, 11, 17], processors=["across"])
    keeps = dict(return_dict_in_generate=True, output_scores=True, output_logits=True)
    out = check_equal(target, trained_head, inputs, **settings, **keeps)
    ended = (out[:, 7:] == 0).sum(1)
    assert ended.max() > 3  # steps of padding


def test_some_drafts_are_accepted_in_every_row_at_once(target, trained_head):
    inputs = left_padded(target, [7, 3])
    both(target, trained_head, inputs, processors=["bans"], max_new_tokens=60, eos_token_id=None)
    run = trained_head.last_run
    assert run.tokens == 2 * 59
    assert run.tau > 1.2


def test_statistics_leave_padding_out(target, trained_head):
    inputs = left_padded(target, [7, 3, 5])
    settings = dict(max_new_tokens=60, eos_token_id=[5, 11, 17], criteria=["scores"])
    (_, fast), _ = both(target, trained_head, inputs, **settings)
    tokens = int((fast[:, 8:] != 0).sum())  # the prefill's token belongs to no round
    assert trained_head.last_run.tokens == tokens < fast[:, 8:].numel()


TREES = {
    "root alone": TreeConfig(depth=1, top_k=1, nodes=1),
    "sequoia": TreeConfig("sequoia", parents=(0, 0, 0, 1, 1, 2, 4), ranks=(0, 0, 1, 0, 1, 0, 0)),
    "compiled": TreeConfig(depth=3, top_k=4, nodes=8, compile=True),
}


@pytest.mark.parametrize("name", TREES)
def test_every_tree_goes_in_lockstep(target, trained_head, name):
    inputs = left_padded(target, [5, 11])
    settings = dict(max_new_tokens=40, eos_token_id=[5, 11], processors=["automaton"], **SAMPLED)
    with given_tree(trained_head, TREES[name]):
        check_equal(target, trained_head, inputs, **settings)


@pytest.mark.parametrize("name", ["window", "itself"])
def test_every_assistant_goes_in_lockstep(target, small_model, name):
    assistant = {"window": WindowedDraft(small_model, 2, 9), "itself": SelfSpeculation(2, 9)}[name]
    inputs = left_padded(target, [5, 11])
    settings = dict(max_new_tokens=30, eos_token_id=[5, 11], criteria=["tensor"], **SAMPLED)
    check_equal(target, assistant, inputs, processors=["bans"], **settings)


def random_call(chance: random.Random) -> dict:
    """Settings of a call with any mixture of callbacks."""
    processors = chance.sample(sorted(PROCESSORS), chance.randint(0, 2))
    criteria = chance.sample(sorted(CRITERIA), chance.randint(0 if processors else 1, 2))
    keeps = chance.random() < 0.5
    return dict(
        chance.choice([GREEDY, SAMPLED, SAMPLED | dict(top_p=0.9, repetition_penalty=1.2)]),
        processors=processors,
        criteria=criteria,
        eos_token_id=chance.choice([None, 2, [5, 11, 17]]),
        max_new_tokens=chance.randint(2, 24),
        return_dict_in_generate=keeps,
        output_scores=keeps,
    )


def check_random_calls(target, head, seeds):
    for seed in seeds:
        chance = random.Random(seed)
        lengths = [chance.randint(1, 9) for _ in range(chance.randint(2, 4))]
        inputs = left_padded(target, lengths, seed)
        check_equal(target, head, inputs, seed, **random_call(chance))


def test_mixtures_of_callbacks_give_plain_output(target, trained_head):
    check_random_calls(target, trained_head, range(12))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 400, 50))
def test_many_mixtures_of_callbacks_give_plain_output(target, trained_head, start):
    check_random_calls(target, trained_head, range(start, start + 50))


