"""SnapKV keeps what the prompt's end attends to, and the output stays the target's."""

import pytest
import torch
from drafting import plain_and_drafted
from tiny import left_padded, tiny_target
from torch.nn.functional import avg_pool1d
from transformers import DynamicCache

from eagle_hf import SelfSpeculation, WindowedDraft
from eagle_hf.compat import GENERATE_CACHE
from eagle_hf.decoding.snapkv import Selection
from eagle_hf.decoding.window import Window

SELECTED, WIDTH = 10, 8


def most_attended(model, ids):
    """By layer, the positions [h, SELECTED] that the last 32 tokens attend to most.

    From eager attention's own probabilities.
    """
    model.set_attn_implementation("eager")
    attentions = model(ids, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    heads = model.config.num_key_value_heads
    found = []
    for probs in attentions:  # [1, query heads, S, S]
        votes = probs[0, :, -32:].sum(1)  # [query heads, S]
        votes = votes.view(heads, -1, votes.shape[-1]).sum(1)  # [h, S]
        smooth = avg_pool1d(votes, 5, stride=1, padding=2)
        before_window = smooth[:, :-WIDTH]
        found.append(before_window.topk(SELECTED).indices.sort().values)
    return found


@torch.no_grad()
def test_the_kept_tokens_are_those_the_prompts_end_attends_to_most():
    model = tiny_target(layers=3)
    lengths = [60, 45]
    inputs = left_padded(model, lengths)
    cache = DynamicCache()
    window = Window(SELECTED, WIDTH, selected=True)
    selection = Selection(window, inputs["attention_mask"].bool())
    with selection.recording():
        model(**inputs, **{GENERATE_CACHE: cache})
    window_alone = torch.zeros(2, SELECTED + 3, dtype=torch.long)
    for row, length in enumerate(lengths):
        padding = max(lengths) - length
        prompt = inputs["input_ids"][row : row + 1, -length:]
        for layer, best in enumerate(most_attended(model, prompt)):
            chosen = selection.kept(layer, cache.layers[layer].keys, window_alone)[row]
            assert chosen[:, :SELECTED].tolist() == (best + padding).tolist()
            assert not chosen[:, SELECTED:].any()


@pytest.mark.parametrize("name", ["model", "itself"])
@pytest.mark.parametrize("lengths", [[1], [25], [130], [9, 130, 40, 1]])
def test_output_equals_the_target_alone(target, small_model, name, lengths):
    assistant = {
        "model": WindowedDraft(small_model, window=WIDTH, snapkv=SELECTED, gamma=3),
        "itself": SelfSpeculation(window=WIDTH, snapkv=SELECTED, gamma=3),
    }[name]
    inputs = left_padded(target, lengths)
    settings = dict(max_new_tokens=60, do_sample=False, eos_token_id=None)
    plain, fast = plain_and_drafted(target, assistant, inputs, **settings)
    assert torch.equal(plain, fast)


def accepted_and_trials(target, assistant, length):
    """By depth, for 60 tokens after a prompt of this length."""
    target.generate(
        **left_padded(target, [length]),
        assistant_model=assistant,
        max_new_tokens=60,
        do_sample=False,
        eos_token_id=None,
    )
    return assistant.last_run.accepted, assistant.last_run.trials


def test_what_fits_needs_no_choice(target):
    windowed = SelfSpeculation(2, 300, 4)
    selecting = SelfSpeculation(window=290, snapkv=12, gamma=4)
    expected, _ = accepted_and_trials(target, windowed, 40)
    accepted, trials = accepted_and_trials(target, selecting, 40)
    assert expected == accepted == trials


def test_choosing_by_attention_changes_what_is_drafted(target):
    """Not merely the first tokens again: an untrained target has no attention sinks."""
    windowed = SelfSpeculation(7, 8, 3)
    selecting = SelfSpeculation(window=8, snapkv=7, gamma=3)
    with_sinks, _ = accepted_and_trials(target, windowed, 200)
    with_selected, _ = accepted_and_trials(target, selecting, 200)
    assert with_sinks != with_selected


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(snapkv=0), "snapkv 0; each must be 1"),
        (dict(snapkv=4, window=0), "the window is 0"),
        (dict(snapkv=4, window=None), "window None|window=None"),
    ],
)
def test_impossible_selections_are_refused(target, arguments, message):
    with pytest.raises(ValueError, match=message):
        SelfSpeculation(**arguments)
    with pytest.raises(ValueError, match=message):
        WindowedDraft(target, **arguments)


def test_attention_that_shows_no_queries_is_refused():
    model = tiny_target(attn_implementation="eager")
    assistant = SelfSpeculation(window=8, snapkv=4)
    with pytest.raises(ValueError, match='reads the queries of "sdpa"'):
        model.generate(**left_padded(model, [9]), assistant_model=assistant, max_new_tokens=4)
