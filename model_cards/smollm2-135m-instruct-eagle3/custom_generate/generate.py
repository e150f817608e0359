"""Try the EAGLE-3 draft head of this repository with transformers alone:

    target.generate(**inputs, custom_generate="user/name", trust_remote_code=True)

The head drafts a chain of tokens. The target reads them in one forward, and those that it would
have chosen itself are accepted. So the tokens are those of plain `generate`, sampled ones too
under the same seed. One prompt at a time; eagle_hf drafts trees, in batches too.

Method: EAGLE-3, arXiv 2503.01840. Slots and tokens are shifted against each other:

    slot p of the head holds    aux hidden states at token p, embedding of token p + 1
    and predicts                token p + 2

Shapes: L tokens of the text, M tokens of one pass, H hidden, V target vocabulary, A aux hidden
states (3).
"""

import copy
import functools
import importlib.util
import inspect
import json
import os
import sys

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LlamaConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)
from transformers.utils import cached_file, logging

logger = logging.get_logger(__name__)

# Inputs that are served, or that `generate` adds by itself.
KNOWN = {"attention_mask", "position_ids", "use_cache", "logits_to_keep", "cache_position"}
# What the cache is called from transformers 5.24 on, and before.
CACHES = ("cache", "past_key_values")


def generate(
    model: PreTrainedModel,
    head: str | os.PathLike | None = None,
    draft_tokens: int | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    **kwargs,
):
    """Return what `model.generate(**kwargs)` returns, sooner.

    Args:
        model: The target.
        head: Folder or hub id of the head. Default: what generate was given as custom_generate.
        draft_tokens: Length of the chain. Default: the depth of the tree saved with the head.
        revision, token, cache_dir: Of the head on the Hub.
        kwargs: Of generate.

    Returns:
        The tokens [1, L].

    Raises:
        ValueError: This cannot be served losslessly; `check` lists what cannot.
    """
    # transformers (5.17 to 5.24) hands over every argument of generate but the one that says where
    # this file came from.
    head = head or sys._getframe(1).f_locals.get("custom_generate")
    if not isinstance(head, (str, os.PathLike)):
        raise ValueError(
            f"the head is {head!r}; give its folder or hub id: generate(..., head=...)"
        )
    if kwargs.get("assistant_model") is not None:
        raise ValueError("custom_generate and assistant_model were given; choose one of the two")
    if importlib.util.find_spec("eagle_hf"):
        logger.warning_once(
            "eagle_hf is installed: Eagle3DraftHead.from_pretrained and "
            "generate(assistant_model=head) draft trees, in batches too"
        )
    hub = {"revision": revision, "token": token, "cache_dir": cache_dir}
    config_file = cached_file(head, "config.json", **hub)
    weights_file = cached_file(head, "model.safetensors", **hub)
    changed = os.stat(weights_file).st_mtime_ns
    drafter = open_head(config_file, weights_file, changed, model.device, model.dtype)
    decoding = functools.partial(
        decode,
        drafter=drafter,
        draft_tokens=draft_tokens or drafter.depth,
        streamer=kwargs.get("streamer"),
    )
    return model.generate(custom_generate=decoding, **with_stop_strings(model, kwargs))


def with_stop_strings(model: PreTrainedModel, kwargs: dict) -> dict:
    """The arguments of generate with a criterion in place of stop strings.

    transformers makes that criterion itself, but hands a function of custom_generate's kind no
    tokenizer to make it with.
    """
    tokenizer = kwargs.get("tokenizer")
    config = kwargs.get("generation_config")
    strings = kwargs.get("stop_strings") or getattr(config, "stop_strings", None)
    if model.generation_config.stop_strings is not None:
        raise ValueError(
            "the model's generation_config has stop_strings, which this custom_generate cannot "
            "take from there; set them to None there and pass stop_strings and tokenizer"
        )
    if strings is None or tokenizer is None:
        return kwargs  # without strings there is nothing to do, without a tokenizer generate raises
    kwargs = kwargs | {"stop_strings": None}
    if config is not None:
        kwargs["generation_config"] = copy.deepcopy(config)
        kwargs["generation_config"].stop_strings = None
    given = kwargs.get("stopping_criteria") or []
    criterion = StopStringCriteria(tokenizer, strings)
    kwargs["stopping_criteria"] = StoppingCriteriaList([criterion, *given])
    return kwargs


