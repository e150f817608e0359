"""A prompt that is read in chunks: the cache, states, first token and output of the whole."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from drafting import given_tree, plain_and_drafted
from peft import LoraConfig, get_peft_model
from sweep.models import all_entries, build, prompts
from sweep.trial import random_head
from tiny import left_padded, tiny_head, tiny_target
from tiny_vision import image_prompts, vision_target
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3TextConfig,
    GPT2Config,
    MistralConfig,
    PreTrainedModel,
)

from eagle_hf import SelfSpeculation, TreeConfig, WindowedDraft
from eagle_hf.compat import GENERATE_CACHE, prepare_inputs, take_cache
from eagle_hf.compilation.forwards import NodesForward
from eagle_hf.decoding import prefill
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.forward import TargetForward
from eagle_hf.decoding.masks import TreeMask, prompt_positions
from eagle_hf.decoding.prefill import read_prompt
from eagle_hf.decoding.snapkv import Selection
from eagle_hf.decoding.window import Window

LENGTHS = {"one row": [13], "rows whose padding fills chunks": [13, 2, 7, 1]}
SIZES = [1, 3, 12, 13, 18]  # tokens of a chunk; the prompts have 13
LAYERS = (0, 2, 3)  # of which the aux hidden states are compared
SHAPE = dict(
    vocab_size=31,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    initializer_range=0.25,
    pad_token_id=0,
)
KINDS = ["sliding_attention", "full_attention"] * 2
FAMILIES = {
    "llama": None,
    "all windows": MistralConfig(**SHAPE, sliding_window=4),
    "windows between": Gemma3TextConfig(**SHAPE, sliding_window=4, layer_types=KINDS),
    "a table of positions": GPT2Config(vocab_size=31, n_embd=32, n_layer=4, n_head=2),
}
GREEDY = dict(do_sample=False, max_new_tokens=24, eos_token_id=None)


def model_of(family: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A tiny random model of a family."""
    config = FAMILIES[family]
    if config is None:
        return tiny_target(layers=4, dtype=dtype)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


@torch.no_grad()
def read(model, inputs, size, capacity=None, compile=False):
    """(the cache, logits [B, V] at the end, aux hidden states [B, S, 3H]) of prompts."""
    cache = TargetCache(capacity=capacity)
    mask = inputs["attention_mask"]
    given = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    _, prepared = take_cache(prepare_inputs(model, inputs["input_ids"], cache, given))
    positions = prompt_positions(inputs["input_ids"], given, prepared)
    masks = TreeMask(model, inputs["input_ids"], mask, positions)
    forward = TargetForward(model, cache, LAYERS, compile=compile)
    logits, aux = read_prompt(forward, prepared, size, masks)
    return cache, logits[:, -1], aux


@contextmanager
def reads_of(model) -> Iterator[list[int]]:
    """How many tokens each forward of a model reads inside the block."""
    widths = []

    def note(module, args, kwargs):
        widths.append(kwargs["input_ids"].shape[1])

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield widths
    finally:
        handle.remove()


