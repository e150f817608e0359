"""Calls that cannot be served are refused before anything is computed; other assistants are as before."""

import subprocess
import sys
import textwrap

import pytest
import torch
from tiny import left_padded, tiny_head, tiny_target
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache, StoppingCriteria

from eagle_hf import Eagle3Config, Eagle3DraftHead, SelfSpeculation, WindowedDraft
from eagle_hf.compat import GENERATE_CACHE

REFUSED = {
    "num_beams": dict(num_beams=2),
    "num_return_sequences": dict(num_return_sequences=2, do_sample=True),
    "use_cache": dict(use_cache=False),
    "cache_implementation": dict(cache_implementation="static"),
    "prompt_lookup_num_tokens": dict(prompt_lookup_num_tokens=3),
    "assistant_early_exit": dict(assistant_early_exit=2),
    "output_attentions": dict(output_attentions=True, return_dict_in_generate=True),
    "output_hidden_states": dict(output_hidden_states=True, return_dict_in_generate=True),
    "guidance_scale": dict(guidance_scale=1.5),
    "prefill_chunk_size": dict(prefill_chunk_size=4),
    "penalty_alpha": dict(penalty_alpha=0.6, top_k=4, trust_remote_code=True),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_call_that_cannot_be_lossless_is_refused_by_name(target, head, name, monkeypatch):
    monkeypatch.setattr(target.model, "forward", None)  # nothing may be computed
    with pytest.raises(ValueError, match=name):
        target.generate(
            **left_padded(target, [5]), assistant_model=head, max_new_tokens=5, **REFUSED[name]
        )


def test_another_tokenizer_is_told_where_to_go(target, monkeypatch):
    monkeypatch.setattr(target.model, "forward", None)
    settings = dict(
        left_padded(target, [5]), max_new_tokens=5, tokenizer=object(), assistant_tokenizer=object()
    )
    with pytest.raises(ValueError, match="assistant_tokenizer.*universal assisted generation"):
        target.generate(assistant_model=WindowedDraft(tiny_target(layers=2, seed=3)), **settings)


def test_a_tree_larger_than_the_context_is_refused(target, monkeypatch):
    monkeypatch.setattr(target.model, "forward", None)
    with pytest.raises(
        ValueError, match="the tree has 512 nodes and the target's context is 512 tokens"
    ):
        target.generate(
            **left_padded(target, [5]),
            assistant_model=SelfSpeculation(2, 9, gamma=512),
            max_new_tokens=5,
        )


def test_a_users_empty_cache_is_refused(target, head):
    with pytest.raises(ValueError, match="leave it out"):
        target.generate(
            **left_padded(target, [5]),
            assistant_model=head,
            **{GENERATE_CACHE: DynamicCache()},
            max_new_tokens=5,
        )


def test_a_users_cache_is_refused(target, head):
    inputs, cache = left_padded(target, [5]), DynamicCache()
    target(input_ids=inputs["input_ids"][:, :3], **{GENERATE_CACHE: cache})
    with pytest.raises(ValueError, match="already holds 3 tokens"):
        target.generate(**inputs, assistant_model=head, **{GENERATE_CACHE: cache}, max_new_tokens=5)
    static = StaticCache(config=target.config, max_cache_len=20)
    with pytest.raises(ValueError, match="StaticCache"):
        target.generate(
            **inputs, assistant_model=head, **{GENERATE_CACHE: static}, max_new_tokens=5
        )


def test_embeddings_as_prompt_are_refused(target, head):
    embeddings = target.get_input_embeddings()(left_padded(target, [5])["input_ids"])
    with pytest.raises(ValueError, match="pass input_ids"):
        target.generate(inputs_embeds=embeddings, assistant_model=head, max_new_tokens=5)


def test_a_streamer_or_prefix_function_with_a_batch_is_refused(target, head):
    inputs = left_padded(target, [5, 5])
    with pytest.raises(ValueError, match="streamer"):
        target.generate(
            **inputs,
            assistant_model=head,
            max_new_tokens=5,
            streamer=type("S", (), {"put": lambda *a: None, "end": lambda *a: None})(),
        )
    for bound in (
        dict(prefix_allowed_tokens_fn=lambda row, ids: [3, 4]),
        dict(encoder_no_repeat_ngram_size=2),
    ):
        with pytest.raises(ValueError, match=next(iter(bound))):
            target.generate(**inputs, assistant_model=head, max_new_tokens=5, **bound)


def test_rows_that_could_end_apart_without_an_end_token_are_refused(target, head):
    class Sometimes(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return input_ids[:, -1] == 7

    with pytest.raises(ValueError, match="Sometimes may end 2 rows"):
        target.generate(
            **left_padded(target, [5, 5]),
            assistant_model=head,
            max_new_tokens=5,
            eos_token_id=None,
            stopping_criteria=[Sometimes()],
        )


def test_rope_that_follows_the_longest_position_is_refused_beyond_its_limit():
    target = tiny_target(
        max_position_embeddings=32,
        rope_parameters={"rope_type": "dynamic", "factor": 8.0, "rope_theta": 10000.0},
    )
    head, inputs = tiny_head(target), left_padded(target, [20])
    target.generate(**inputs, assistant_model=head, max_new_tokens=12)
    with pytest.raises(ValueError, match="'dynamic' and max_length is 33, beyond its 32"):
        target.generate(**inputs, assistant_model=head, max_new_tokens=13)


def test_a_batch_padded_on_the_right_is_refused(target, head):
    inputs = left_padded(target, [9, 7])
    flipped = {name: part.flip(1) for name, part in inputs.items()}
    with pytest.raises(ValueError, match=r"zeros in rows \[1\]: the batch is padded on the right"):
        target.generate(**flipped, assistant_model=head, max_new_tokens=4)


def test_a_mask_with_holes_is_refused_for_sliding_windows():
    from transformers import MistralConfig

    config = MistralConfig(
        vocab_size=31,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
    )
    target = AutoModelForCausalLM.from_config(config)
    inputs = left_padded(target, [9])
    inputs["attention_mask"][0, 3:5] = 0
    with pytest.raises(ValueError, match="zeros after ones"):
        target.generate(**inputs, assistant_model=tiny_head(target), max_new_tokens=5)


def test_a_prompt_learning_adapter_is_refused(head):
    from peft import PromptTuningConfig, get_peft_model

    target = get_peft_model(
        tiny_target(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    with pytest.raises(ValueError, match="prompt-learning"):
        target.generate(**left_padded(target, [5]), assistant_model=head, max_new_tokens=5)


@pytest.mark.parametrize(
    "field, value, what",
    [
        ("vocab_size", 40, "vocabulary 31"),
        ("hidden_size", 64, "hidden size 32"),
        ("num_hidden_layers", 9, "layer count 7"),
    ],
)
def test_a_head_of_another_target_is_refused(target, head, field, value, what):
    other = tiny_target(**{"layers" if field == "num_hidden_layers" else field: value})
    with pytest.raises(ValueError, match=what):
        other.generate(**left_padded(other, [5]), assistant_model=head, max_new_tokens=5)


def test_a_head_on_another_device_is_refused(target):
    with pytest.raises(ValueError, match=r"on cpu and the head on meta"):
        target.generate(
            **left_padded(target, [5]),
            assistant_model=tiny_head(target).to("meta"),
            max_new_tokens=5,
        )


def test_an_attention_without_tree_masks_is_refused(head):
    target = tiny_target()
    target.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="takes no tree mask"):
        target.generate(**left_padded(target, [5]), assistant_model=head, max_new_tokens=5)


def test_a_recurrent_hybrid_is_refused():
    from transformers import Qwen3NextConfig

    config = Qwen3NextConfig(
        vocab_size=31,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    )
    target = AutoModelForCausalLM.from_config(config)
    head = Eagle3DraftHead(Eagle3Config.from_target(target))
    with pytest.raises(ValueError, match="rolled back"):
        target.generate(**left_padded(target, [5]), assistant_model=head, max_new_tokens=5)


def test_wrapped_heads_are_recognised(target, head):
    from peft import LoraConfig, get_peft_model

    inputs = left_padded(target, [5])
    wrapped = get_peft_model(tiny_head(target), LoraConfig(target_modules=["fc", "q_proj"]))
    out = target.generate(**inputs, assistant_model=wrapped, max_new_tokens=20, eos_token_id=None)
    assert torch.equal(out, target.generate(**inputs, max_new_tokens=20, eos_token_id=None))
    assert wrapped.last_run.rounds > 0


def test_a_target_with_an_adapter_is_served(head):
    from peft import LoraConfig, get_peft_model

    target = get_peft_model(
        tiny_target(), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    ).eval()
    inputs = left_padded(target, [5])
    plain, fast = (
        target.generate(**inputs, assistant_model=a, max_new_tokens=40, eos_token_id=None)
        for a in (None, head)
    )
    assert torch.equal(plain, fast)


def test_registering_twice_changes_nothing():
    from transformers import GenerationMixin

    from eagle_hf.decoding.dispatch import register

    before = GenerationMixin._assisted_decoding, GenerationMixin._validate_generation_mode
    register(lambda target, assistant, call: None)
    assert before == (GenerationMixin._assisted_decoding, GenerationMixin._validate_generation_mode)


OTHERS = """
    import sys, torch
    torch.set_num_threads(1)
    if sys.argv[1] == "with":
        import eagle_hf
    from transformers import LlamaConfig, LlamaForCausalLM
    def model(layers, seed):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(vocab_size=31, hidden_size=32, intermediate_size=64, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, eos_token_id=2, pad_token_id=0, initializer_range=0.25)).eval()
    target, assistant = model(4, 0), model(2, 1)
    ids = torch.arange(3, 19)[None]
    for kwargs in (dict(assistant_model=assistant), dict(prompt_lookup_num_tokens=4), dict(assistant_early_exit=2),
                   dict(assistant_model=assistant, do_sample=True), dict()):
        torch.manual_seed(0)
        print(target.generate(ids, max_new_tokens=40, **kwargs).tolist())
    for kwargs in (dict(assistant_model=assistant, num_return_sequences=2, do_sample=True), dict(assistant_model=model(2, 2), use_cache=False)):
        try:
            target.generate(ids, max_new_tokens=5, **kwargs)
        except (ValueError, RuntimeError) as error:  # use_cache=False: the second, from transformers 5.24 on
            print(error)
"""


def test_other_assistants_behave_as_without_the_import():
    runs = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(OTHERS), mode],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for mode in ("with", "without")
    ]
    assert runs[0] == runs[1] and runs[0].count("\n") == 7