def decode(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    drafter: "Head",
    draft_tokens: int,
    streamer,
    **inputs,
) -> Tensor:
    """Draft, verify, commit, from what generate prepared: tokens [1, L]."""
    given_cache = take_cache(inputs)
    check(model, drafter, input_ids, generation_config, inputs, given_cache)
    embed = model.get_input_embeddings()
    choose = functools.partial(choose_token, logits_processor, generation_config.do_sample)
    ids = input_ids
    drafts = ids[:, :0]
    past = None  # the head's keys and values
    cache = DynamicCache()  # one that can be cut back, whatever the model's own would be
    with AuxHiddenStates(model, drafter.layer_ids(model)) as aux_hidden_states:
        # 1) prefill
        logits = prefill(model, input_ids, cache, inputs)
        while True:
            # 2) verify: the target's own tokens, as far as the drafts agree, and one more
            ids, accepted, finished = verify(ids, drafts, logits, choose, stopping_criteria)
            if streamer is not None:
                streamer.put(ids[0, -accepted - 1 :].cpu())
            if finished:
                break
            # 3) roll the rejected drafts back
            states = aux_hidden_states.read()
            rejected = drafts.shape[1] - accepted
            if rejected:
                cache.crop(-rejected)
                states = states[:, :-rejected]
            # 4) draft, but no more than may follow the token that the target will add
            room = generation_config.max_length - ids.shape[1] - 1
            tokens = ids[:, -states.shape[1] :]  # each one place behind its state
            drafts, past = drafter.draft(embed, tokens, states, past, min(draft_tokens, room))
            # 5) read the newest token and all drafts in one forward
            newest = torch.cat([ids[:, -1:], drafts], 1)
            named_cache = {cache_name(model.forward): cache}
            output = model(input_ids=newest, return_dict=True, use_cache=True, **named_cache)
            logits = output.logits
    if streamer is not None:
        streamer.end()
    return ids


def take_cache(inputs: dict):
    """Take the cache out of the inputs, under either of its names; None without one."""
    given = None
    for name in CACHES:
        cache = inputs.pop(name, None)
        if given is None:
            given = cache
    return given


def prefill(model: PreTrainedModel, input_ids: Tensor, cache: DynamicCache, inputs: dict) -> Tensor:
    """Read the prompt into the cache; the logits [1, 1, V] behind it."""
    named_cache = {cache_name(model.prepare_inputs_for_generation): cache}
    prepared = model.prepare_inputs_for_generation(
        input_ids, is_first_iteration=True, **named_cache, **inputs
    )
    return model(**prepared, return_dict=True).logits[:, -1:]


def cache_name(function) -> str:
    """What a function calls its cache.

    Where its signature does not tell, the answer is what transformers' own function calls it.
    """
    for candidate in (function, GenerationMixin.prepare_inputs_for_generation):
        parameters = inspect.signature(candidate).parameters
        for name in CACHES:
            if name in parameters:
                return name
    raise AssertionError(f"transformers calls its cache neither {' nor '.join(CACHES)}")


def choose_token(
    logits_processor: LogitsProcessorList, do_sample: bool, ids: Tensor, logits: Tensor
) -> Tensor:
    """The target's next token [1, 1] behind the text [1, L], as plain generate chooses it."""
    scores = logits.to(copy=True, dtype=torch.float32, device=ids.device)
    scores = logits_processor(ids, scores)  # [1, V]
    if do_sample:
        return torch.multinomial(scores.softmax(-1), 1)
    return scores.argmax(-1, keepdim=True)


