"""SnapKV keeps what the prompt's end attends to, and the output stays the target's."""

import pytest
import torch
from tiny import left_padded, tiny_target
from transformers import DynamicCache

from eagle_hf import SelfSpeculation, WindowedDraft
from eagle_hf.compat import GENERATE_CACHE
from eagle_hf.decoding.snapkv import Selection
from eagle_hf.decoding.window import Window

KEPT, WIDTH = 10, 8


def most_attended(model, ids):
    """By layer and key head, the positions that the last 32 tokens' attention says, from eager attention's own probabilities."""
    model.set_attn_implementation("eager")
    found = []
    for probs in model(ids, output_attentions=True).attentions:
        votes = (
            probs[0, :, -32:]
            .sum(1)
            .view(model.config.num_key_value_heads, -1, probs.shape[-1])
            .sum(1)
        )
        smooth = torch.nn.functional.avg_pool1d(votes, 5, stride=1, padding=2)
        found.append(smooth[:, :-WIDTH].topk(KEPT).indices.sort().values)
    model.set_attn_implementation("sdpa")
    return found


@torch.no_grad()
def test_the_kept_tokens_are_those_the_prompts_end_attends_to_most():
    model, lengths = tiny_target(layers=3), [60, 45]
    inputs, cache = left_padded(model, lengths), DynamicCache()
    selection = Selection(Window(KEPT, WIDTH, selected=True), inputs["attention_mask"].bool())
    with selection.recording():
        model(**inputs, **{GENERATE_CACHE: cache})
    for row, length in enumerate(lengths):
        for layer, best in enumerate(
            most_attended(model, inputs["input_ids"][row : row + 1, -length:])
        ):
            kept = selection.kept(
                layer, cache.layers[layer].keys, torch.zeros(2, KEPT + 3, dtype=torch.long)
            )
            assert (
                kept[row, :, :KEPT].tolist() == (best + max(lengths) - length).tolist()
                and not kept[row, :, KEPT:].any()
            )


def drafters(small):
    return [
        WindowedDraft(small, window=WIDTH, snapkv=KEPT, gamma=3),
        SelfSpeculation(window=WIDTH, snapkv=KEPT, gamma=3),
    ]


@pytest.mark.parametrize("index", range(2))
@pytest.mark.parametrize("lengths", [[1], [25], [130], [9, 130, 40, 1]])
def test_output_equals_the_target_alone(target, index, lengths):
    inputs, settings = (
        left_padded(target, lengths),
        dict(max_new_tokens=60, do_sample=False, eos_token_id=None),
    )
    plain = target.generate(**inputs, **settings)
    assert torch.equal(
        plain,
        target.generate(
            **inputs, **settings, assistant_model=drafters(tiny_target(layers=2, seed=3))[index]
        ),
    )


def test_what_fits_needs_no_choice(target):
    inputs, runs = left_padded(target, [40]), []
    for assistant in (SelfSpeculation(2, 300, 4), SelfSpeculation(window=290, snapkv=12, gamma=4)):
        target.generate(
            **inputs,
            assistant_model=assistant,
            max_new_tokens=60,
            do_sample=False,
            eos_token_id=None,
        )
        runs.append(assistant.last_run)
    assert runs[0].accepted == runs[1].accepted == runs[1].trials


def test_choosing_by_attention_changes_what_is_drafted(target):
    """Not merely the first tokens again: an untrained target has no attention sinks."""
    inputs, runs = left_padded(target, [200]), []
    for assistant in (SelfSpeculation(7, 8, 3), SelfSpeculation(window=8, snapkv=7, gamma=3)):
        target.generate(
            **inputs,
            assistant_model=assistant,
            max_new_tokens=60,
            do_sample=False,
            eos_token_id=None,
        )
        runs.append(assistant.last_run.accepted)
    assert runs[0] != runs[1]


@pytest.mark.parametrize(
    "arguments, what",
    [
        (dict(snapkv=0), "snapkv 0; each must be 1"),
        (dict(snapkv=4, window=0), "the window is 0"),
        (dict(snapkv=4, window=None), "window None|window=None"),
    ],
)
def test_impossible_selections_are_refused(target, arguments, what):
    for make in (SelfSpeculation, lambda **rest: WindowedDraft(target, **rest)):
        with pytest.raises(ValueError, match=what):
            make(**arguments)


def test_attention_that_shows_no_queries_is_refused():
    model = tiny_target(attn_implementation="eager")
    with pytest.raises(ValueError, match='reads the queries of "sdpa"'):
        model.generate(
            **left_padded(model, [9]),
            assistant_model=SelfSpeculation(window=8, snapkv=4),
            max_new_tokens=4,
        )
