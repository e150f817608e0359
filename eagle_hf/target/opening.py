"""The frozen target: open it, read the three streams EAGLE-3 needs, its embeddings and its LM head.

B batch, S sequence, H hidden, V vocabulary. Stream i is what enters layer i, HF's `hidden_states[i]`. It is read by
forward pre-hooks, because `output_hidden_states=[...]` counts differently from one transformers release to the next.
"""

import textwrap
import threading
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from eagle_hf.head.configuration import Eagle3Config, default_aux_layer_ids
from eagle_hf.target.dtypes import default_device, resolve_dtype
from eagle_hf.target.gguf import resolve

LOGITS_AT_ONCE = 2**23  # 34 MB in float32: a fast matrix product, and little beside any target


def load_target(name_or_path, adapter=None, *, dtype="auto", device=None, work="draft", **kwargs):
    """Open a causal LM and its tokenizer.

    Args:
        name_or_path: a hub id, a folder, a `.gguf` file, or "smollm2", the embedded SmolLM2-135M-Instruct.
        adapter: hub id or folder of a PEFT adapter laid over it.
        dtype: "auto" is what the device does this work fastest in (see dtypes.py), and what is stored where the weights
            are quantised; "stored" is what the checkpoint holds; or a dtype or its name, which is obeyed.
        device: where to put it; default: where `device_map` puts it, else the CPU.
        work: "draft", "batch", "prefill" or "train", what `dtype="auto"` is chosen for.
        kwargs: of `AutoModelForCausalLM.from_pretrained` (attn_implementation, revision, device_map, ...).

    Returns:
        (target, tokenizer); the target is frozen and in eval mode.

    Raises:
        ValueError: where it cannot be opened, or the device cannot compute in this dtype.
    """
    path = resolve(name_or_path)
    revision = {
        key: kwargs[key] for key in ("revision", "trust_remote_code", "token") if key in kwargs
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **revision)
        dtype = _loaded_dtype(path, revision, dtype, device, work, "device_map" in kwargs)
        target = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **kwargs)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"the target {name_or_path} cannot be opened ({error}); a file is missing, truncated or damaged, or the name is "
            "wrong: check it, or download it again"
        ) from error
    if adapter is not None:
        target = lay_adapter(target, adapter)
    if device is not None:
        target = target.to(device)
    return target.requires_grad_(False).eval(), tokenizer


def _loaded_dtype(
    path, revision: dict, dtype, device, work: str, is_mapped: bool
) -> torch.dtype | str:
    """What from_pretrained is given as dtype, where its "auto" is what the checkpoint holds."""
    if dtype == "stored":
        return "auto"
    if dtype == "auto" and getattr(
        AutoConfig.from_pretrained(path, **revision), "quantization_config", None
    ):
        return "auto"
    if device is None:
        device = default_device() if is_mapped else "cpu"
    return resolve_dtype(dtype, device, work)


def lay_adapter(model, adapter):
    """`model` inside a PeftModel with this adapter (hub id or folder); ValueError where the adapter does not fit.

    PEFT itself only warns of adapter weights that are not there, and the model would go on as if it had no adapter.
    """
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Found missing adapter keys")
        try:
            return PeftModel.from_pretrained(model, adapter)
        except Exception as error:  # of a dozen kinds, whatever does not fit first
            reason = textwrap.shorten(str(error), 300)
            raise ValueError(
                f"the adapter {adapter} cannot be laid over this {type(model).__name__} ({reason}); "
                "give the folder or hub id of a PEFT adapter that was trained on this very model"
            ) from error


def unwrap(model) -> PreTrainedModel:
    """The transformers model inside PEFT, DDP and torch.compile wrappers; adapter layers stay in place."""
    while True:
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        elif isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def position_limit(model) -> int:
    """How many positions a model knows: without end where it turns its keys by RoPE, else as many as its table holds."""
    if hasattr(unwrap(model).get_decoder(), "rotary_emb"):
        return 2**31
    return getattr(unwrap(model).config.get_text_config(), "max_position_embeddings", None) or 2**31


