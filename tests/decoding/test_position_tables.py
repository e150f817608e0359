"""Targets and draft models with a table of learnt positions, which a draft may run out of."""

import pytest
import torch
from drafting import plain_and_drafted
from tiny import left_padded
from torch.nn.functional import pad
from transformers import GPT2Config, GPT2LMHeadModel

from eagle_hf import TreeConfig, WindowedDraft

pytestmark = pytest.mark.usefixtures("fixed_sizes")


def gpt2(layers):
    """A model that knows 40 positions."""
    config = GPT2Config(vocab_size=31, n_embd=32, n_layer=layers, n_head=2, n_positions=40)
    return GPT2LMHeadModel(config).double().eval()


def test_drafts_past_the_end_of_a_table_of_positions_are_harmless():
    """The depth of a batch's trees follows its shortest row: the longest drafts beyond its end."""
    torch.manual_seed(0)
    target = gpt2(layers=3)
    draft_model = gpt2(layers=2)
    settings = dict(max_length=40, do_sample=False, eos_token_id=None, pad_token_id=0)
    for seed in range(4):
        inputs = left_padded(target, [20, 3], seed)
        assistant = WindowedDraft(draft_model, window=None, gamma=6)
        plain, fast = plain_and_drafted(target, assistant, inputs, **settings)
        assert torch.equal(plain, fast)


def new_tokens_of(text, begin, end):
    """The tokens in text[begin:end] that text[20:] has had at no earlier place."""
    tokens = set()
    for place in range(begin, end):
        if text[place] not in text[20:place]:
            tokens.add(text[place])
    return tokens


def test_trees_stay_within_a_table_of_positions():
    """max_length may lie beyond the table: an answer that ends before is what generate writes."""
    torch.manual_seed(0)
    target = gpt2(layers=3)
    inputs = left_padded(target, [20])
    settings = dict(do_sample=True, top_k=0, pad_token_id=0)
    served = 0
    for seed in range(20):
        torch.manual_seed(seed)
        output = target.generate(**inputs, **settings, max_length=40, eos_token_id=None)
        # an end token that is written right before the table ends
        for end in new_tokens_of(output[0].tolist(), 35, 39):
            limits = dict(max_length=60, eos_token_id=end)
            assistant = WindowedDraft(target, window=None, gamma=6)
            plain, fast = plain_and_drafted(target, assistant, inputs, seed, **settings, **limits)
            assert torch.equal(plain, fast)
            served += 1
    assert served > 5


@pytest.mark.parametrize("compile", [False, True])
def test_a_padded_row_may_draft_where_its_positions_are_in_the_table(compile):
    """Slot 45 of a row with 20 slots of padding is position 25: nothing to cut."""
    torch.manual_seed(0)
    target = gpt2(layers=3)
    inputs = {}
    for name, part in left_padded(target, [30, 3]).items():
        inputs[name] = pad(part, (20, 0))
    assistant = WindowedDraft(target, window=None)
    assistant.tree = TreeConfig("chain", depth=4, compile=compile)
    settings = dict(max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0)
    plain, fast = plain_and_drafted(target, assistant, inputs, **settings)
    assert torch.equal(plain, fast)
    assert assistant.last_run.accepted == assistant.last_run.trials
    assert assistant.last_run.tau > 3
