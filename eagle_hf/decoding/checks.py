"""What a call of generate must be like, checked before the target reads its prompt.

Every function here raises a ValueError that says what arrived, what was needed and what to do. None
changes anything, but that a library may unpack its quantised layers. What a class of models can do
is tried once, on a tiny one: see probing.
"""

from transformers import StaticCache
from transformers.utils import logging

from eagle_hf.compat import GENERATE_CACHE, AssistedCall, is_user_defined, padding_token, take_cache
from eagle_hf.decoding.assistants import Assistant, require_assistant
from eagle_hf.decoding.callbacks import pads_ended_rows
from eagle_hf.decoding.compiling import keeps_sizes
from eagle_hf.decoding.draft_length import asked_chain, name_unused
from eagle_hf.decoding.modes import check_mode
from eagle_hf.decoding.support import check_trees
from eagle_hf.head.trees import TreeConfig
from eagle_hf.target import (
    changing_ropes,
    check_adapters,
    check_adapters_outside_generate,
    context_length,
    execution_device,
    layer_kinds,
    unwrap,
)
from eagle_hf.target.quantised import finish_loading, mixing_layer

logger = logging.get_logger(__name__)

LEAVE_UNSET = "leave it unset"


def check_call(target, assistant: Assistant, generation_config, mode_kwargs: dict) -> None:
    """Refuse settings that our assistants cannot serve losslessly."""
    check_adapters(target)  # first: X-LoRA asks for settings that would be refused for themselves
    refused = _refused_settings(generation_config)
    refused += _refused_arguments(mode_kwargs, assistant.foreign_tokenizer_remedy)
    for is_set, what, remedy in refused:
        if is_set:
            raise ValueError(f"{assistant.call} does not support {what}: {remedy}")
    check_target(target, assistant, asked_chain(assistant, generation_config))
    name_unused(generation_config)


def _refused_settings(config) -> list[tuple]:
    """(whether it is set, what, the remedy) of a generation config's settings."""
    beams = config.num_beams
    returned = config.num_return_sequences
    cache = config.cache_implementation
    chunk = config.prefill_chunk_size
    is_chunk = chunk is None or (isinstance(chunk, int) and chunk >= 1)
    is_constrained = getattr(config, "constraints", None) or getattr(
        config, "force_words_ids", None
    )
    returns_states = config.return_dict_in_generate  # otherwise generate ignores the wish for them
    guided = "its processor runs the target a second time; leave it unset"
    return [
        (beams > 1, f"num_beams={beams}", "use num_beams=1"),
        (returned > 1, f"num_return_sequences={returned}", "repeat the prompt in the batch"),
        (
            config.use_cache is False,
            "use_cache=False",
            "speculation needs the cache; pass use_cache=True",
        ),
        (cache not in (None, "dynamic"), f"cache_implementation={cache!r}", LEAVE_UNSET),
        (
            config.prompt_lookup_num_tokens,
            "prompt_lookup_num_tokens",
            "choose either prompt look-up or the head",
        ),
        (
            config.assistant_early_exit,
            "assistant_early_exit",
            "choose either early exit or the head",
        ),
        (getattr(config, "penalty_alpha", None), "penalty_alpha (contrastive search)", LEAVE_UNSET),
        (getattr(config, "dola_layers", None), "dola_layers", LEAVE_UNSET),
        (is_constrained, "constrained search", LEAVE_UNSET),
        (config.guidance_scale not in (None, 1, 1.0), "guidance_scale", guided),
        (
            not is_chunk,
            f"prefill_chunk_size={chunk!r}",
            "it counts tokens; give an integer of at least 1, or leave it unset",
        ),
        (config.token_healing, "token_healing", "heal the prompt before calling generate"),
        (
            returns_states and config.output_attentions,
            "output_attentions",
            "trees have no per-token attentions; pass output_attentions=False",
        ),
        (
            returns_states and config.output_hidden_states,
            "output_hidden_states",
            "trees have no per-token states; pass output_hidden_states=False",
        ),
    ]