def check_equal(model, lengths, size, tolerance, **settings):
    """Compare everything that a chunked prompt leaves behind with the whole prompt's."""
    inputs = left_padded(model, lengths)
    visible = inputs["attention_mask"].bool()
    whole_cache, whole_logits, whole_aux = read(model, inputs, None)
    cache, logits, aux = read(model, inputs, size, **settings)
    assert torch.equal(logits.argmax(-1), whole_logits.argmax(-1))
    torch.testing.assert_close(logits, whole_logits, rtol=tolerance, atol=tolerance)
    close = dict(rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(aux[visible], whole_aux[visible], **close)
    for layer, whole in zip(cache.layers, whole_cache.layers, strict=True):
        for states, right in ((layer.keys, whole.keys), (layer.values, whole.values)):
            assert states.shape == right.shape
            of_text = states.transpose(1, 2)[visible]
            torch.testing.assert_close(of_text, right.transpose(1, 2)[visible], **close)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_leave_what_the_whole_prompt_leaves(family, lengths, size):
    check_equal(model_of(family), LENGTHS[lengths], size, tolerance=1e-9)


@pytest.mark.parametrize("size", [1, 3, 13, 18])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_forward_leaves_what_the_whole_prompt_leaves(family, lengths, size, calls):
    model = model_of(family)
    check_equal(model, LENGTHS[lengths], size, tolerance=1e-9, compile=True)
    assert calls[NodesForward(model, LAYERS).name] == -(-13 // size)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_of_float32_agree_within_its_noise(family):
    model = model_of(family, torch.float32)
    check_equal(model, LENGTHS["rows whose padding fills chunks"], 3, tolerance=1e-3)


def test_a_cache_that_keeps_its_size_takes_chunks():
    lengths = LENGTHS["rows whose padding fills chunks"]
    check_equal(model_of("llama"), lengths, 3, tolerance=1e-9, capacity=32)


def test_eager_attention_takes_chunks():
    # its softmax is in float32, where a float64 mask would be minus infinity
    model = tiny_target(layers=4, dtype=torch.float32, attn_implementation="eager")
    check_equal(model, LENGTHS["rows whose padding fills chunks"], 3, tolerance=1e-3)


def test_a_prompt_is_read_in_chunks_and_no_longer_one_is(target, head):
    inputs = left_padded(target, [11])
    with reads_of(target) as widths:
        target.generate(**inputs, assistant_model=head, prefill_chunk_size=4, **GREEDY)
    assert widths[:3] == [4, 4, 3]
    with reads_of(target) as widths:
        target.generate(**inputs, assistant_model=head, prefill_chunk_size=11, **GREEDY)
    assert widths[0] == 11


def assistants_of(head, small_model):
    return {
        "head": head,
        "window": WindowedDraft(small_model, sinks=2, window=9),
        "whole": WindowedDraft(small_model, window=None),
        "itself": SelfSpeculation(2, 9),
        "selected": SelfSpeculation(window=8, snapkv=10, gamma=3),
        "model selected": WindowedDraft(small_model, window=8, snapkv=10, gamma=3),
    }


@pytest.mark.parametrize(
    "name, size",
    [
        ("head", 1),
        ("head", 7),
        ("head", 200),
        ("window", 7),
        ("whole", 7),
        ("itself", 7),
        ("selected", 1),
        ("selected", 7),
        ("model selected", 7),
    ],
)
def test_output_equals_the_target_alone(target, head, small_model, name, size):
    assistant = assistants_of(head, small_model)[name]
    inputs = left_padded(target, [50, 9, 61])
    chunked = dict(GREEDY, prefill_chunk_size=size)
    plain, fast = plain_and_drafted(target, assistant, inputs, **chunked)
    assert torch.equal(plain, fast)
    assert torch.equal(plain, target.generate(**inputs, **GREEDY))


def test_sampled_output_equals_the_target_alone(target, head):
    settings = dict(do_sample=True, top_k=0, max_new_tokens=24, prefill_chunk_size=3)
    plain, fast = plain_and_drafted(target, head, left_padded(target, [11]), **settings)
    assert torch.equal(plain, fast)


@pytest.mark.parametrize("name", ["head", "itself", "selected"])
def test_the_drafter_drafts_as_behind_the_whole_prompt(target, head, small_model, name):
    assistant = assistants_of(head, small_model)[name]
    inputs = left_padded(target, [50, 9, 61])
    runs = []
    for size in (None, 7):
        settings = dict(GREEDY, prefill_chunk_size=size)
        target.generate(**inputs, assistant_model=assistant, **settings)
        runs.append(assistant.last_run)
    assert runs[0].rounds == runs[1].rounds
    assert runs[0].accepted == runs[1].accepted


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 5, 30, 39])
def test_recorded_queries_are_joined_over_the_chunks(size):
    """The last 32 of 40 tokens; in a row of 35 they are others, in one of 20 there is padding."""
    model = model_of("llama")
    inputs = left_padded(model, [40, 35, 20])
    inputs["attention_mask"][0, 20:22] = 0  # slots that nobody sees, in the text's middle
    window = Window(4, 8, selected=True)
    recorders = []
    for chunk in (40, size):
        selection = Selection(window, inputs["attention_mask"].bool())
        with selection.recording():
            read(model, inputs, chunk)
        recorders.append(selection.recorder)
    whole, chunked = recorders
    # entries before a short prompt are padding, which sees nothing
    is_text = inputs["attention_mask"].bool().gather(1, whole.slots)
    for layer, (query, _) in whole.layers.items():
        joined = chunked.layers[layer][0].transpose(1, 2)[is_text]
        torch.testing.assert_close(joined, query.transpose(1, 2)[is_text])


def test_callers_positions_are_cut_with_the_tokens(target, head):
    inputs = left_padded(target, [11])
    inputs["position_ids"] = torch.arange(11)[None] + 5
    outputs = []
    for size in (None, 4):
        settings = dict(GREEDY, prefill_chunk_size=size)
        outputs.append(target.generate(**inputs, assistant_model=head, **settings))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], target.generate(**inputs, **GREEDY))


@pytest.mark.parametrize("kind", ["qwen3_vl", "gemma3", "llava"])
def test_text_for_an_image_text_target_is_read_in_chunks(kind):
    """On three axes of positions, behind windows, or plainly."""
    target = vision_target(kind)
    head = tiny_head(target)
    inputs = image_prompts(kind, [[14], [3]])
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    plain = target.generate(**text, **GREEDY)
    with reads_of(target) as widths:
        fast = target.generate(**text, assistant_model=head, prefill_chunk_size=5, **GREEDY)
    assert widths[:3] == [5, 5, 4]
    assert torch.equal(plain, fast)


