"""Language models as drafters: the output is the target's, and the window is what it says."""

import copy

import pytest
import torch
from drafting import drafter_of
from tiny import left_padded, tiny_target
from transformers import GPT2Config, GPT2LMHeadModel, PhiConfig, PhiForCausalLM

from eagle_hf import Eagle3DraftHead, SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.decoding import loop
from eagle_hf.decoding.caches.drafter import DraftCache, rotate_keys
from eagle_hf.decoding.pending import left_aligned
from eagle_hf.decoding.window import SlotMap, Window

SAMPLED = dict(do_sample=True, temperature=1.0, top_k=0)


@pytest.fixture(scope="module")
def small():
    return tiny_target(layers=2, seed=3)


def both(target, assistant, inputs, seed=0, **kwargs):
    outputs = []
    for one in (None, assistant):
        torch.manual_seed(seed)
        outputs.append(target.generate(**inputs, assistant_model=one, max_new_tokens=120, **kwargs))
    return outputs


def assistants(small):
    tree = WindowedDraft(small, sinks=2, window=9)
    tree.tree = TreeConfig(depth=3, top_k=4, nodes=12)
    return [
        WindowedDraft(small, window=None),
        WindowedDraft(small, sinks=2, window=9, gamma=3),
        tree,
        SelfSpeculation(sinks=2, window=9, gamma=3),
    ]


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("settings", [dict(do_sample=False), SAMPLED], ids=["greedy", "sampled"])
def test_output_equals_the_target_alone(target, small, index, settings):
    for length in (1, 7, 130):  # shorter than the sinks, than the window, longer than the ring
        plain, fast = both(
            target,
            assistants(small)[index],
            left_padded(target, [length]),
            eos_token_id=None,
            **settings,
        )
        assert torch.equal(plain, fast)


@pytest.mark.parametrize("index", range(4))
def test_greedy_batch_of_different_lengths_equals_the_target_alone(target, small, index):
    plain, fast = both(
        target, assistants(small)[index], left_padded(target, [9, 1, 130, 40]), do_sample=False
    )
    assert torch.equal(plain, fast)


@pytest.mark.parametrize(
    "assistant",
    [
        lambda target: WindowedDraft(target, window=None, gamma=4),
        lambda target: SelfSpeculation(2, 400, 4),
    ],
)
def test_the_target_itself_with_all_it_read_is_always_right(target, assistant):
    assistant = assistant(target)
    for lengths in ([7], [9, 2, 30]):
        both(target, assistant, left_padded(target, lengths), do_sample=False, eos_token_id=None)
        run = assistant.last_run
        assert run.accepted == run.trials and run.tokens == 119 * len(lengths) and run.tau > 4.5


def test_the_target_drafts_on_its_own_keys_and_turned_sinks(target, monkeypatch):
    """In every round of a batch whose rows roll and end at different times."""
    runs, seen, turn, original = [], set(), DraftCache.turn_sinks, loop.Run.round
    monkeypatch.setattr(loop.Run, "round", lambda run: (runs.append(run), original(run)))

    def turned(cache, slots, rotary):
        turn(cache, slots, rotary)
        drafter, full, shift = (
            runs[-1].drafter,
            runs[-1].cache,
            (slots.lengths - 2 - 9).clamp(min=0),
        )
        order, _ = left_aligned(runs[-1].masks.visible)
        seen.add((len(slots.lengths), bool((shift > 0).all())))
        angles = rotary(torch.zeros(1), shift[:, None])
        for row, length in enumerate(slots.lengths.tolist()):
            cos, sin = (part[row : row + 1].double() for part in angles)
            for slot, position in enumerate(slots.held[row].tolist()):
                if (
                    not 0 <= position < length - 1
                ):  # nothing, or the root, which the drafter reads itself
                    continue
                counts = int(drafter.counts[row])
                source = (
                    int(order[row, position])
                    if position < counts
                    else drafter.prompt_slots + position - counts
                )
                for ours, theirs in zip(cache.layers, full.layers):
                    expected = theirs.keys[row : row + 1, :, source : source + 1]
                    expected = rotate_keys(expected, cos, sin) if slot < 2 else expected
                    assert torch.allclose(
                        ours.keys[row, :, slot], expected[0, :, 0], rtol=0, atol=1e-6
                    )

    monkeypatch.setattr(DraftCache, "turn_sinks", turned)
    both(target, SelfSpeculation(2, 9, gamma=3), left_padded(target, [9, 1, 40]), do_sample=False)
    assert {rows for rows, _ in seen} == {1, 2, 3} and any(rolls for _, rolls in seen)


