"""Quantised and offloaded targets draft and verify losslessly."""

import pytest
import quantised
import torch
from drafting import plain_and_drafted
from tiny import left_padded, tiny_head

from eagle_hf import SelfSpeculation, WindowedDraft

MOST = 4.5  # of the 5 tokens that a round with four accepted drafts emits


def named(layouts):
    return pytest.mark.parametrize("layout", layouts, ids=lambda layout: layout.__name__)


def assistants(target):
    """One of every kind; the last drafts what the target would say."""
    return [
        tiny_head(target),
        WindowedDraft(target, sinks=2, window=8),
        SelfSpeculation(sinks=2, window=8),
        WindowedDraft(target, window=None),
    ]


@named(quantised.EXACT)
@pytest.mark.parametrize("lengths", [[9], [9, 4]], ids=["one row", "two rows"])
def test_greedy_output_is_that_of_the_quantised_target_alone(layout, lengths, tmp_path):
    target = layout(quantised.plain_target(), tmp_path)
    inputs = left_padded(target, lengths)
    settings = dict(max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
    tau = 0.0
    for assistant in assistants(target):
        plain, drafted = plain_and_drafted(target, assistant, inputs, **settings)
        assert torch.equal(plain, drafted), type(assistant).__name__
        tau = assistant.last_run.tau
    assert tau > MOST


@named([quantised.nf4, quantised.disk])
def test_sampled_output_is_that_of_the_quantised_target_alone(layout, tmp_path):
    target = layout(quantised.plain_target(), tmp_path)
    inputs = left_padded(target, [9])
    settings = dict(max_new_tokens=16, do_sample=True, eos_token_id=None, pad_token_id=0)
    for assistant in assistants(target):
        plain, drafted = plain_and_drafted(target, assistant, inputs, 3, **settings)
        assert torch.equal(plain, drafted), type(assistant).__name__


@named([quantised.dynamic, quantised.nf4, quantised.compressed_int8, quantised.offloaded])
def test_a_quantised_model_drafts_for_a_plain_target(layout, tmp_path):
    target = quantised.plain_target()
    draft_model = layout(target, tmp_path)
    settings = dict(max_new_tokens=16, do_sample=False, eos_token_id=None)
    for assistant in (WindowedDraft(draft_model, 2, 8), WindowedDraft(draft_model, window=None)):
        plain, drafted = plain_and_drafted(target, assistant, left_padded(target, [9]), **settings)
        assert torch.equal(plain, drafted)


def test_a_target_that_mixes_tokens_is_named(tmp_path, caplog):
    target = quantised.int8_with_outliers(quantised.plain_target(), tmp_path)
    head = tiny_head(target)
    inputs = left_padded(target, [9])
    target.generate(**inputs, max_new_tokens=4, assistant_model=head, pad_token_id=0)
    said = [record.getMessage() for record in caplog.records]
    assert any("Linear8bitLt" in line and "llm_int8_threshold=0.0" in line for line in said)


@named(quantised.OFFLOADED)
def test_advice_names_a_device_that_computes(layout, tmp_path):
    target = layout(quantised.plain_target(), tmp_path)
    head = tiny_head(quantised.plain_target()).to("meta")
    inputs = left_padded(target, [9])
    with pytest.raises(ValueError, match=r'target is on cpu .* head\.to\("cpu"\)'):
        target.generate(**inputs, max_new_tokens=4, assistant_model=head)