@pytest.mark.parametrize("kind", ["qwen3_vl", "gemma3", "llava"])
def test_prompts_with_images_are_read_whole(kind):
    target = vision_target(kind)
    head = tiny_head(target)
    inputs = image_prompts(kind, [[5, 4]])
    plain = target.generate(**inputs, **GREEDY)
    with reads_of(target) as widths:
        fast = target.generate(**inputs, assistant_model=head, prefill_chunk_size=5, **GREEDY)
    assert widths[0] == inputs["input_ids"].shape[1]
    assert torch.equal(plain, fast)


def test_a_target_whose_prompts_see_both_ways_reads_them_whole():
    """PaliGemma, also where there is no image. transformers itself would cut the prompt."""
    name = "PaliGemmaForConditionalGeneration (PaliGemmaConfig)"
    entry = next(entry for entry in all_entries() if entry.name == name)
    target = build(entry)
    inputs = prompts(entry, target, [9])
    plain = target.generate(**inputs, **GREEDY)
    with reads_of(target) as widths:
        fast = target.generate(
            **inputs, assistant_model=random_head(target), prefill_chunk_size=3, **GREEDY
        )
    assert 9 in widths
    assert torch.equal(plain, fast)


def test_rows_keep_their_own_adapter_over_chunks(head):
    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(tiny_target(), config, adapter_name="a")
    model.add_adapter("b", config)
    model.eval()
    inputs = left_padded(model, [11, 4, 9])
    settings = dict(GREEDY, adapter_names=["a", "__base__", "b"])
    plain = model.generate(**inputs, **settings)
    fast = model.generate(**inputs, assistant_model=head, prefill_chunk_size=3, **settings)
    assert torch.equal(plain, fast)


def test_a_prompt_of_an_activated_lora_is_read_whole(head):
    config = LoraConfig(
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
        alora_invocation_tokens=[4, 5],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(tiny_target(), config).eval()
    inputs = {"input_ids": torch.tensor([[7, 8, 4, 5, 10, 11, 12]])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    plain = model.generate(**inputs, **GREEDY)
    with reads_of(model.get_base_model()) as widths:
        fast = model.generate(**inputs, assistant_model=head, prefill_chunk_size=3, **GREEDY)
    assert widths[0] == 7
    assert torch.equal(plain, fast)


def test_a_compiled_target_reads_no_prompt_itself(target, head, calls):
    inputs = left_padded(target, [11])
    with given_tree(head, TreeConfig("chain", depth=3, compile=True)):
        fast = target.generate(**inputs, assistant_model=head, prefill_chunk_size=4, **GREEDY)
    reads = sum(count for name, count in calls.items() if name.startswith("nodes"))
    assert reads == 3 + head.last_run.rounds
    assert torch.equal(fast, target.generate(**inputs, **GREEDY))


@pytest.mark.usefixtures("fixed_sizes")
@pytest.mark.parametrize("name", ["head", "itself"])
def test_fixed_sizes_read_long_prompts_in_chunks(target, head, small_model, name, monkeypatch):
    monkeypatch.setattr(prefill, "COMPILED_CHUNK", 4)
    assistant = assistants_of(head, small_model)[name]
    tree = TreeConfig("chain", depth=3, compile=True)
    inputs = left_padded(target, [11, 5])
    with given_tree(assistant, tree), reads_of(target) as widths:
        fast = target.generate(**inputs, assistant_model=assistant, **GREEDY)
    assert [4, 4, 3] in [widths[:3], widths[1:4]]  # behind the call that hooks the layers
    assert torch.equal(fast, target.generate(**inputs, **GREEDY))


@pytest.mark.usefixtures("fixed_sizes")
def test_a_call_says_otherwise_than_the_default_of_fixed_sizes(target, head):
    tree = TreeConfig("chain", depth=3, compile=True)
    config = target.generation_config
    assert prefill.chunk_size(config, tree) == prefill.COMPILED_CHUNK
    assert prefill.chunk_size(config, TreeConfig()) is None
    inputs = left_padded(target, [11])
    with given_tree(head, tree), reads_of(target) as widths:
        target.generate(**inputs, assistant_model=head, prefill_chunk_size=6, **GREEDY)
    assert [6, 5] in [widths[:2], widths[1:3]]


def test_the_cache_that_is_returned_is_that_of_plain_generate(target, head):
    inputs = left_padded(target, [11])
    settings = dict(GREEDY, return_dict_in_generate=True, prefill_chunk_size=3)
    plain, fast = plain_and_drafted(target, head, inputs, **settings)
    mine = fast[GENERATE_CACHE]
    assert isinstance(mine, DynamicCache)
    for layer, theirs in zip(mine.layers, plain[GENERATE_CACHE].layers, strict=True):
        torch.testing.assert_close(layer.keys, theirs.keys)


@pytest.mark.parametrize("size", [0, -3, 2.5, "4"])
def test_a_size_that_counts_no_tokens_is_refused(target, head, size):
    message = f"prefill_chunk_size={size!r}: it counts tokens; give an integer of at least 1"
    with pytest.raises(ValueError, match=message):
        target.generate(
            **left_padded(target, [5]), assistant_model=head, prefill_chunk_size=size, **GREEDY
        )
