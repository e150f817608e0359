"""A target that would read trees otherwise than text is refused before its first forward."""

import pytest
import torch
from drafting import plain_and_drafted
from tiny import left_padded, tiny_target
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    DeepseekV3Config,
    ElectraConfig,
    FalconConfig,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GptOssConfig,
    LlamaForCausalLM,
    MistralConfig,
    MixtralConfig,
    ModernBertDecoderConfig,
    Olmo3Config,
    OpenAIGPTConfig,
    Phi3Config,
    Qwen3Config,
    Qwen3MoeConfig,
    RemBertConfig,
    XLMConfig,
)

from eagle_hf import Eagle3Config, Eagle3DraftHead, SelfSpeculation, WindowedDraft
from eagle_hf.decoding.assistants.windows import check_drafting
from eagle_hf.decoding.support import check_trees

TOKENS = dict(vocab_size=31, bos_token_id=1, eos_token_id=2, pad_token_id=0)
SIZES = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=7,
    num_attention_heads=4,
)
GROUPED = SIZES | dict(num_key_value_heads=2, head_dim=8)
EXPERTS = dict(num_experts_per_tok=2, moe_intermediate_size=16)
LATENT = dict(kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8)
N_SIZES = dict(n_embd=32, n_layer=2, n_head=4, n_positions=128)


def model_of(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).double().eval()


def gpt_neo(*kinds, window_size=4):
    return GPTNeoConfig(
        **TOKENS,
        hidden_size=32,
        num_layers=len(kinds),
        num_heads=4,
        attention_types=[[list(kinds), 1]],
        window_size=window_size,
        max_position_embeddings=128,
    )


def count_forwards(model):
    """The calls of a model and of its embeddings from now on, as a list that grows."""
    calls = []

    def note(module, args):
        calls.append(module)

    model.register_forward_pre_hook(note)
    model.get_input_embeddings().register_forward_pre_hook(note)
    return calls


