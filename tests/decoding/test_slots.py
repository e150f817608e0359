"""Which slot of a drafter's cache holds which token: the window that the module draws, and any."""

import pytest
import torch

from eagle_hf.decoding.window import SlotMap, Window


def visible_to_newest(slots, row=0):
    """The tokens that the newest committed token of a row sees, in their order."""
    newest = slots.lengths[:, None] - 1
    seen = slots.seen(newest)[row, 0]
    return sorted(slots.held[row][seen].tolist())


def test_two_sinks_and_a_window_of_three_after_seven_tokens():
    slots = SlotMap(Window(sinks=2, width=3), most_new=1)
    kept = slots.start(torch.tensor([7]))
    # two slots for sinks, then a ring of 3 + 1, in which token 6 takes the slot of token 2
    assert kept.tolist() == [[0, 1, 6, 3, 4, 5]]
    assert slots.held.tolist() == [[0, 1, 6, 3, 4, 5]]
    assert visible_to_newest(slots) == [0, 1, 4, 5, 6]
    assert slots.shift.tolist() == [2]  # the sinks 0 and 1 are read at 2 and 3, right before 4


def test_the_same_window_filled_token_by_token():
    slots = SlotMap(Window(sinks=2, width=3), most_new=1)
    slots.start(torch.tensor([1]))
    for token in range(1, 7):
        where, positions, _ = slots.extend(torch.tensor([1]), 1)
        assert positions.tolist() == [[token]]
    assert where.tolist() == [[2]]
    assert slots.held.tolist() == [[0, 1, 6, 3, 4, 5]]
    assert visible_to_newest(slots) == [0, 1, 4, 5, 6]
    assert slots.shift.tolist() == [2]


@pytest.mark.parametrize("window", [None, Window(2, 5)])
def test_slots_hold_the_sinks_and_the_newest_tokens(window):
    slots = SlotMap(window, 5)
    lengths = [3, 150]
    kept = slots.start(torch.tensor(lengths))
    assert kept.shape[1] == (150 if window is None else 2 + 5 + 5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        counts = torch.randint(0, 6, (2,), generator=generator)
        slots.extend(counts, 5)
        for row, new in enumerate(counts.tolist()):
            lengths[row] += new
            assert visible_to_newest(slots, row) == expected_tokens(lengths[row], window)
    if window is not None:
        assert slots.held.shape[1] == 2 + 5 + 5  # however long the text


def expected_tokens(length, window):
    if window is None:
        return list(range(length))
    first_in_window = max(2, length - 5)
    return [*range(min(2, length)), *range(first_in_window, length)]
