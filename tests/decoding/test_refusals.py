"""Calls that cannot be served are refused before anything is computed."""

import pytest
from peft import PromptTuningConfig, get_peft_model
from tiny import left_padded, tiny_head, tiny_target
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    MistralConfig,
    Qwen3NextConfig,
    StaticCache,
    StoppingCriteria,
)
from transformers.generation.streamers import BaseStreamer

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
    "prefill_chunk_size": dict(prefill_chunk_size=0),
    "penalty_alpha": dict(penalty_alpha=0.6, top_k=4, trust_remote_code=True),
}


def forbid_forwards(target, monkeypatch):
    monkeypatch.setattr(target.model, "forward", None)


@pytest.mark.parametrize("name", REFUSED)
def test_a_call_that_cannot_be_lossless_is_refused_by_name(target, head, name, monkeypatch):
    forbid_forwards(target, monkeypatch)
    settings = dict(REFUSED[name], max_new_tokens=5)
    with pytest.raises(ValueError, match=name):
        target.generate(**left_padded(target, [5]), assistant_model=head, **settings)


def test_another_tokenizer_is_told_where_to_go(target, monkeypatch):
    forbid_forwards(target, monkeypatch)
    settings = dict(max_new_tokens=5, tokenizer=object(), assistant_tokenizer=object())
    assistant = WindowedDraft(tiny_target(layers=2, seed=3))
    with pytest.raises(ValueError, match="assistant_tokenizer.*universal assisted generation"):
        target.generate(**left_padded(target, [5]), assistant_model=assistant, **settings)


def test_a_tree_larger_than_the_context_is_refused(target, monkeypatch):
    forbid_forwards(target, monkeypatch)
    assistant = SelfSpeculation(2, 9, gamma=512)
    message = "the tree has 512 nodes and the target's context is 512 tokens"
    with pytest.raises(ValueError, match=message):
        target.generate(**left_padded(target, [5]), assistant_model=assistant, max_new_tokens=5)


def test_a_users_empty_cache_is_refused(target, head):
    inputs = left_padded(target, [5]) | {GENERATE_CACHE: DynamicCache()}
    with pytest.raises(ValueError, match="leave it out"):
        target.generate(**inputs, assistant_model=head, max_new_tokens=5)


def test_a_users_cache_is_refused(target, head):
    inputs = left_padded(target, [5])
    settings = dict(assistant_model=head, max_new_tokens=5)
    cache = DynamicCache()
    target(input_ids=inputs["input_ids"][:, :3], **{GENERATE_CACHE: cache})
    with pytest.raises(ValueError, match="already holds 3 tokens"):
        target.generate(**inputs, **{GENERATE_CACHE: cache}, **settings)
    static = StaticCache(config=target.config, max_cache_len=20)
    with pytest.raises(ValueError, match="StaticCache"):
        target.generate(**inputs, **{GENERATE_CACHE: static}, **settings)


def test_embeddings_as_prompt_are_refused(target, head):
    embeddings = target.get_input_embeddings()(left_padded(target, [5])["input_ids"])
    with pytest.raises(ValueError, match="pass input_ids"):
        target.generate(inputs_embeds=embeddings, assistant_model=head, max_new_tokens=5)


class SilentStreamer(BaseStreamer):
    def put(self, value):
        pass

    def end(self):
        pass


def test_a_streamer_with_a_batch_is_refused(target, head):
    settings = dict(assistant_model=head, max_new_tokens=5, streamer=SilentStreamer())
    with pytest.raises(ValueError, match="streamer was given with 2 rows"):
        target.generate(**left_padded(target, [5, 5]), **settings)


class EndsByToken(StoppingCriteria):
    """Has the attribute by which generate knows that rows are padded."""

    eos_token_id = 7

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -1] == self.eos_token_id


def test_rows_that_would_be_padded_with_nothing_are_refused(target, head):
    inputs = left_padded(target, [5, 5])
    settings = dict(eos_token_id=None, pad_token_id=None, stopping_criteria=[EndsByToken()])
    with pytest.raises(ValueError, match="there is no padding token; set pad_token_id"):
        target.generate(**inputs, assistant_model=head, max_new_tokens=5, **settings)


def test_rope_that_follows_the_longest_position_is_refused_beyond_its_limit():
    rope = {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 10000.0}
    target = tiny_target(max_position_embeddings=32, rope_parameters=rope)
    head = tiny_head(target)
    inputs = left_padded(target, [20])
    target.generate(**inputs, assistant_model=head, max_new_tokens=12)
    with pytest.raises(ValueError, match="'dynamic' and max_length is 33, beyond its 32"):
        target.generate(**inputs, assistant_model=head, max_new_tokens=13)


def test_a_batch_padded_on_the_right_is_refused(target, head):
    inputs = left_padded(target, [9, 7])
    flipped = {name: part.flip(1) for name, part in inputs.items()}
    with pytest.raises(ValueError, match=r"zeros in rows \[1\]: the batch is padded on the right"):
        target.generate(**flipped, assistant_model=head, max_new_tokens=4)


SIZES = dict(
    vocab_size=31,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
)


def test_a_mask_with_holes_is_refused_for_sliding_windows():
    target = AutoModelForCausalLM.from_config(MistralConfig(**SIZES, sliding_window=8))
    inputs = left_padded(target, [9])
    inputs["attention_mask"][0, 3:5] = 0
    with pytest.raises(ValueError, match="zeros after ones"):
        target.generate(**inputs, assistant_model=tiny_head(target), max_new_tokens=5)


def test_a_prompt_learning_adapter_is_refused(head):
    adapter = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    target = get_peft_model(tiny_target(), adapter)
    with pytest.raises(ValueError, match="prompt-learning"):
        target.generate(**left_padded(target, [5]), assistant_model=head, max_new_tokens=5)


@pytest.mark.parametrize(
    "other, message",
    [
        (dict(vocab_size=40), "vocabulary 31"),
        (dict(hidden_size=64), "hidden size 32"),
        (dict(layers=9), "layer count 7"),
    ],
)
def test_a_head_of_another_target_is_refused(head, other, message):
    target = tiny_target(**other)
    with pytest.raises(ValueError, match=message):
        target.generate(**left_padded(target, [5]), assistant_model=head, max_new_tokens=5)


def test_a_head_on_another_device_is_refused(target):
    head = tiny_head(target).to("meta")
    with pytest.raises(ValueError, match=r"on cpu and the head on meta"):
        target.generate(**left_padded(target, [5]), assistant_model=head, max_new_tokens=5)


def test_an_attention_without_tree_masks_is_refused(head):
    target = tiny_target()
    target.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="takes no tree mask"):
        target.generate(**left_padded(target, [5]), assistant_model=head, max_new_tokens=5)


def test_a_recurrent_hybrid_is_refused():
    config = Qwen3NextConfig(
        **SIZES,
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