def test_a_window_that_holds_everything_changes_nothing(target, small):
    inputs = left_padded(target, [30])
    whole, windowed = WindowedDraft(small, window=None), WindowedDraft(small, sinks=4, window=300)
    for assistant in (whole, windowed):
        both(target, assistant, inputs, do_sample=False, eos_token_id=None)
    assert whole.last_run.accepted == windowed.last_run.accepted


@pytest.mark.parametrize("window", [None, Window(2, 5)])
def test_slots_hold_the_sinks_and_the_newest_tokens(window):
    slots, texts = SlotMap(window, 5), [list(range(3)), list(range(150))]
    kept = slots.start(torch.tensor([3, 150]))
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        counts = torch.randint(0, 6, (2,), generator=generator)
        slots.extend(counts, 5)
        for text, count in zip(texts, counts.tolist()):
            text += range(len(text), len(text) + count)
        for row, text in enumerate(texts):
            seen = slots.seen(slots.lengths[:, None] - 1)[row, 0]
            expected = [p for p in text if window is None or p < 2 or p > text[-1] - 5]
            assert sorted(slots.held[row][seen].tolist()) == expected
    assert kept.shape[1] == (150 if window is None else 2 + 5 + 5)
    assert window is None or slots.held.shape[1] == 2 + 5 + 5  # however long the text


