"""What users of generate rely on: where texts end, scores, the cache, statistics."""

import pytest
import torch
from drafting import plain_and_drafted
from tiny import left_padded, letter_tokenizer, tiny_head
from transformers import StoppingCriteria

from eagle_hf import SelfSpeculation, WindowedDraft
from eagle_hf.compat import GENERATE_CACHE, take_cache
from eagle_hf.decoding import loop


def equal(target, head, inputs, **settings):
    """The output of both ways, which is the same."""
    plain, fast = plain_and_drafted(target, head, inputs, **settings)
    assert torch.equal(plain, fast)
    return fast


def test_several_eos_ids_end_a_row(target, trained_head):
    inputs = left_padded(target, [7, 4, 9])
    settings = dict(max_new_tokens=120, eos_token_id=[5, 11, 17], do_sample=False)
    out = equal(target, trained_head, inputs, **settings)
    answers = []
    for row in out.tolist():
        answers.append([token for token in row[9:] if token != 0])  # without padding
    assert any(len(answer) < 120 for answer in answers)
    for answer in answers:
        assert set(answer[:-1]).isdisjoint({5, 11, 17})


@pytest.mark.parametrize("assistant", ["head", "window", "itself"])
def test_finished_rows_cost_nothing(target, trained_head, assistant):
    """They leave the batch of target and drafter.

    The others go on as if these had never been there.
    """
    assistant = {
        "head": trained_head,
        "window": WindowedDraft(target, 2, 9),
        "itself": SelfSpeculation(2, 9),
    }[assistant]
    inputs = left_padded(target, [7, 4, 9, 12])
    settings = dict(max_new_tokens=120, eos_token_id=[5, 11, 17], do_sample=False)
    batches = []  # rows of every forward

    def count_rows(module, args, kwargs):
        batches.append(len(kwargs["input_ids"]))

    hook = target.register_forward_pre_hook(count_rows, with_kwargs=True)
    ids = target.generate(**inputs, assistant_model=assistant, **settings)
    hook.remove()
    lengths = (ids[:, 12:] != 0).sum(1).tolist()
    assert batches[0] == 4
    assert batches == sorted(batches, reverse=True)
    # rows that end in the same round leave together
    assert 1 < len(set(batches)) <= len(set(lengths))
    assert batches[-1] == lengths.count(max(lengths))
    assert torch.equal(ids, target.generate(**inputs, **settings))


def test_a_stop_string_ends_the_text(target, trained_head):
    inputs = left_padded(target, [7])
    tokenizer = letter_tokenizer()
    settings = dict(max_new_tokens=60, eos_token_id=None, do_sample=False)
    text = tokenizer.decode(target.generate(**inputs, **settings)[0, 7:])
    end = text[20:22]
    settings |= dict(stop_strings=[end], tokenizer=tokenizer)
    out = equal(target, trained_head, inputs, **settings)
    assert out.shape[1] < 7 + 60
    assert tokenizer.decode(out[0]).endswith(end)


@pytest.mark.parametrize("offset", [5, 50])
def test_positions_of_the_users_own_are_kept(target, trained_head, offset):
    inputs = left_padded(target, [12]) | {"position_ids": torch.arange(12)[None] + offset}
    equal(target, trained_head, inputs, max_new_tokens=30, do_sample=False, eos_token_id=None)


@pytest.mark.parametrize("new", [1, 2, 3])
def test_very_few_new_tokens(target, trained_head, new):
    inputs = left_padded(target, [7, 3])
    out = equal(target, trained_head, inputs, max_new_tokens=new, eos_token_id=None)
    assert out.shape[1] == 7 + new
    assert trained_head.last_run.tokens == 2 * (new - 1)  # the prefill's token belongs to no round


def test_a_prompt_longer_than_any_in_training(target, trained_head):
    inputs = left_padded(target, [400])
    equal(target, trained_head, inputs, max_new_tokens=40, eos_token_id=None, do_sample=False)


class EndAtLength(StoppingCriteria):
    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


def test_a_stopping_criterion_of_the_users_sees_every_token(target, trained_head):
    inputs = left_padded(target, [7])
    settings = dict(max_new_tokens=90, eos_token_id=None, stopping_criteria=[EndAtLength(31)])
    out = equal(target, trained_head, inputs, **settings)
    assert out.shape[1] == 31


