"""Processors and criteria for the whole batch see plain generate's calls, and do as much."""

import random

import pytest
import torch
from drafting import given_tree, plain_and_drafted
from tiny import left_padded, letter_tokenizer
from transformers import (
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    SynthIDTextWatermarkingConfig,
)
from transformers.generation.stopping_criteria import ConfidenceCriteria
from user_callbacks import CRITERIA, PROCESSORS, Recorder, penalty_with_lengths

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.compat import take_cache

pytestmark = pytest.mark.usefixtures("fixed_sizes")

GREEDY = dict(do_sample=False)
SAMPLED = dict(do_sample=True, temperature=0.9, top_k=0)


def both(target, assistant, inputs, seed=0, processors=(), criteria=(), **settings):
    """Generate plainly and with the assistant, with callbacks made anew for each run.

    Returns:
        The two outputs, each a message where generate raised one, and the two recorders of what
        processors were called with.
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
        try:
            output = target.generate(
                **inputs,
                assistant_model=one,
                logits_processor=LogitsProcessorList([*made, recorder]),
                stopping_criteria=StoppingCriteriaList(ends),
                **settings,
            )
        except RuntimeError as error:  # some mixtures leave nothing to draw from
            output = str(error)
        outputs.append(output)
        recorders.append(recorder)
    return outputs, recorders


def check_equal(target, assistant, inputs, seed=0, **settings):
    """Output and calls of both ways are the same; returns the output."""
    (plain, fast), (seen, ours) = both(target, assistant, inputs, seed, **settings)
    if isinstance(plain, str):
        assert fast == plain
        return fast
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
        assert torch.allclose(one, other, atol=1e-4, equal_nan=True)


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


def test_ended_rows_keep_the_scores_and_the_cache_of_plain_decoding(target, trained_head):
    inputs = left_padded(target, [7, 3, 5])
    settings = dict(max_new_tokens=60, eos_token_id=[5, 11, 17], processors=["across"])
    keeps = dict(return_dict_in_generate=True, output_scores=True, output_logits=True)
    out = check_equal(target, trained_head, inputs, **settings, **keeps)
    assert (out[:, 7:] == 0).sum(1).max() > 3  # steps of padding
    outputs, _ = both(target, trained_head, inputs, **settings, **keeps)
    caches = [take_cache(output)[0] for output in outputs]
    for plain, fast in zip(*(cache.layers for cache in caches), strict=True):
        assert torch.allclose(plain.keys, fast.keys, atol=1e-9)
        assert torch.allclose(plain.values, fast.values, atol=1e-9)


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


# Callbacks of transformers that number rows, or keep a state by row


def allow_by_row(row, ids):
    """Two tokens of three, others in each row, and after each token."""
    shift = row + int(ids[-1])
    return [token for token in range(3, 31) if (token + shift) % 3]


SYNTH_ID = dict(keys=[17, 5, 23], ngram_len=3, sampling_table_size=2**10, context_history_size=8)
BATCH_BOUND = {
    "prefix_allowed_tokens_fn": dict(prefix_allowed_tokens_fn=allow_by_row),
    "encoder_no_repeat_ngram_size": dict(encoder_no_repeat_ngram_size=2),
    "encoder_repetition_penalty": dict(encoder_repetition_penalty=1.5),
    "synth_id": dict(watermarking_config=SynthIDTextWatermarkingConfig(**SYNTH_ID)),
}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", BATCH_BOUND)
def test_a_batch_bound_processor_of_transformers_gives_plain_output(
    target, trained_head, name, rows
):
    inputs = left_padded(target, [7, 3, 5][:rows])
    for mode in (GREEDY, SAMPLED):
        settings = dict(BATCH_BOUND[name], max_new_tokens=25, eos_token_id=[5, 11], **mode)
        plain, fast = plain_and_drafted(target, trained_head, inputs, **settings)
        assert torch.equal(plain, fast)


def test_a_penalty_with_a_length_for_every_row_gives_plain_output(target, trained_head):
    inputs = left_padded(target, [7, 3])
    penalty = penalty_with_lengths(1.5, torch.tensor([2, 6]))
    settings = dict(logits_processor=[penalty], max_new_tokens=25, eos_token_id=None)
    plain, fast = plain_and_drafted(target, trained_head, inputs, **settings)
    assert torch.equal(plain, fast)


def test_without_an_end_token_stop_strings_end_a_batch_with_its_last_row(target, trained_head):
    inputs = left_padded(target, [7, 4, 9])
    tokenizer = letter_tokenizer()
    settings = dict(max_new_tokens=60, eos_token_id=None, do_sample=False)
    texts = tokenizer.batch_decode(target.generate(**inputs, **settings)[:, 9:])
    ends = [text[5 + 6 * row : 7 + 6 * row] for row, text in enumerate(texts)]
    settings |= dict(stop_strings=ends, tokenizer=tokenizer)
    plain, fast = plain_and_drafted(target, trained_head, inputs, **settings)
    assert torch.equal(plain, fast)
    assert 9 + 7 < fast.shape[1] < 9 + 60


def test_without_an_end_token_time_ends_all_rows_at_once(target, trained_head):
    inputs = left_padded(target, [7, 4, 9])
    settings = dict(max_new_tokens=30, eos_token_id=None, max_time=1e-9)
    plain, fast = plain_and_drafted(target, trained_head, inputs, **settings)
    assert torch.equal(plain, fast)
    assert fast.shape[1] == 10


def test_a_criterion_about_confidence_gives_plain_output(target, trained_head):
    inputs = left_padded(target, [7, 4, 9])
    settings = dict(
        max_new_tokens=30,
        stopping_criteria=StoppingCriteriaList([ConfidenceCriteria(0.15)]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    plain, fast = plain_and_drafted(target, trained_head, inputs, **settings)
    assert torch.equal(plain.sequences, fast.sequences)
    assert fast.sequences.shape[1] < 9 + 30


class WrongShape(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.zeros(len(input_ids), 1, dtype=torch.bool)


def test_a_criterion_of_a_wrong_shape_is_named(target, trained_head):
    settings = dict(stopping_criteria=[WrongShape()], max_new_tokens=5)
    with pytest.raises(ValueError, match=r"shape \[2, 2\] for 2 rows; each must return one bool"):
        target.generate(**left_padded(target, [5, 3]), assistant_model=trained_head, **settings)


# Callbacks of other libraries


def grammar_processor():
    """A grammar of xgrammar's on an alphabet of single characters."""
    xgrammar = pytest.importorskip("xgrammar", reason="xgrammar is not installed")
    from xgrammar.contrib.hf import LogitsProcessor

    letters = ["<0>", "<1>", "<2>", "<3>", "<4>", *"abcdefghijklmnopqrstuvwxyz"]
    info = xgrammar.TokenizerInfo(letters, vocab_size=31, stop_token_ids=[2])
    grammar = 'root ::= ([ab] [c-f]* [xyz] [g-k]){1,6} "end"'
    return LogitsProcessor(xgrammar.GrammarCompiler(info).compile_grammar(grammar))


