"""A draft head's own window: beyond the length it was trained with, and saved with the head."""

import copy

import pytest
import torch
from tiny import left_padded

from eagle_hf import Eagle3DraftHead


def drafted(target, head, new_tokens):
    """(output, rounds, accepted) of one call."""
    torch.manual_seed(0)
    output = target.generate(
        **left_padded(target, [7]),
        assistant_model=head,
        max_new_tokens=new_tokens,
        eos_token_id=None,
    )
    return output.tolist(), head.last_run.rounds, head.last_run.accepted


def test_a_head_sees_a_window_beyond_its_trained_length_only(target, trained_head):
    """Beyond its trained length the drafts change, and the output never does."""
    head = copy.deepcopy(trained_head)
    short = {}
    long = {}
    for trained_length, window in ((0, None), (60, (4, 56)), (20, (4, 16))):
        settings = trained_head.config.eagle_hf | {"trained_length": trained_length}
        head.config.eagle_hf = settings
        assert head.window == window
        short[window] = drafted(target, head, 50)
        long[window] = drafted(target, head, 200)
    assert short[None] == short[(4, 56)]
    assert short[(4, 56)] != short[(4, 16)]
    rounds = set()
    for output, count, _ in long.values():
        assert output == long[None][0]
        rounds.add(count)
    assert len(rounds) > 1


def test_a_heads_window_is_checked_and_saved(trained_head, tmp_path):
    head = copy.deepcopy(trained_head)
    with pytest.raises(ValueError, match="fewer sinks than tokens"):
        head.window = (8, 8)
    head.window = (4, 32)
    head.save_pretrained(tmp_path)
    again = Eagle3DraftHead.from_pretrained(tmp_path)
    assert again.window == (4, 32)
    again.window = None
    assert again.window is None