def streaming_reference(model, text, window, rounds):
    """Next-token log-probabilities after text[:n] for n in rounds, every key stored unturned and numbered by its place in the cache.

    The drafter reads text[: rounds[0]] whole, then what is new at each of the rounds.
    """
    decoder, config = model.get_decoder(), model.config
    heads, width = config.num_key_value_heads, config.head_dim
    kept, results = None, []
    for start, end in zip([0, *rounds], rounds):
        shift = 0 if kept is None else max(0, end - window.sinks - window.width)
        states = decoder.embed_tokens(torch.tensor([text[start:end]]))
        positions, history = torch.arange(start, end), []
        for number, layer in enumerate(decoder.layers):
            attention, normed = layer.self_attn, layer.input_layernorm(states)
            query, key, value = (
                projection(normed).view(1, end - start, -1, width).transpose(1, 2)
                for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            if kept is not None:
                key, value = (
                    torch.cat([kept[number][0], key], dim=2),
                    torch.cat([kept[number][1], value], dim=2),
                )
            history.append((key, value))
            places = torch.arange(end)
            turned = rope(decoder, key, places + shift * (places < window.sinks))
            seen = places <= positions[:, None]
            if kept is not None:
                seen &= (places < window.sinks) | (places > positions[:, None] - window.width)
            turned, value = (
                part.repeat_interleave(query.shape[1] // heads, dim=1) for part in (turned, value)
            )
            scores = (
                rope(decoder, query, positions) @ turned.transpose(-1, -2) * width**-0.5
            ).masked_fill(~seen, float("-inf"))
            states = states + attention.o_proj(
                (scores.softmax(-1) @ value).transpose(1, 2).reshape(1, end - start, -1)
            )
            states = states + layer.mlp(layer.post_attention_layernorm(states))
        kept = history
        results.append(model.lm_head(decoder.norm(states[0, -1])).log_softmax(-1))
    return results


def rope(decoder, part, positions):
    cos, sin = decoder.rotary_emb(part, positions[None])
    return rotate_keys(part, cos, sin)


def test_a_rolling_window_is_streaming_llms(small, monkeypatch):
    """What the drafter makes of a long text equals unturned keys that are numbered anew, round by round."""
    window, text = (
        Window(2, 9),
        torch.randint(3, 31, (120,), generator=torch.Generator().manual_seed(1)).tolist(),
    )
    small_draft = WindowedDraft(small, sinks=2, window=9)
    drafter, logits = drafter_of(small_draft, small, TreeConfig("chain", depth=29)), []
    monkeypatch.setattr(
        drafter,
        "propose",
        lambda hidden, k: (
            logits.append(small.lm_head(hidden[0]).log_softmax(-1))
            or (hidden[:, :1], torch.zeros(1, 1).long())
        ),
    )
    rounds = [3, 8, 9, 13, 18, 23, 24, 84, 85, 90, 120]
    ids = torch.tensor([text])
    with torch.no_grad():
        drafter.start(ids[:, :2], torch.ones(1, 2, dtype=torch.bool), None, ids[:, 2], None)
        drafter.draft(ids[:, 2], max_depth=1)
        for start, end in zip(rounds, rounds[1:]):
            drafter.accept(None, [list(range(end - start))], [text[start:end]])
            drafter.draft(ids[:, end - 1], max_depth=1)
        expected = streaming_reference(small, text, window, rounds)
    assert len(logits) == len(expected) and drafter.cache.layers[0].keys.shape[2] < 2 * (2 + 9 + 60)
    for ours, theirs in zip(logits, expected):
        assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize(
    "arguments, what",
    [
        (dict(gamma=0), "gamma is 0"),
        (dict(sinks=16, window=16), "the window is 16 tokens and sinks are 16"),
        (dict(sinks=-1), "sinks are -1"),
    ],
)
def test_impossible_windows_are_refused(small, arguments, what):
    for make in (SelfSpeculation, lambda **rest: WindowedDraft(small, **rest)):
        with pytest.raises(ValueError, match=what):
            make(**arguments)


@pytest.mark.parametrize("rows", [26, 29, 40])
@pytest.mark.parametrize(
    "settings",
    [dict(do_sample=False), SAMPLED, SAMPLED | dict(rejection=True)],
    ids=["greedy", "sampled", "rejection"],
)
def test_a_draft_model_may_pad_the_vocabulary_in_its_own_way(rows, settings):
    """The target itself with more or fewer rows of padding: told which ids are common, it drafts what it would choose."""
    settings, target = dict(settings), tiny_target()
    own, inputs = copy.deepcopy(target), left_padded(target, [7])
    inputs["input_ids"] %= 26
    own.resize_token_embeddings(rows)
    with torch.no_grad():
        own.lm_head.weight[26:] = 5.0  # drafted, if it could be
        target.lm_head.weight[26:] = (
            0.9 * target.lm_head.weight[:5]
        )  # as the target may choose its own, which a draft model may lack
    assistant = WindowedDraft(own, window=None, gamma=3, vocab_size=26)
    if settings.pop("rejection", False):
        assistant.tree = TreeConfig("chain", depth=3, acceptance="rejection")
        output = target.generate(
            **inputs, assistant_model=assistant, max_new_tokens=60, eos_token_id=None, **settings
        )
        assert (
            output[:, 7:] >= 26
        ).any()  # what is never drafted is still emitted, see test_generate.py for how often
    else:
        plain, fast = both(target, assistant, inputs, eos_token_id=None, **settings)
        assert torch.equal(plain, fast) and (fast[:, 7:] >= 26).any() == settings["do_sample"]
    assert assistant.last_run.tau > (1.1 if settings["do_sample"] else 3.5)
    with pytest.raises(
        ValueError,
        match=f"vocab_size is {rows + 9}; the draft model has {rows} tokens and the target 31: give {min(rows, 31)} at most",
    ):
        target.generate(
            **inputs, assistant_model=WindowedDraft(own, vocab_size=rows + 9), max_new_tokens=4
        )


def test_draft_models_that_cannot_serve_are_refused(target):
    inputs = left_padded(target, [7])
    with pytest.raises(
        ValueError,
        match="29 tokens and the target 31.*vocab_size=len.tokenizer.*universal assisted generation",
    ):
        target.generate(
            **inputs, assistant_model=WindowedDraft(tiny_target(vocab_size=29)), max_new_tokens=4
        )
    dynamic = tiny_target(
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    )
    with pytest.raises(ValueError, match="'dynamic', whose frequencies change"):
        target.generate(**inputs, assistant_model=WindowedDraft(dynamic), max_new_tokens=4)
    torch.manual_seed(0)
    learnt = (
        GPT2LMHeadModel(GPT2Config(vocab_size=31, n_embd=32, n_layer=2, n_head=2)).double().eval()
    )
    with pytest.raises(ValueError, match="no single rotary embedding"):
        target.generate(**inputs, assistant_model=WindowedDraft(learnt), max_new_tokens=4)
    partly = (
        PhiForCausalLM(
            PhiConfig(
                vocab_size=31,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
            )
        )
        .double()
        .eval()
    )
    with pytest.raises(ValueError, match="rotates a part of its keys"):
        target.generate(**inputs, assistant_model=WindowedDraft(partly), max_new_tokens=4)
    plain, fast = both(
        target, WindowedDraft(learnt, window=None), inputs, do_sample=False, eos_token_id=None
    )
    assert torch.equal(plain, fast)
    short = (
        GPT2LMHeadModel(GPT2Config(vocab_size=31, n_embd=32, n_layer=2, n_head=2, n_positions=40))
        .double()
        .eval()
    )
    with pytest.raises(ValueError, match="knows 40 positions, fewer than the target"):
        target.generate(
            **inputs, assistant_model=WindowedDraft(short, window=None), max_new_tokens=4
        )
    with pytest.raises(ValueError, match="give an opened causal LM"):
        WindowedDraft("someone/their-model")


def test_drafts_past_the_end_of_a_table_of_positions_are_harmless():
    """The depth of a batch's trees follows its shortest row: the longest drafts beyond its end."""
    torch.manual_seed(0)
    target, draft = (
        GPT2LMHeadModel(
            GPT2Config(vocab_size=31, n_embd=32, n_layer=layers, n_head=2, n_positions=40)
        )
        .double()
        .eval()
        for layers in (3, 2)
    )
    for seed in range(4):
        inputs = left_padded(target, [20, 3], seed)
        plain = target.generate(
            **inputs, max_length=40, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        fast = target.generate(
            **inputs,
            max_length=40,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            assistant_model=WindowedDraft(draft, window=None, gamma=6),
        )
        assert torch.equal(plain, fast)


def test_trees_stay_within_a_table_of_positions():
    """max_length may lie beyond the table: an answer that ends before is what generate writes."""
    torch.manual_seed(0)
    target = (
        GPT2LMHeadModel(GPT2Config(vocab_size=31, n_embd=32, n_layer=3, n_head=2, n_positions=40))
        .double()
        .eval()
    )
    settings, served = dict(left_padded(target, [20]), do_sample=True, top_k=0, pad_token_id=0), 0
    for seed in range(20):
        torch.manual_seed(seed)
        text = target.generate(**settings, max_length=40, eos_token_id=None)[0].tolist()
        for end in {text[place] for place in range(35, 39) if text[place] not in text[20:place]}:
            outputs = []
            for assistant in (None, WindowedDraft(target, window=None, gamma=6)):
                torch.manual_seed(seed)
                outputs.append(
                    target.generate(
                        **settings, assistant_model=assistant, max_length=60, eos_token_id=end
                    )
                )
            assert torch.equal(*outputs)
            served += 1
    assert served > 5


@pytest.mark.parametrize("compile", [False, True])
def test_a_padded_row_may_draft_where_its_positions_are_in_the_table(compile):
    """Slot 45 of a row with 20 slots of padding is position 25: nothing to cut."""
    torch.manual_seed(0)
    target = (
        GPT2LMHeadModel(GPT2Config(vocab_size=31, n_embd=32, n_layer=3, n_head=2, n_positions=40))
        .double()
        .eval()
    )
    inputs = left_padded(target, [30, 3])
    inputs = {name: torch.nn.functional.pad(part, (20, 0)) for name, part in inputs.items()}
    assistant = WindowedDraft(target, window=None)
    assistant.tree = TreeConfig("chain", depth=4, compile=compile)
    plain, fast = (
        target.generate(
            **inputs,
            assistant_model=one,
            max_new_tokens=10,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        for one in (None, assistant)
    )
    assert (
        torch.equal(plain, fast)
        and assistant.last_run.accepted == assistant.last_run.trials
        and assistant.last_run.tau > 3
    )


def test_a_head_sees_a_window_beyond_its_trained_length_only(target, trained_head):
    """Up to the trained length nothing changes; beyond it the drafts do, and the output never does."""
    head, drafted = copy.deepcopy(trained_head), {}
    for trained, window in ((0, None), (60, (4, 56)), (20, (4, 16))):
        head.config.eagle_hf = {**trained_head.config.eagle_hf, "trained_length": trained}
        assert head.window == window
        for new in (50, 200):
            torch.manual_seed(0)
            output = target.generate(
                **left_padded(target, [7]),
                assistant_model=head,
                max_new_tokens=new,
                eos_token_id=None,
            )
            drafted[window, new] = output.tolist(), head.last_run.rounds, head.last_run.accepted
    assert drafted[None, 50] == drafted[(4, 56), 50] != drafted[(4, 16), 50]
    assert len({str(output) for (_, new), (output, *_) in drafted.items() if new == 200}) == 1
    assert len({rounds for (_, new), (_, rounds, _) in drafted.items() if new == 200}) > 1


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