UNREADABLE = {
    "gpt_neo": (gpt_neo("global", "local"), "off by"),
    "falcon": (
        FalconConfig(**TOKENS, **SIZES, alibi=True, new_decoder_architecture=False),
        "raised ValueError",
    ),
    "openai_gpt": (OpenAIGPTConfig(**TOKENS, **N_SIZES), "raised RuntimeError"),
    "xlm": (
        XLMConfig(n_words=31, emb_dim=32, n_layers=2, n_heads=4, causal=True, pad_index=0),
        "raised AssertionError",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_target_that_reads_trees_otherwise_is_refused_before_its_first_forward(name):
    config, reason = UNREADABLE[name]
    target = model_of(config)
    calls = count_forwards(target)
    message = f"{type(target).__name__} does not read draft trees as it reads text: .*{reason}"
    assistants = [SelfSpeculation(2, 9), WindowedDraft(tiny_target(layers=2))]
    for assistant in assistants:
        with pytest.raises(ValueError, match=message):
            target.generate(torch.tensor([[5, 7]]), assistant_model=assistant, max_new_tokens=8)
    assert not calls


BERT_LIKE = {
    "modernbert": ModernBertDecoderConfig(**TOKENS, **SIZES, local_attention=8),
    "rembert": RemBertConfig(
        **TOKENS,
        **SIZES,
        input_embedding_size=16,
        output_embedding_size=24,
        is_decoder=True,
    ),
    "electra": ElectraConfig(**TOKENS, **SIZES, embedding_size=16, is_decoder=True),
}


@pytest.mark.parametrize("name", BERT_LIKE)
def test_a_model_that_cannot_draft_is_refused_before_the_first_forward(name, target):
    draft = model_of(BERT_LIKE[name])
    calls = count_forwards(draft)
    inputs = left_padded(target, [5])
    for verifier, assistant in ((draft, SelfSpeculation(2, 9)), (target, WindowedDraft(draft))):
        with pytest.raises(
            ValueError, match="does not draft as it generates: .*(raised|was off by)"
        ):
            verifier.generate(**inputs, assistant_model=assistant, max_new_tokens=8)
    assert not calls


@pytest.mark.parametrize("name", BERT_LIKE)
def test_models_that_cannot_draft_verify_losslessly(name):
    target = model_of(BERT_LIKE[name])
    assistant = WindowedDraft(tiny_target(layers=2, max_position_embeddings=2**31), window=None)
    inputs = left_padded(target, [9, 5])
    plain, fast = plain_and_drafted(target, assistant, inputs, max_new_tokens=30, do_sample=False)
    assert torch.equal(plain, fast)


def test_gpt_neo_without_local_layers_is_served_losslessly():
    target = model_of(gpt_neo("global", "global"))
    assistant = WindowedDraft(target, window=None)
    inputs = left_padded(target, [9, 5])
    plain, fast = plain_and_drafted(target, assistant, inputs, max_new_tokens=40, do_sample=False)
    assert torch.equal(plain, fast)
    assert assistant.last_run.tau > 3


KINDS = ["sliding_attention", "full_attention"] * 3 + ["full_attention"]
SERVED = {
    "mistral": MistralConfig(**TOKENS, **GROUPED, sliding_window=16),
    "gemma3": Gemma3TextConfig(**TOKENS, **GROUPED, sliding_window=4096, layer_types=KINDS),
    "qwen3": Qwen3Config(**TOKENS, **GROUPED),
    "gpt2": GPT2Config(**TOKENS, **N_SIZES),
    "gpt2_short": GPT2Config(**TOKENS, **N_SIZES | dict(n_positions=16)),
    "phi3": Phi3Config(**TOKENS, **SIZES, num_key_value_heads=2),
    "cohere2": Cohere2Config(**TOKENS, **GROUPED, sliding_window=16, layer_types=KINDS),
    "gpt_oss": GptOssConfig(**TOKENS, **GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "olmo3": Olmo3Config(**TOKENS, **SIZES, sliding_window=16, layer_types=KINDS),
    "mixtral": MixtralConfig(**TOKENS, **GROUPED, num_local_experts=4),
    "qwen3_moe": Qwen3MoeConfig(**TOKENS, **GROUPED, **EXPERTS, num_experts=4),
    "deepseek_v3": DeepseekV3Config(
        **TOKENS,
        **SIZES,
        **LATENT,
        **EXPERTS,
        n_routed_experts=8,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=3,
    ),
    "falcon": FalconConfig(**TOKENS, **SIZES),
}


@pytest.mark.parametrize("name", SERVED)
def test_targets_that_read_trees_as_text_are_accepted(name):
    target = model_of(SERVED[name])
    check_trees(target)
    check_drafting(target, window=None)


class Counted(LlamaForCausalLM):
    made = 0

    def __init__(self, config):
        super().__init__(config)
        type(self).made += 1


def counted_target():
    return Counted(tiny_target().config).double().eval()


def test_a_second_call_tries_nothing_again(head):
    target = counted_target()
    settings = dict(assistant_model=head, max_new_tokens=4)
    target.generate(**left_padded(target, [5]), **settings)
    made = Counted.made
    assert made > 1
    counted_target().generate(**left_padded(target, [5]), **settings)
    assert Counted.made == made + 1


class Deaf(LlamaForCausalLM):
    """Reads the nodes of a tree as if they followed each other."""

    def forward(self, input_ids, position_ids=None, attention_mask=None, **kwargs):
        if attention_mask is not None and attention_mask.dim() == 4:
            attention_mask = None
        kwargs |= dict(position_ids=position_ids, attention_mask=attention_mask)
        return super().forward(input_ids, **kwargs)


class Rigid(LlamaForCausalLM):
    """Has one size only."""

    def __init__(self, config):
        if config.hidden_size != 32:
            raise NotImplementedError("the hidden size is 32")
        super().__init__(config)


class RigidAndDeaf(Rigid, Deaf):
    pass


def of_class(model_class, dtype=torch.float64):
    torch.manual_seed(0)
    config = tiny_target().config
    config.name_for_this_test = str(dtype)  # every dtype is tried
    return model_class(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_target_without_a_miniature_is_tried_itself(dtype):
    target = of_class(Rigid, dtype)
    check_trees(target)
    target = of_class(RigidAndDeaf, dtype)
    with pytest.raises(ValueError, match="RigidAndDeaf does not read .*: the model was off by"):
        check_trees(target)


def test_a_target_that_ignores_the_mask_is_refused():
    with pytest.raises(ValueError, match="a tiny random model of its config was off by"):
        check_trees(of_class(Deaf))


class RigidOnce(Rigid):
    """A class that no other test has tried."""


def test_a_target_that_has_to_be_tried_itself_must_not_train():
    target = of_class(RigidOnce)
    with pytest.raises(ValueError, match="in training mode; call eval"):
        check_trees(target.train())
    check_trees(target.eval())


class Unseen(LlamaForCausalLM):
    """A class that no other test has tried."""


def test_a_trial_changes_nothing_of_the_callers():
    target = of_class(Unseen).train()
    hooks = [len(part._forward_pre_hooks) for part in target.modules()]
    weights = {name: weight.clone() for name, weight in target.state_dict().items()}
    facts = target.config.to_dict()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_trees(target)
    check_drafting(target, window=None)
    assert torch.equal(torch.rand(4), expected)
    assert torch.is_grad_enabled()
    assert target.training
    assert hooks == [len(part._forward_pre_hooks) for part in target.modules()]
    assert facts == target.config.to_dict()
    for name, weight in target.state_dict().items():
        assert torch.equal(weight, weights[name])


def test_a_head_is_refused_where_several_states_a_token_enter_the_layers():
    config = Gemma3nTextConfig(
        **TOKENS | GROUPED | dict(num_hidden_layers=4, intermediate_size=[64] * 4),
        vocab_size_per_layer_input=31,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        num_kv_shared_layers=0,
        layer_types=["full_attention"] * 4,
        activation_sparsity_pattern=[0.0] * 4,
    )
    target = model_of(config)
    head = Eagle3DraftHead(Eagle3Config.from_target(target, num_attention_heads=4)).double()
    calls = count_forwards(target)
    with pytest.raises(ValueError, match=r"no hidden states .*\[4, 2, 20, 64\] enters layer 0"):
        target.generate(torch.tensor([[5, 7]]), assistant_model=head, max_new_tokens=8)
    assert not calls