def test_scores_and_logits_are_the_plain_runs(target, trained_head):
    wanted = dict(
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        repetition_penalty=1.1,
        max_new_tokens=40,
        eos_token_id=None,
    )
    plain, fast = plain_and_drafted(target, trained_head, left_padded(target, [7]), **wanted)
    assert torch.equal(plain.sequences, fast.sequences)
    for name in ("scores", "logits"):
        assert len(plain[name]) == len(fast[name]) == 40
        for expected, ours in zip(plain[name], fast[name], strict=True):
            assert expected.shape == ours.shape
            assert torch.allclose(expected, ours, atol=1e-5)
    plain_cache, _ = take_cache(plain)
    fast_cache, _ = take_cache(fast)
    assert fast_cache.get_seq_length() == plain_cache.get_seq_length()


def test_the_returned_cache_can_be_cropped_and_gone_on_with(target, trained_head):
    out = target.generate(
        **left_padded(target, [7]),
        assistant_model=trained_head,
        max_new_tokens=20,
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    cache, _ = take_cache(out)
    cache.crop(-5)
    assert cache.get_seq_length() == 26 - 5
    logits = target(out.sequences[:, 21:], **{GENERATE_CACHE: cache}).logits
    assert torch.allclose(logits, target(out.sequences).logits[:, 21:], atol=1e-6)


def test_a_head_that_breaks_down_changes_nothing(target):
    head = tiny_head(target)
    with torch.no_grad():
        head.lm_head.weight[::3] = torch.nan
    inputs = left_padded(target, [7, 4])
    equal(target, head, inputs, max_new_tokens=40, eos_token_id=None, do_sample=False)


def test_two_calls_under_one_seed_match(target, trained_head):
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        output = target.generate(
            **left_padded(target, [7, 5]),
            assistant_model=trained_head,
            do_sample=True,
            max_new_tokens=40,
        )
        runs.append(output)
    assert torch.equal(*runs)


def test_last_run_counts_add_up(target, trained_head):
    target.generate(
        **left_padded(target, [7]),
        assistant_model=trained_head,
        max_new_tokens=60,
        eos_token_id=None,
    )
    run = trained_head.last_run
    assert run.tokens == 59
    assert run.tau == run.tokens / run.rounds
    assert run.rounds - 1 <= run.trials[0] <= run.rounds  # the last may have had no room for drafts
    for deeper_trials, accepted in zip(run.trials[1:], run.accepted, strict=False):
        assert deeper_trials <= accepted
    assert set(run.seconds) == {"prefill", "target", "head", "draft", "accept", "commit"}
    assert min(run.seconds.values()) > 0


def relative_error(ours, truth):
    return float((ours - truth).norm() / truth.norm())


def cache_error(run, index, row, target):
    """How far the committed keys and values of a row are from those of a fresh prefill."""
    visible = run.masks.visible[index]  # of the prompt's slots
    length = run.sequences.lengths[row]
    is_committed = torch.ones(length - 1, dtype=torch.bool)  # all but the newest token
    is_committed[: len(visible)] = visible
    ids = run.sequences.ids[row, : length - 1][is_committed]
    fresh, _ = take_cache(target(ids[None], use_cache=True))
    worst = 0.0
    for ours, theirs in zip(run.cache.layers, fresh.layers, strict=True):
        keys = ours.keys[index, :, : length - 1][:, is_committed]
        values = ours.values[index, :, : length - 1][:, is_committed]
        worst = max(worst, relative_error(keys, theirs.keys[0]))
        worst = max(worst, relative_error(values, theirs.values[0]))
    return worst


def test_after_every_round_the_cache_equals_a_fresh_prefill(target, trained_head, monkeypatch):
    errors = []  # a round each
    original = loop.Run.round

    def checked(run):
        original(run)
        errors.append(0.0)
        for index, row in enumerate(run.sequences.in_batch):
            errors[-1] = max(errors[-1], cache_error(run, index, row, target))

    monkeypatch.setattr(loop.Run, "round", checked)
    target.generate(
        **left_padded(target, [7, 3, 11]),
        assistant_model=trained_head,
        max_new_tokens=40,
        eos_token_id=None,
    )
    assert len(errors) > 10
    assert max(errors) < 1e-10
