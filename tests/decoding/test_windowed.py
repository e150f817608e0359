"""Language models as drafters: the output is the target's, and the window is what it says."""

from itertools import pairwise

import pytest
import torch
from drafting import drafter_of, plain_and_drafted
from tiny import left_padded

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.decoding import loop
from eagle_hf.decoding.caches.drafter import DraftCache, rotate_keys
from eagle_hf.decoding.pending import left_aligned
from eagle_hf.decoding.window import Window

SETTINGS = {
    "greedy": dict(do_sample=False),
    "sampled": dict(do_sample=True, temperature=1.0, top_k=0),
}
ASSISTANTS = ["model", "window", "window with trees", "itself"]


def assistant_of(name, small_model):
    if name == "model":
        return WindowedDraft(small_model, window=None)
    if name == "window":
        return WindowedDraft(small_model, sinks=2, window=9, gamma=3)
    if name == "itself":
        return SelfSpeculation(sinks=2, window=9, gamma=3)
    assistant = WindowedDraft(small_model, sinks=2, window=9)
    assistant.tree = TreeConfig(depth=3, top_k=4, nodes=12)
    return assistant


@pytest.mark.parametrize("name", ASSISTANTS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_output_equals_the_target_alone(target, small_model, name, setting):
    settings = dict(SETTINGS[setting], max_new_tokens=120, eos_token_id=None)
    for length in (1, 7, 130):  # shorter than the sinks, than the window, longer than the ring
        assistant = assistant_of(name, small_model)
        inputs = left_padded(target, [length])
        plain, fast = plain_and_drafted(target, assistant, inputs, **settings)
        assert torch.equal(plain, fast)


@pytest.mark.parametrize("name", ASSISTANTS)
def test_greedy_batch_of_different_lengths_equals_the_target_alone(target, small_model, name):
    assistant = assistant_of(name, small_model)
    inputs = left_padded(target, [9, 1, 130, 40])
    settings = dict(max_new_tokens=120, do_sample=False)
    plain, fast = plain_and_drafted(target, assistant, inputs, **settings)
    assert torch.equal(plain, fast)


@pytest.mark.parametrize("name", ["model", "itself"])
def test_the_target_itself_with_all_it_read_is_always_right(target, name):
    assistant = {
        "model": WindowedDraft(target, window=None, gamma=4),
        "itself": SelfSpeculation(2, 400, 4),
    }[name]
    for lengths in ([7], [9, 2, 30]):
        target.generate(
            **left_padded(target, lengths),
            assistant_model=assistant,
            max_new_tokens=120,
            do_sample=False,
            eos_token_id=None,
        )
        run = assistant.last_run
        assert run.accepted == run.trials
        assert run.tokens == 119 * len(lengths)
        assert run.tau > 4.5


def target_slot(run, order, row, position):
    """The slot of the target's cache with the token at this position of a row."""
    prompt_tokens = int(run.drafter.counts[row])
    if position < prompt_tokens:
        return int(order[row, position])
    return run.drafter.prompt_slots + position - prompt_tokens


def assert_targets_own_keys(run, cache, slots, rotary, shift):
    """The drafter's keys are the target's, the sinks' turned forward by `shift` [B]."""
    order, _ = left_aligned(run.masks.visible)
    all_cos, all_sin = rotary(torch.zeros(1), shift[:, None])  # [B, 1, D]
    for row, length in enumerate(slots.lengths.tolist()):
        cos = all_cos[row : row + 1].double()
        sin = all_sin[row : row + 1].double()
        for slot, position in enumerate(slots.held[row].tolist()):
            if position < 0 or position >= length - 1:
                continue  # nothing, or the root, which the drafter reads itself
            source = target_slot(run, order, row, position)
            for ours, theirs in zip(cache.layers, run.cache.layers, strict=True):
                expected = theirs.keys[row : row + 1, :, source : source + 1]  # [1, h, 1, D]
                if slot < 2:
                    expected = rotate_keys(expected, cos, sin)
                key = ours.keys[row, :, slot]
                assert torch.allclose(key, expected[0, :, 0], rtol=0, atol=1e-6)


def test_the_target_drafts_on_its_own_keys_and_turned_sinks(target, monkeypatch):
    """In every round of a batch whose rows roll and end at different times."""
    runs = []
    batches = set()
    rolled = set()  # whether all windows of a batch rolled
    original_turn = DraftCache.turn_sinks
    original_round = loop.Run.round

    def watched_round(run):
        runs.append(run)
        original_round(run)

    def checked_turn(cache, slots, rotary):
        original_turn(cache, slots, rotary)
        shift = (slots.lengths - 2 - 9).clamp(min=0)
        assert_targets_own_keys(runs[-1], cache, slots, rotary, shift)
        batches.add(len(slots.lengths))
        rolled.add(bool((shift > 0).all()))

    monkeypatch.setattr(loop.Run, "round", watched_round)
    monkeypatch.setattr(DraftCache, "turn_sinks", checked_turn)
    target.generate(
        **left_padded(target, [9, 1, 40]),
        assistant_model=SelfSpeculation(2, 9, gamma=3),
        max_new_tokens=120,
        do_sample=False,
    )
    assert batches == {1, 2, 3}
    assert True in rolled


def test_a_window_that_holds_everything_changes_nothing(target, small_model):
    whole = WindowedDraft(small_model, window=None)
    windowed = WindowedDraft(small_model, sinks=4, window=300)
    for assistant in (whole, windowed):
        target.generate(
            **left_padded(target, [30]),
            assistant_model=assistant,
            max_new_tokens=120,
            do_sample=False,
            eos_token_id=None,
        )
    assert whole.last_run.accepted == windowed.last_run.accepted


def streaming_reference(model, text, window, rounds):
    """Next-token log-probabilities after text[:n] for n in rounds, as StreamingLLM has them.

    Every key is stored unturned and numbered by its place in the cache. The drafter reads
    text[: rounds[0]] whole, then what is new at each of the rounds.
    """
    decoder = model.get_decoder()
    history = [None] * len(decoder.layers)
    results = []
    for start, end in pairwise([0, *rounds]):
        states = decoder.embed_tokens(torch.tensor([text[start:end]]))  # [1, M, H]
        for number, layer in enumerate(decoder.layers):
            states, history[number] = run_layer(decoder, layer, states, history[number], window)
        logits = model.lm_head(decoder.norm(states[0, -1]))
        results.append(logits.log_softmax(-1))
    return results


def run_layer(decoder, layer, states, history, window):
    """(states [1, M, H], (keys, values) of all tokens so far, unturned), after M new tokens."""
    # 1) append the new tokens' keys and values
    attention = layer.self_attn
    normed = layer.input_layernorm(states)
    query = split_heads(attention.q_proj(normed), attention.head_dim)
    key = split_heads(attention.k_proj(normed), attention.head_dim)
    value = split_heads(attention.v_proj(normed), attention.head_dim)
    if history is not None:
        key = torch.cat([history[0], key], dim=2)
        value = torch.cat([history[1], value], dim=2)
    history_with_new = (key, value)

    # 2) number the keys, the sinks right before the window; the first tokens are read whole
    end = key.shape[2]
    places = torch.arange(end)
    positions = torch.arange(end - states.shape[1], end)
    is_sink = places < window.sinks
    seen = places <= positions[:, None]  # [M, S]
    if end > states.shape[1]:
        seen &= is_sink | (places > positions[:, None] - window.width)
        places = places + is_sink * max(0, end - window.sinks - window.width)

    # 3) attend
    group = query.shape[1] // key.shape[1]
    key = rope(decoder, key, places).repeat_interleave(group, dim=1)
    value = value.repeat_interleave(group, dim=1)
    scores = rope(decoder, query, positions) @ key.transpose(-1, -2)
    scores = scores * attention.head_dim**-0.5
    probs = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    output = (probs @ value).transpose(1, 2).flatten(2)  # [1, M, H]
    states = states + attention.o_proj(output)
    return states + layer.mlp(layer.post_attention_layernorm(states)), history_with_new


def split_heads(states, width):
    """[B, M, heads * D] as [B, heads, M, D]."""
    batch, length, _ = states.shape
    return states.view(batch, length, -1, width).transpose(1, 2)


def rope(decoder, part, positions):
    cos, sin = decoder.rotary_emb(part, positions[None])
    return rotate_keys(part, cos, sin)


@torch.no_grad()
def test_a_rolling_window_is_streaming_llms(small_model, monkeypatch):
    """A long text, round by round, against unturned keys that are numbered anew each time."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(3, 31, (120,), generator=generator).tolist()
    ids = torch.tensor([text])
    assistant = WindowedDraft(small_model, sinks=2, window=9)
    drafter = drafter_of(assistant, small_model, TreeConfig("chain", depth=29))
    found = []

    def propose(hidden, k):
        found.append(small_model.lm_head(hidden[0]).log_softmax(-1))
        return hidden[:, :1], torch.zeros(1, 1).long()

    monkeypatch.setattr(drafter, "propose", propose)
    rounds = [3, 8, 9, 13, 18, 23, 24, 84, 85, 90, 120]
    drafter.start(ids[:, :2], torch.ones(1, 2, dtype=torch.bool), None, ids[:, 2], None)
    drafter.draft(ids[:, 2], max_depth=1)
    for start, end in pairwise(rounds):
        drafter.accept(None, [list(range(end - start))], [text[start:end]])
        drafter.draft(ids[:, end - 1], max_depth=1)
    expected = streaming_reference(small_model, text, Window(2, 9), rounds)
    assert drafter.cache.layers[0].keys.shape[2] < 2 * (2 + 9 + 60)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(gamma=0), "gamma is 0"),
        (dict(sinks=16, window=16), "the window is 16 tokens and sinks are 16"),
        (dict(sinks=-1), "sinks are -1"),
    ],
)
def test_impossible_windows_are_refused(small_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        SelfSpeculation(**arguments)
    with pytest.raises(ValueError, match=message):
        WindowedDraft(small_model, **arguments)