@pytest.mark.parametrize("mode", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_grammar_of_xgrammar_gives_plain_output(target, trained_head, rows, mode):
    inputs = left_padded(target, [7, 3, 5][:rows])
    outputs = []
    for one in (None, trained_head):
        torch.manual_seed(0)
        settings = dict(logits_processor=[grammar_processor()], max_new_tokens=40, **mode)
        outputs.append(target.generate(**inputs, assistant_model=one, **settings))
    assert torch.equal(*outputs)
    first = outputs[1][:, 7]
    assert set(first.tolist()) <= {5, 6}  # a or b, as the grammar has it


def test_the_criterion_of_lm_eval_gives_plain_output(target, trained_head):
    harness = pytest.importorskip("lm_eval.models.utils_hf", reason="lm-eval is not installed")
    inputs = left_padded(target, [7, 3, 5])
    tokenizer = letter_tokenizer()
    settings = dict(max_new_tokens=40, do_sample=False)
    for end_token in (None, 2):
        outputs = []
        for one in (None, trained_head):
            ends = harness.stop_sequences_criteria(tokenizer, ["e", "fn"], 7, 3)
            output = target.generate(
                **inputs,
                assistant_model=one,
                stopping_criteria=ends,
                eos_token_id=end_token,
                **settings,
            )
            outputs.append(output)
        assert torch.equal(*outputs)
        assert outputs[1].shape[1] < 7 + 40
