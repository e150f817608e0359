"""Try the EAGLE-3 draft head of this repository with transformers alone:

    target.generate(**inputs, custom_generate="user/name", trust_remote_code=True, max_new_tokens=128)

The head drafts a chain of tokens, the target reads them in one forward and keeps those that it would have chosen itself: the tokens
are those of plain `generate`, sampled ones too under the same seed. One prompt at a time; eagle_hf drafts trees, in batches too.
Method: EAGLE-3, arXiv 2503.01840. M tokens, H hidden. Slot p of the head holds the target's states at token p and the embedding of
token p + 1, and predicts token p + 2.
"""

import functools
import importlib.util
import inspect
import json
import os
import sys
from contextlib import contextmanager

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import DynamicCache, GenerationMixin, LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)
from transformers.utils import cached_file, logging

logger = logging.get_logger(__name__)
KNOWN = {"attention_mask", "position_ids", "use_cache", "logits_to_keep", "cache_position"}
CACHES = (
    "cache",
    "past_key_values",
)  # what the cache is called from transformers 5.24 on, and before


def generate(
    model, head=None, draft_tokens=None, revision=None, token=None, cache_dir=None, **kwargs
):
    """What `model.generate(**kwargs)` returns, sooner. A ValueError for what this cannot do; `check` lists it.

    head: folder or hub id of the head; default: what generate was given as custom_generate.
    draft_tokens: length of the chain; default: the depth of the tree saved with the head.
    """
    # transformers (5.17 to 5.24) hands over every argument of generate but the one that says where this file came from
    head = head or sys._getframe(1).f_locals.get("custom_generate")
    if not isinstance(head, (str, os.PathLike)):
        raise ValueError(
            f"the head is {head!r}; give its folder or hub id: generate(..., head=...)"
        )
    if kwargs.get("assistant_model") is not None:
        raise ValueError("custom_generate and assistant_model were given; choose one of the two")
    if importlib.util.find_spec("eagle_hf"):
        logger.warning_once(
            "eagle_hf is installed: Eagle3DraftHead.from_pretrained and generate(assistant_model=head) draft trees, in batches too"
        )
    place = {"revision": revision, "token": token, "cache_dir": cache_dir}
    files = [cached_file(head, name, **place) for name in ("config.json", "model.safetensors")]
    drafter = open_head(*files, os.stat(files[1]).st_mtime_ns, model.device, model.dtype)
    decoding = functools.partial(
        decode,
        drafter=drafter,
        draft_tokens=draft_tokens or drafter.depth,
        streamer=kwargs.get("streamer"),
    )
    return model.generate(custom_generate=decoding, **kwargs)


def decode(
    model,
    input_ids,
    logits_processor,
    stopping_criteria,
    generation_config,
    drafter,
    draft_tokens,
    streamer,
    **inputs,
):
    """Draft, verify, commit, from what generate prepared: tokens [1, L]."""
    given = next((inputs[name] for name in CACHES if inputs.get(name) is not None), None)
    inputs = {name: value for name, value in inputs.items() if name not in CACHES}
    check(model, drafter, input_ids, generation_config, inputs, given)
    ids, drafts, past = input_ids, input_ids[:, :0], None
    cache = DynamicCache()  # one that can be cut back, whatever the model's own would be
    named = {cache_name(model.prepare_inputs_for_generation): cache}
    with reading(model, drafter.layer_ids(model)) as states:
        prepared = model.prepare_inputs_for_generation(
            input_ids, is_first_iteration=True, **named, **inputs
        )
        logits = model(**prepared, return_dict=True).logits[:, -1:]
        while True:
            ids, accepted, finished = verify(
                ids,
                drafts,
                logits,
                logits_processor,
                stopping_criteria,
                generation_config.do_sample,
            )
            if streamer is not None:
                streamer.put(ids[0, -accepted - 1 :].cpu())
            room = generation_config.max_length - ids.shape[1] - 1
            if finished:
                break
            rejected, seen = drafts.shape[1] - accepted, states()
            if rejected:
                cache.crop(-rejected)
                seen = seen[:, :-rejected]
            drafts = ids[:, :0]
            if room > 0:
                drafts, past = drafter.draft(
                    model.get_input_embeddings(),
                    ids[:, -seen.shape[1] :],
                    seen,
                    past,
                    min(draft_tokens, room),
                )
            named = {cache_name(model.forward): cache, "use_cache": True}
            logits = model(
                input_ids=torch.cat([ids[:, -1:], drafts], 1), return_dict=True, **named
            ).logits
    if streamer is not None:
        streamer.end()
    return ids


