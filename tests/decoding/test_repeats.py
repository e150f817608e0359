"""Prompts that stand in a batch several times are read once, and answered as if read each."""

from typing import Any

import pytest
import torch
from drafting import given_tree, plain_and_drafted
from tiny import left_padded

from eagle_hf import TreeConfig
from eagle_hf.decoding.repeats import find_repeats
from eagle_hf.target import decoder_layers

GROUPS = [0, 0, 1, 0, 2, 1]  # which prompt stands in each row


def grouped(target: Any, lengths: list[int]) -> dict[str, torch.Tensor]:
    """A left-padded batch in which the prompts stand as in GROUPS."""
    return {name: part[GROUPS] for name, part in left_padded(target, lengths).items()}


class RowsRead:
    """Remembers how many rows every forward of a target's first layer reads."""

    def __init__(self, target: Any):
        self.rows: list[int] = []
        self._handle = decoder_layers(target)[0].register_forward_pre_hook(self)

    def __call__(self, module: Any, args: tuple) -> None:
        self.rows.append(len(args[0]))

    def __enter__(self) -> "RowsRead":
        return self

    def __exit__(self, *_: Any) -> None:
        self._handle.remove()


@pytest.mark.parametrize("lengths", [[9, 9, 9], [9, 4, 1]], ids=["equal", "padded"])
def test_repeated_prompts_are_answered_as_by_the_target_alone(target, trained_head, lengths):
    inputs = grouped(target, lengths)
    alone, drafted = plain_and_drafted(
        target, trained_head, inputs, do_sample=False, max_new_tokens=20
    )
    assert torch.equal(alone, drafted)


@pytest.mark.slow
def test_repeated_prompts_fill_caches_of_fixed_size(target, trained_head, fixed_sizes):
    inputs = grouped(target, [9, 4, 1])
    with given_tree(trained_head, TreeConfig(depth=3, top_k=3, nodes=8, compile=True)):
        alone, drafted = plain_and_drafted(
            target, trained_head, inputs, do_sample=False, max_new_tokens=20
        )
    assert torch.equal(alone, drafted)


def test_repeated_prompts_are_read_once(target, trained_head):
    with RowsRead(target) as read:
        target.generate(
            **grouped(target, [9, 4, 1]), assistant_model=trained_head, max_new_tokens=8
        )
    assert read.rows[0] == 3
    assert max(read.rows[1:]) == 6


def test_different_prompts_are_read_in_one_batch(target, trained_head):
    with RowsRead(target) as read:
        target.generate(
            **left_padded(target, [9, 4, 1]), assistant_model=trained_head, max_new_tokens=8
        )
    assert read.rows[0] == 3


def test_rows_that_differ_in_their_padding_alone_are_different_prompts():
    ids = torch.tensor([[5, 6, 7], [5, 6, 7]])
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    assert find_repeats({"input_ids": ids, "attention_mask": mask}) is None


def test_the_first_of_every_prompt_is_read():
    ids = torch.tensor([[7, 7], [3, 4], [7, 7], [3, 4], [1, 2]])
    repeats = find_repeats({"input_ids": ids, "use_cache": True})
    assert sorted(repeats.first.tolist()) == [0, 1, 4]
    assert torch.equal(ids[repeats.first][repeats.source], ids)


def test_images_are_never_taken_for_repeats():
    ids = torch.tensor([[7, 7], [7, 7]])
    assert find_repeats({"input_ids": ids, "pixel_values": torch.zeros(2, 3, 4, 4)}) is None


def test_groups_are_drawn_apart(target, trained_head):
    inputs = {name: part[:1].repeat(8, 1) for name, part in left_padded(target, [5]).items()}
    torch.manual_seed(0)
    answers = target.generate(
        **inputs, assistant_model=trained_head, do_sample=True, max_new_tokens=12
    )
    assert len(answers.unique(dim=0)) > 1
