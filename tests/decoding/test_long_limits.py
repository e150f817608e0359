"""A limit far beyond what a row becomes costs nothing: memory follows the tokens."""

import pytest
import torch
from drafting import plain_and_drafted
from tiny import left_padded

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.decoding.sequences import Sequences

pytestmark = pytest.mark.usefixtures("fixed_sizes")

FAR = 10**10  # tokens; their ids alone would take 80 GB a row


@pytest.mark.parametrize("name", ["head", "model", "window", "itself"])
def test_a_limit_of_ten_billion_tokens_is_served(target, head, small_model, name):
    assistants = {
        "head": head,
        "model": WindowedDraft(small_model, window=None),
        "window": WindowedDraft(small_model, sinks=2, window=9),
        "itself": SelfSpeculation(2, 9),
    }
    inputs = left_padded(target, [5, 3])
    settings = dict(max_new_tokens=FAR, eos_token_id=[2, 7, 9, 11])
    plain, fast = plain_and_drafted(target, assistants[name], inputs, **settings)
    assert torch.equal(plain, fast)


def test_ids_take_room_as_rows_grow():
    prompts = torch.tensor([[3, 4], [0, 5]])
    sequences = Sequences(prompts, FAR)
    for token in range(1000):
        sequences.append(0, token)
    assert sequences.prefix(0).tolist() == [[3, 4, *range(1000)]]
    assert sequences.prefix(1).tolist() == [[0, 5]]
    assert sequences.ids.shape[1] < 2500
    assert prompts.tolist() == [[3, 4], [0, 5]]


def test_ids_never_take_more_room_than_the_limit():
    sequences = Sequences(torch.tensor([[3, 4]]), 6)
    for token in range(4):
        sequences.append(0, token)
    assert sequences.ids.shape == (1, 6)


def test_caches_of_a_fixed_size_beyond_the_context_are_refused(target, head, monkeypatch):
    monkeypatch.setattr(target.model, "forward", None)
    tree = TreeConfig("chain", depth=3, compile=True)
    monkeypatch.setattr(head, "tree", tree)
    message = r"compile=True.* all 10000000000 new tokens .*context of 512; set max_new_tokens"
    with pytest.raises(ValueError, match=message):
        target.generate(**left_padded(target, [5]), assistant_model=head, max_new_tokens=FAR)