def cache_name(function):
    """What a function calls its cache; where its signature does not tell, what transformers' own calls it."""
    for signature in map(
        inspect.signature, (function, GenerationMixin.prepare_inputs_for_generation)
    ):
        for name in CACHES:
            if name in signature.parameters:
                return name


def verify(ids, drafts, logits, logits_processor, stopping_criteria, do_sample):
    """(ids with the target's own tokens [1, L], how many drafts were among them, whether the text ends there).

    logits [1, M, V] behind the newest token and every draft. One draw for every token that is kept, none for the others, as in plain
    generate.
    """
    for node in range(logits.shape[1]):
        scores = logits_processor(
            ids, logits[:, node].to(copy=True, dtype=torch.float32, device=ids.device)
        )
        token = (
            torch.multinomial(scores.softmax(-1), 1)
            if do_sample
            else scores.argmax(-1, keepdim=True)
        )
        ids = torch.cat([ids, token], 1)
        finished = bool(stopping_criteria(ids, None))
        if finished or node == drafts.shape[1] or token != drafts[:, node]:
            return ids, node, finished


class Head(nn.Module):
    """The draft head. Its modules are named as the tensors of model.safetensors."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config, width, attention = (
            config,
            config.hidden_size,
            config.num_attention_heads * config.head_dim,
        )
        norm = functools.partial(LlamaRMSNorm, width, config.rms_norm_eps)
        linear = functools.partial(nn.Linear, bias=config.attention_bias)
        shared = config.num_key_value_heads * config.head_dim
        self.fc = nn.Linear(config.num_aux_hidden_states * width, width, bias=False)
        if config.fc_norm:
            self.fc_norm = nn.ModuleList(norm() for _ in range(config.num_aux_hidden_states))
        self.midlayer = nn.ModuleDict(
            {
                name: norm()
                for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm")
            }
        )
        projections = {
            "q_proj": (2 * width, attention),
            "k_proj": (2 * width, shared),
            "v_proj": (2 * width, shared),
            "o_proj": (attention, width),
        }
        self.midlayer["self_attn"] = nn.ModuleDict(
            {name: linear(*shape) for name, shape in projections.items()}
        )
        self.midlayer["mlp"] = LlamaMLP(config)
        self.norm = norm()
        self.lm_head = nn.Linear(width, config.draft_vocab_size, bias=False)
        if config.draft_vocab_size < config.vocab_size:
            self.register_buffer("d2t", torch.zeros(config.draft_vocab_size, dtype=torch.long))
        self.extras = getattr(config, "eagle_hf", None) or {}
        self.depth = self.extras.get("tree", {}).get("depth", 3)

    def layer_ids(self, model):
        """The target's layers whose inputs the head reads: its own, or where it names none the engines' default."""
        layers = model.config.get_text_config().num_hidden_layers
        ids = self.extras.get("aux_layer_ids") or getattr(
            self.config, "eagle_aux_hidden_state_layer_ids", None
        )
        return ids or [2, layers // 2, layers - 3]

    def draft(self, embed, tokens, states, past, count):
        """(`count` drafts [1, count] behind the newest of `tokens` [1, M], the keys and values of all real slots).

        states [1, M, 3H]: the target's, of the tokens one place earlier.
        """
        states = states.to(self.fc.weight)
        if self.config.fc_norm:
            parts = states.chunk(len(self.fc_norm), dim=-1)
            states = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts)], dim=-1)
        hidden, past = self.run(embed(tokens), self.fc(states), past)
        drafts, longer = [self.best(hidden[:, -1:])], past
        while len(drafts) < count:
            hidden, longer = self.run(embed(drafts[-1]), hidden[:, -1:], longer)
            drafts.append(self.best(hidden))
        return torch.cat(drafts, 1).to(tokens.device), past

    def run(self, embeddings, hidden, past):
        """One pass [1, M, H] behind the slots in `past`: (output [1, M, H], `past` with these slots)."""
        layer, attention, length = self.midlayer, self.midlayer["self_attn"], hidden.shape[1]
        start = 0 if past is None else past[0].shape[2]
        normed = layer["hidden_norm"](hidden)
        residual = normed if self.config.norm_before_residual else hidden
        states = torch.cat([layer["input_layernorm"](embeddings.to(hidden)), normed], dim=-1)
        split = (1, length, -1, self.config.head_dim)
        query, key, value = (
            attention[name](states).view(split).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        positions = torch.arange(start, start + length, device=hidden.device)[None]
        query, key = apply_rotary_pos_emb(query, key, *self.rotary(hidden, positions))
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        mask = torch.ones(length, start + length, dtype=torch.bool, device=hidden.device).tril(
            start
        )
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=True
        )
        hidden = residual + attention["o_proj"](output.transpose(1, 2).flatten(2))
        hidden = hidden + layer["mlp"](layer["post_attention_layernorm"](hidden))
        return self.norm(hidden) if self.config.norm_output else hidden, (key, value)

    def best(self, hidden):
        """The likeliest next token [1, 1], a target id, after output [1, 1, H]."""
        best = self.lm_head(hidden if self.config.norm_output else self.norm(hidden)).argmax(-1)
        return best + self.d2t[best] if hasattr(self, "d2t") else best


@functools.lru_cache(maxsize=1)
def open_head(config_file, weights_file, changed, device, dtype):
    """The head of these files; opened again only when `changed`, the time of the weights, is another."""
    with open(config_file, encoding="utf-8") as file:
        settings = json.load(file)
    if settings.get("rope_parameters"):
        settings.pop(
            "rope_scaling", None
        )  # the same in the older schema, of which newer releases warn
    config = LlamaConfig(**settings)
    if getattr(config, "norm_before_fc", False) or config.num_hidden_layers != 1:
        raise ValueError(
            f"{config_file} sets norm_before_fc or more than one layer, which this file does not run; use eagle_hf or an engine"
        )
    weights = load_file(weights_file)
    weights.pop("t2d", None)
    with torch.device("meta"):  # random first weights would use up the caller's random numbers
        head = Head(config)
    head.load_state_dict(
        weights, assign=True
    )  # strict: with a tensor too few or too many it would draft garbage
    head = head.to(device, dtype).eval()
    head.rotary = LlamaRotaryEmbedding(config).to(
        device
    )  # after the cast: rounded frequencies misplace far tokens
    return head


@contextmanager
def reading(model, layer_ids):
    """Within it, what it yields returns the three streams [1, M, 3H] of the target's last forward."""
    seen, layers = {}, model.get_decoder().layers

    def reader(index):
        def read(module, args, kwargs):
            seen[index] = args[0] if args else kwargs["hidden_states"]

        return read

    handles = [
        layers[index].register_forward_pre_hook(reader(index), with_kwargs=True)
        for index in layer_ids
    ]
    try:
        yield lambda: torch.cat([seen[index].to(model.device) for index in layer_ids], dim=-1)
    finally:
        for handle in handles:
            handle.remove()