def _refused_arguments(mode_kwargs: dict, foreign_tokenizer_remedy: str) -> list[tuple]:
    """(whether it is set, what, the remedy) of generate's own arguments."""
    shared = f"it shares the target's vocabulary; leave it out{foreign_tokenizer_remedy}"
    return [
        (mode_kwargs.get("synced_gpus"), "synced_gpus", "generate with the unsharded target"),
        (mode_kwargs.get("assistant_tokenizer"), "assistant_tokenizer", shared),
    ]


def check_target(target, assistant, tree: TreeConfig | None = None) -> None:
    """Refuse a target that cannot verify trees, or not this assistant's.

    Args:
        target: the model that verifies.
        assistant: a draft head, a WindowedDraft or a SelfSpeculation.
        tree: in place of the assistant's own.
    """
    assistant = require_assistant(assistant)
    model = unwrap(target)
    check_trees(model)
    finish_loading(model)
    check_mode(model, "target")
    _check_virtual_tokens(model)
    if target is not model:  # outside of generate, which takes wrappers off
        check_adapters_outside_generate(target)
    assistant.check(target)
    _warn_of_mixing(model)
    if tree is None:
        if assistant.chooses_by_machine:
            return
        tree = assistant.tree
    context = context_length(model)
    if context and tree.nodes >= context:
        raise ValueError(
            f"the tree has {tree.nodes} nodes and the target's context is {context} tokens; "
            "take a smaller tree: assistant.tree = TreeConfig(...)"
        )
    if tree.needs_plan:
        check_plan(target, assistant, tree)


def _check_virtual_tokens(model) -> None:
    """Refuse an adapter that puts virtual tokens before the text."""
    prepare = model.prepare_inputs_for_generation
    owner = getattr(prepare, "__self__", model)  # PEFT puts its own method there
    adapter = getattr(owner, "active_peft_config", None)
    if adapter is not None and getattr(adapter, "is_prompt_learning", False):
        raise ValueError(
            f"the target carries a prompt-learning adapter ({adapter.peft_type}), whose virtual "
            "tokens have no place in a tree; use an adapter that changes weights (LoRA), or "
            "generate without the head"
        )


def _warn_of_mixing(model) -> None:
    """Say where the target itself answers otherwise as soon as it reads several tokens at once."""
    layer = mixing_layer(model)
    if layer is not None:
        logger.warning_once(
            f"the target's quantised layers ({layer}) compute a token otherwise where others are "
            "read beside it: with a draft, as with a batch, it may answer otherwise than alone. "
            "For equal answers load it with weights alone quantised; of bitsandbytes' int8 with "
            "BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)"
        )


def check_plan(target, assistant: Assistant, tree: TreeConfig) -> None:
    """Refuse a tree whose policy needs a plan, without one that holds here."""
    plan = assistant.find_plan()
    if plan is None:
        raise ValueError(
            f"the tree policy {tree.policy!r} needs a plan and there is none; make one "
            "(eagle-hf plan --target T with --head H, --draft MODEL or --self-speculation) and "
            "load the head from its folder, or set assistant.plan = eagle_hf.Plan.load(folder); "
            "or take another policy"
        )
    plan.costs.check(assistant.fingerprint(target))


def check_inputs(target, call: AssistedCall) -> None:
    """Refuse prepared inputs that the loop cannot take; the target has not run yet."""
    inputs = call.model_inputs
    config = unwrap(target).config.get_text_config()
    _check_cache(inputs)
    input_ids = call.input_ids
    if inputs.get("inputs_embeds") is not None or input_ids.shape[1] == 0:
        raise ValueError(
            "the prompt came as inputs_embeds; the head reads token ids: pass input_ids"
        )
    # An image-text model reads them in the prompt alone, where they tell its images from text.
    reads_images = config is not unwrap(target).config
    if inputs.get("token_type_ids") is not None and not reads_images:
        raise ValueError("token_type_ids were given, but drafted tokens have none; leave them out")
    if input_ids.device != execution_device(target):
        raise ValueError(
            f"input_ids are on {input_ids.device} and the target on {execution_device(target)}; "
            "move the inputs"
        )
    positions = inputs.get("position_ids")
    if positions is not None and positions.dim() not in (2, 3):
        raise ValueError(
            f"position_ids have {positions.dim()} dimensions; pass [batch, length], or "
            "[axes, batch, length] for a target with several axes"
        )
    check_rope(target, call.generation_config.max_length)
    check_mask(config, inputs.get("attention_mask"))
    if len(input_ids) > 1:
        check_batch(call)