def decoder_layers(target) -> nn.ModuleList:
    """The target's decoder layers, in order."""
    decoder = unwrap(target).get_decoder()
    names = ("layers", "h", "blocks")  # Llama and most others; GPT-2 and Falcon; MPT
    layers = next((getattr(decoder, name) for name in names if hasattr(decoder, name)), None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(
            f"{type(unwrap(target)).__name__} has no list of layers in its decoder ({type(decoder).__name__}), so its "
            "hidden states cannot be read; use a decoder-only causal LM of the Llama kind"
        )
    return layers


class AuxStates:
    """The streams entering `layer_ids`, collected from the target's next forward pass."""

    def __init__(self, layer_ids: list[int]):
        self.layer_ids = list(layer_ids)
        self._seen: dict[int, torch.Tensor] = {}

    def take(self) -> torch.Tensor:
        """[B, S, 3H] of the last forward, in the order of layer_ids; forgets them. None where there are no layer ids."""
        if not self.layer_ids:
            return None
        first = self._seen[self.layer_ids[0]]
        states = torch.cat([self._seen[i].to(first.device) for i in self.layer_ids], dim=-1)
        self._seen.clear()
        return states


@contextmanager
def capture_aux(target, layer_ids: list[int]):
    """`with capture_aux(target, ids) as aux: target(...); states = aux.take()`."""
    layers, aux, caller = decoder_layers(target), AuxStates(layer_ids), threading.get_ident()
    if not layer_ids or min(layer_ids) < 0 or max(layer_ids) >= len(layers):
        raise ValueError(
            f"aux layer ids are {layer_ids} but the target has layers 0..{len(layers) - 1}"
        )

    def reader(index):
        def read(module, args, kwargs):
            if threading.get_ident() == caller:  # another thread may run the same target
                aux._seen[index] = args[0] if args else kwargs["hidden_states"]

        return read

    handles = [
        layers[i].register_forward_pre_hook(reader(i), with_kwargs=True) for i in set(layer_ids)
    ]
    try:
        yield aux
    finally:
        for handle in handles:
            handle.remove()


def aux_layer_ids(target, head_config: Eagle3Config) -> list[int]:
    """The layer ids a head reads from this target: its own, or the default where a foreign head does not say."""
    return head_config.aux_layer_ids or default_aux_layer_ids(len(decoder_layers(target)))


def target_states(target, input_ids: torch.Tensor, layer_ids: list[int]):
    """(aux [B, S, 3H], final-normed state [B, S, H]) of a right-padded batch [B, S]; the LM head is not run.

    Padding on the right needs no mask: causality hides it, and without one the fast attention kernels apply.
    """
    decoder = unwrap(target).get_decoder()
    with torch.no_grad(), capture_aux(target, layer_ids) as aux:
        output = decoder(input_ids=input_ids, use_cache=False)
        return aux.take(), output.last_hidden_state


def target_logits(target, hidden_states: torch.Tensor) -> torch.Tensor:
    """Logits [..., V] of final-normed states [..., H], as the target scales them."""
    lm_head = unwrap(target).get_output_embeddings()
    return _scaled(
        target, lm_head(hidden_states.to(lm_head.weight.device, lm_head.weight.dtype))
    ).to(hidden_states.device)


def draft_rows(target, token_ids: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """`ask(states [..., H]) -> logits [..., U]` of these ids alone; the LM head's rows are gathered once, here."""
    lm_head = unwrap(target).get_output_embeddings()
    if len(token_ids) == unwrap(target).config.get_text_config().vocab_size:
        return partial(target_logits, target)
    if type(lm_head) is not nn.Linear:
        return lambda states: target_logits(target, states)[..., token_ids]
    weight, bias = (
        lm_head.weight[token_ids],
        None if lm_head.bias is None else lm_head.bias[token_ids],
    )
    return lambda states: _scaled(
        target, nn.functional.linear(states.to(weight.device, weight.dtype), weight, bias)
    ).to(states.device)


def _scaled(target, logits: torch.Tensor) -> torch.Tensor:
    """What the model's own forward does to the LM head's output."""
    config = unwrap(target).config.get_text_config()
    if getattr(config, "logit_scale", None):  # Cohere
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None):  # Granite
        logits = logits / config.logits_scaling
    if getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits = (
            torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping
        )
    return logits


@torch.no_grad()
def next_token_summary(
    target, hidden_states: torch.Tensor, normaliser: bool = True
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(argmax, float32 log-normaliser) [N] of the target's whole next-token distribution after states [N, H].

    Some rows at a time: never more than `LOGITS_AT_ONCE` logits are held. normaliser=False leaves the second out.
    """
    rows = max(1, LOGITS_AT_ONCE // unwrap(target).config.get_text_config().vocab_size)
    best = torch.empty(len(hidden_states), dtype=torch.long, device=hidden_states.device)
    sums = (
        torch.empty(len(hidden_states), dtype=torch.float32, device=hidden_states.device)
        if normaliser
        else None
    )
    for start in range(0, len(hidden_states), rows):
        logits = target_logits(target, hidden_states[start : start + rows])
        best[start : start + rows] = logits.max(-1).indices  # argmax: 6x slower in bf16 on a CPU
        if normaliser:
            sums[start : start + rows] = logits.float().logsumexp(-1)
    return best, sums


def check_compatible(target, head_config: Eagle3Config) -> None:
    """Raise a ValueError naming the first reason why this head cannot draft for this target."""
    config = unwrap(target).config.get_text_config()
    remedy = "use the head trained for this target, or train one: Eagle3Config.from_target(target)"
    facts = {
        "vocabulary": (head_config.vocab_size, config.vocab_size),
        "hidden size": (head_config.target_hidden_size, config.hidden_size),
        "layer count": (
            head_config.eagle_hf.get("target_num_hidden_layers"),
            config.num_hidden_layers,
        ),
    }
    for what, (expected, found) in facts.items():
        if expected is not None and expected != found:
            raise ValueError(
                f"the head was made for a target with {what} {expected}, this target's is {found}; {remedy}"
            )
    if getattr(getattr(target, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(
            f"the target carries a prompt-learning adapter ({target.active_peft_config.peft_type.value}), whose virtual tokens a "
            "draft head never sees; use an adapter that changes weights (LoRA)"
        )
    if unwrap(target).get_output_embeddings() is None:
        raise ValueError(
            f"{type(unwrap(target)).__name__} has no LM head; load it with AutoModelForCausalLM"
        )