def check(model, head, input_ids, config, inputs, cache):
    """Raise a ValueError for what cannot be served losslessly."""
    text = model.config.get_text_config()
    rope, layers = getattr(text, "rope_parameters", None) or {}, text.num_hidden_layers
    positions, mask = inputs.get("position_ids"), inputs.get("attention_mask")
    plain = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
    own = (
        head.config.vocab_size,
        head.config.hidden_size,
        head.extras.get("target_num_hidden_layers", layers),
    )
    refused = {
        "one prompt at a time, with num_beams=1 and num_return_sequences=1": input_ids.shape[0]
        != 1,
        "a prompt without padding": mask is not None and not mask.all(),
        "position_ids left out": positions is not None
        and not (positions.shape == plain.shape and positions.equal(plain)),
        "the cache left out": cache is not None and cache.get_seq_length() > 0,
        f"nothing but input_ids, not {', '.join(set(inputs) - KNOWN)}": set(inputs) - KNOWN,
        "return_dict_in_generate=False": config.return_dict_in_generate,
        "guidance_scale left out": config.guidance_scale not in (None, 1),
        "a decoder whose layers can be read and whose cache can be cut": (
            model.config.is_encoder_decoder
            or model._is_stateful
            or not hasattr(model.get_decoder(), "layers")
        ),
        "RoPE whose frequencies do not change with the length": rope.get("rope_type")
        in ("dynamic", "longrope"),
        "the head's own target (vocabulary {}, width {}, {} layers)".format(*own): (
            own != (text.vocab_size, text.hidden_size, layers)
            or max(head.layer_ids(model)) >= layers
        ),
    }
    needs = [need for need, is_refused in refused.items() if is_refused]
    if needs:
        raise ValueError(f"this custom_generate needs {'; '.join(needs)}")