def verify(
    ids: Tensor,
    drafts: Tensor,
    logits: Tensor,
    choose,
    stopping_criteria: StoppingCriteriaList,
) -> tuple[Tensor, int, bool]:
    """Choose the target's own tokens, until one of them is not the draft.

    There is one draw for every token that is committed, and none for the others, as in plain
    generate.

    Args:
        ids: The text so far [1, L].
        drafts: The chain behind it [1, K].
        logits: The target's [1, K + 1, V], behind the newest token and every draft.
        choose: choose(text, logits [1, V]) is the target's next token [1, 1].
        stopping_criteria: As generate prepared them.

    Returns:
        (text with the target's tokens [1, L + accepted + 1], how many drafts were accepted, whether
        the text ends there).
    """
    accepted = 0
    while True:
        token = choose(ids, logits[:, accepted])
        ids = torch.cat([ids, token], 1)
        finished = bool(stopping_criteria(ids, None))
        if finished or accepted == drafts.shape[1] or token != drafts[:, accepted]:
            return ids, accepted, finished
        accepted += 1


class Attention(nn.Module):
    """Causal attention that reads embeddings and features side by side, 2H wide."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.head_dim = config.head_dim
        inputs = 2 * config.hidden_size
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(inputs, queries, bias=bias)
        self.k_proj = nn.Linear(inputs, keys, bias=bias)
        self.v_proj = nn.Linear(inputs, keys, bias=bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=bias)

    def forward(
        self, states: Tensor, rotary: LlamaRotaryEmbedding, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(output [1, M, H], keys and values of the slots in `past` and of these) of [1, M, 2H]."""
        length = states.shape[1]
        start = 0 if past is None else past[0].shape[2]
        query = self.split(self.q_proj(states))  # [1, heads, M, head_dim]
        key = self.split(self.k_proj(states))
        value = self.split(self.v_proj(states))
        positions = torch.arange(start, start + length, device=states.device)[None]
        cos, sin = rotary(states, positions)
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        if past is not None:
            past_key, past_value = past
            key = torch.cat([past_key, key], 2)
            value = torch.cat([past_value, value], 2)
        mask = torch.ones(length, start + length, dtype=torch.bool, device=states.device)
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask.tril(start), enable_gqa=True
        )
        return self.o_proj(output.transpose(1, 2).flatten(2)), (key, value)

    def split(self, states: Tensor) -> Tensor:
        """[1, M, heads * head_dim] -> [1, heads, M, head_dim]."""
        return states.view(1, states.shape[1], -1, self.head_dim).transpose(1, 2)


