"""generate's settings for assistants: obeyed where they mean something, named where not."""

from copy import deepcopy

import pytest
import torch
from drafting import plain_and_drafted
from tiny import left_padded, tiny_target
from transformers.utils import logging

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.measuring import automatic

PROMPT = 13  # tokens


@pytest.fixture
def assistants(head, small_model):
    return [head, SelfSpeculation(2, 40), WindowedDraft(small_model, window=None)]


@pytest.fixture
def said(monkeypatch):
    """What was said once."""
    texts = []
    for module in ("draft_length", "assistants.small_model"):
        logger = logging.get_logger(f"eagle_hf.decoding.{module}")
        monkeypatch.setattr(logger, "warning_once", texts.append)
    return texts


def longest_read(target, assistant, **settings):
    """How many tokens the target reads at once behind the prompt, at most."""
    counts = []
    call = target.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    inputs = left_padded(target, [PROMPT])
    plain, fast = plain_and_drafted(
        target, assistant, inputs, max_new_tokens=30, eos_token_id=None, **settings
    )
    call.remove()
    assert torch.equal(plain, fast)
    return max(count for count in counts if count != PROMPT)


@pytest.mark.parametrize("length", [1, 3, 7])
def test_num_assistant_tokens_is_the_length_of_the_chain(target, head, small_model, length):
    for assistant in (head, WindowedDraft(small_model, window=None)):
        assert longest_read(target, assistant, num_assistant_tokens=length) == length + 1
        assert assistant.last_run.rounds > 0


def test_the_targets_generation_config_is_obeyed_too(head):
    target = tiny_target()
    target.generation_config.num_assistant_tokens = 3
    assert longest_read(target, head) == 4
    assert head.tree == TreeConfig(depth=4, top_k=6, nodes=24)  # as it was


def test_a_chain_asked_for_needs_neither_plan_nor_measurements(target, head, monkeypatch):
    def measure(*_):
        raise AssertionError("the machine was measured")

    monkeypatch.setattr(automatic, "machine_costs", measure)
    adaptive = deepcopy(head)
    adaptive.tree = TreeConfig("adaptive", depth=4, nodes=8)
    adaptive.tree_by_machine = True
    assert longest_read(target, adaptive, num_assistant_tokens=2) == 3


def test_that_a_tree_gives_way_is_said(target, head, said):
    longest_read(target, head, num_assistant_tokens=3)
    assert any("num_assistant_tokens=3: a chain of 3 tokens" in text for text in said)


def test_nothing_is_said_where_nothing_is_set(target, assistants, said):
    for assistant in assistants:
        longest_read(target, assistant)
    assert said == []


UNUSED = {
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.1,
    "assistant_lookbehind": 3,
    "target_lookbehind": 3,
}


@pytest.mark.parametrize("name", UNUSED)
def test_settings_without_a_meaning_are_named(target, head, said, name):
    longest_read(target, head, **{name: UNUSED[name]})
    assert any(f"{name}={UNUSED[name]!r} is for transformers' own" in text for text in said)


def test_the_draft_models_own_setting_is_named(target, said):
    draft = tiny_target(layers=2, seed=3)
    draft.generation_config.num_assistant_tokens = 9
    assert longest_read(target, WindowedDraft(draft, window=None)) == 5
    assert any("num_assistant_tokens=9 of the draft model's" in text for text in said)


@pytest.mark.parametrize("length", [0, -1, 2.5])
def test_a_length_that_counts_nothing_is_refused(target, head, length, monkeypatch):
    monkeypatch.setattr(target.model, "forward", None)
    settings = dict(max_new_tokens=5, num_assistant_tokens=length)
    with pytest.raises(ValueError, match=f"num_assistant_tokens is {length}; it counts"):
        target.generate(**left_padded(target, [5]), assistant_model=head, **settings)