def _check_cache(inputs: dict) -> None:
    """Refuse a cache of the caller's."""
    cache, _ = take_cache(inputs)
    if cache is None:
        return
    if isinstance(cache, StaticCache):
        raise ValueError(
            f"{GENERATE_CACHE} is a StaticCache, which cannot drop rejected drafts; leave "
            f"{GENERATE_CACHE} out"
        )
    if cache.get_seq_length() > 0 or is_user_defined(cache):
        raise ValueError(
            f"{GENERATE_CACHE} was given and already holds {cache.get_seq_length()} tokens; the "
            "head must see the states of every token and the loop keeps its own cache: leave it "
            "out and pass the whole prompt as input_ids"
        )


def check_fixed_size(target, tree: TreeConfig, new_tokens: int) -> None:
    """Refuse what tensors of fixed sizes cannot hold, where compile=True needs them.

    That is a tree whose shape follows from costs, and more new tokens than the target's context:
    caches are allocated whole, before the first token. Padding before a prompt takes no context.
    """
    device = execution_device(target)
    if not tree.compile or not keeps_sizes(device):
        return
    if tree.needs_plan:
        raise ValueError(
            f"compile=True on {device} needs a tree of one shape, and {tree.policy!r} chooses it "
            'by cost; use "dynamic", "chain" or parents and ranks'
        )
    context = context_length(target)
    if context and new_tokens > context:
        raise ValueError(
            f"the tree says compile=True, whose caches are allocated for all {new_tokens} new "
            f"tokens at once, more than the target's context of {context}; set max_new_tokens to "
            "what is needed, or compile=False"
        )


def check_rope(target, max_length: int) -> None:
    """Refuse RoPE whose frequencies depend on the longest position of a forward.

    A tree's deeper nodes would change them for the others.
    """
    for rope in changing_ropes(target):
        if max_length > rope.limit:
            raise ValueError(
                f"the target's RoPE is {rope.kind!r} and max_length is {max_length}, beyond its "
                f"{rope.limit} original positions, where its frequencies change with the text's "
                f"length; keep prompt and answer within {rope.limit} tokens or generate without "
                "the head"
            )


def check_mask(config, attention_mask) -> None:
    """Refuse padding on the right, and for sliding windows a mask with holes.

    transformers measures a window by slot, trees by position.
    """
    if attention_mask is None:
        return
    is_padded_right = attention_mask[:, -1] == 0
    if is_padded_right.any():
        rows = is_padded_right.nonzero()[:, 0].tolist()
        raise ValueError(
            f"attention_mask ends with zeros in rows {rows}: the batch is padded on the right; "
            'pad on the left: padding_side="left"'
        )
    if "sliding_attention" not in layer_kinds(config):
        return
    if (attention_mask.diff(dim=1) < 0).any():
        raise ValueError(
            "attention_mask has zeros after ones and the target has sliding windows; pad on the "
            "left only"
        )


def check_batch(call: AssistedCall) -> None:
    """Refuse what only works for one row."""
    rows = len(call.input_ids)
    if call.streamer is not None:
        raise ValueError(
            f"a streamer was given with {rows} rows, which advance at different speeds; stream "
            "one row at a time"
        )
    pads = pads_ended_rows(call.stopping_criteria)
    if pads and padding_token(call.generation_config) is None:
        raise ValueError(
            f"a stopping criterion has an eos_token_id, so {rows} rows are padded as they end, and "
            "there is no padding token; set pad_token_id or pass one row"
        )