class Layer(nn.Module):
    """The one layer of a head."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        width = config.hidden_size
        epsilon = config.rms_norm_eps
        self.input_layernorm = LlamaRMSNorm(width, epsilon)
        self.hidden_norm = LlamaRMSNorm(width, epsilon)
        self.post_attention_layernorm = LlamaRMSNorm(width, epsilon)
        self.self_attn = Attention(config)
        self.mlp = LlamaMLP(config)


class Head(nn.Module):
    """The draft head. Its modules are named as the tensors of model.safetensors."""

    d2t: Tensor  # [U], where the draft vocabulary is a part of the target's

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.fc = nn.Linear(config.num_aux_hidden_states * width, width, bias=False)
        if config.fc_norm:
            self.fc_norm = nn.ModuleList(
                LlamaRMSNorm(width, config.rms_norm_eps)
                for _ in range(config.num_aux_hidden_states)
            )
        self.midlayer = Layer(config)
        self.norm = LlamaRMSNorm(width, config.rms_norm_eps)
        self.lm_head = nn.Linear(width, config.draft_vocab_size, bias=False)
        self.has_map = config.draft_vocab_size < config.vocab_size
        if self.has_map:
            offsets = torch.zeros(config.draft_vocab_size, dtype=torch.long)
            self.register_buffer("d2t", offsets)  # target id = draft id + d2t[draft id]
        self.extras = getattr(config, "eagle_hf", None) or {}
        self.depth = self.extras.get("tree", {}).get("depth", 3)

    def move_to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move to the target's device, in its dtype."""
        self.to(device, dtype).eval()
        # After the cast: rounded frequencies misplace far tokens.
        self.rotary = LlamaRotaryEmbedding(self.config).to(device)

    def layer_ids(self, model: PreTrainedModel) -> list[int]:
        """The target's layers whose inputs the head reads; where it names none, the default."""
        layers = model.config.get_text_config().num_hidden_layers
        written = getattr(self.config, "eagle_aux_hidden_state_layer_ids", None)
        return self.extras.get("aux_layer_ids") or written or [2, layers // 2, layers - 3]

    def draft(
        self,
        embed: nn.Module,
        tokens: Tensor,
        states: Tensor,
        past: tuple[Tensor, Tensor] | None,
        count: int,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Draft a chain.

        Args:
            embed: The target's input embeddings.
            tokens: The newest tokens [1, M].
            states: The target's aux hidden states [1, M, A * H], one token earlier each.
            past: Keys and values of the slots before; None at first.
            count: Length of the chain; nothing is drafted below 1.

        Returns:
            (drafts [1, count] behind the newest token, keys and values of all slots that hold the
            target's states).
        """
        if count < 1:
            return tokens[:, :0], past
        features = self.fc(self.normalise(states.to(self.fc.weight)))  # [1, M, H]
        hidden, past = self.run(embed(tokens), features, past)
        drafts = [self.best(hidden[:, -1:])]
        drafted_past = past  # with the slots of drafts, which hold the head's own output
        while len(drafts) < count:
            hidden, drafted_past = self.run(embed(drafts[-1]), hidden[:, -1:], drafted_past)
            drafts.append(self.best(hidden))
        return torch.cat(drafts, 1).to(tokens.device), past

    def normalise(self, states: Tensor) -> Tensor:
        """Aux hidden states [1, M, A * H] as fc reads them: each with its norm, if it has one."""
        if not self.config.fc_norm:
            return states
        parts = states.chunk(len(self.fc_norm), dim=-1)
        normed = [norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)]
        return torch.cat(normed, dim=-1)

    def run(
        self, embeddings: Tensor, hidden: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One pass [1, M, H] behind the slots in `past`: (output [1, M, H], `past` with these)."""
        layer = self.midlayer
        normed = layer.hidden_norm(hidden)
        residual = normed if self.config.norm_before_residual else hidden
        embeddings = layer.input_layernorm(embeddings.to(hidden))
        states = torch.cat([embeddings, normed], dim=-1)  # [1, M, 2H]
        attended, past = layer.self_attn(states, self.rotary, past)
        hidden = residual + attended
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return (self.norm(hidden) if self.config.norm_output else hidden), past

    def best(self, hidden: Tensor) -> Tensor:
        """The likeliest next token [1, 1], a target id, after the output [1, 1, H]."""
        normed = hidden if self.config.norm_output else self.norm(hidden)
        best = self.lm_head(normed).argmax(-1)
        return best + self.d2t[best] if self.has_map else best


@functools.lru_cache(maxsize=1)
def open_head(
    config_file: str, weights_file: str, changed: int, device: torch.device, dtype: torch.dtype
) -> Head:
    """The head of these files; opened again only when the weights' time, `changed`, differs."""
    with open(config_file, encoding="utf-8") as file:
        settings = json.load(file)
    if settings.get("rope_parameters"):
        # The same in the older schema, of which newer releases warn.
        settings.pop("rope_scaling", None)
    config = LlamaConfig(**settings)
    if getattr(config, "norm_before_fc", False) or config.num_hidden_layers != 1:
        raise ValueError(
            f"{config_file} sets norm_before_fc or more than one layer, which this file does not "
            "run; use eagle_hf or an engine"
        )
    weights = load_file(weights_file)
    weights.pop("t2d", None)
    with torch.device("meta"):  # random first weights would use up the caller's random numbers
        head = Head(config)
    # Strict: with a tensor too few or too many it would draft garbage.
    head.load_state_dict(weights, assign=True)
    head.move_to(device, dtype)
    return head


class AuxHiddenStates:
    """Captures the inputs of some of the target's layers, inside of a `with` block."""

    def __init__(self, model: PreTrainedModel, layer_ids: list[int]):
        self.model = model
        self.layer_ids = layer_ids
        self.captured = {}  # layer -> its input in the last forward [1, M, H]
        self.handles = []

    def __enter__(self) -> "AuxHiddenStates":
        layers = self.model.get_decoder().layers
        for index in self.layer_ids:
            hook = functools.partial(self.capture, index)
            self.handles.append(layers[index].register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *error) -> None:
        for handle in self.handles:
            handle.remove()

    def capture(self, index: int, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        """The hook before a layer."""
        self.captured[index] = args[0] if args else kwargs["hidden_states"]

    def read(self) -> Tensor:
        """The aux hidden states of the last forward [1, M, A * H]."""
        states = [self.captured[index].to(self.model.device) for index in self.layer_ids]
        return torch.cat(states, dim=-1)


def check(
    model: PreTrainedModel,
    head: Head,
    input_ids: Tensor,
    config: GenerationConfig,
    inputs: dict,
    cache,
) -> None:
    """Raise a ValueError for what cannot be served losslessly."""
    needs = []
    if input_ids.shape[0] != 1:
        needs.append("one prompt at a time, with num_beams=1 and num_return_sequences=1")
    mask = inputs.get("attention_mask")
    if mask is not None and not mask.all():
        needs.append("a prompt without padding")
    positions = inputs.get("position_ids")
    plain = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
    if positions is not None and not (positions.shape == plain.shape and positions.equal(plain)):
        needs.append("position_ids left out")
    if cache is not None and cache.get_seq_length() > 0:
        needs.append("the cache left out")
    unknown = set(inputs) - KNOWN
    if unknown:
        needs.append(f"nothing but input_ids, not {', '.join(unknown)}")
    if config.return_dict_in_generate:
        needs.append("return_dict_in_generate=False")
    if config.guidance_scale not in (None, 1):
        needs.append("guidance_scale left out")
    needs += check_target(model, head)
    if needs:
        raise ValueError(f"this custom_generate needs {'; '.join(needs)}")


def check_target(model: PreTrainedModel, head: Head) -> list[str]:
    """What the target lacks."""
    needs = []
    text = model.config.get_text_config()
    # A state that is no cache of keys and values cannot be cut back.
    has_layers = hasattr(model.get_decoder(), "layers")
    if model.config.is_encoder_decoder or model._is_stateful or not has_layers:
        needs.append("a decoder whose layers can be read and whose cache can be cut")
    rope = getattr(text, "rope_parameters", None) or {}
    ropes = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    if any(part.get("rope_type") in ("dynamic", "longrope") for part in ropes):
        needs.append("RoPE whose frequencies do not change with the length")
    for adapter in getattr(model, "peft_config", {}).values():
        # It works on the newest tokens of a forward only, as PEFT counts them for one at a time.
        if getattr(adapter, "alora_invocation_tokens", None):
            needs.append("a target without an activated LoRA")
    checkpoints = any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
    if model.training and checkpoints:
        needs.append("eval mode, because gradient checkpointing in training drops the cache")
    layers = text.num_hidden_layers
    vocabulary = head.config.vocab_size
    width = head.config.hidden_size
    depth = head.extras.get("target_num_hidden_layers", layers)
    is_own = (vocabulary, width, depth) == (text.vocab_size, text.hidden_size, layers)
    if not is_own or max(head.layer_ids(model)) >= layers:
        needs.append(
            f"the head's own target (vocabulary {vocabulary}, width {width}, {depth} layers)"
        )
    return needs
