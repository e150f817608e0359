"""How `generate(assistant_model=head)` reaches the loop; the only place that touches transformers' classes.

Two methods of `GenerationMixin` are wrapped once: the validation that runs before anything is computed, and assisted
decoding itself. Assistants that are not ours go to the originals untouched.
"""

import functools
import inspect
from pathlib import Path

from transformers import GenerationMixin, MaxLengthCriteria, StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from eagle_hf.compat import GENERATE_CACHE, is_user_defined, take_cache
from eagle_hf.decoding import automatic
from eagle_hf.decoding.loop import speculate
from eagle_hf.decoding.masks import check_trees, layer_kinds
from eagle_hf.decoding.reading import around
from eagle_hf.decoding.timing import identity
from eagle_hf.decoding.windowed import SelfSpeculation, WindowedDraft
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.planning.plan import PLAN, Plan
from eagle_hf.target import aux_layer_ids, capture_aux, check_compatible, unwrap

OURS = (Eagle3DraftHead, WindowedDraft, SelfSpeculation)
ROW_BOUND = {  # processors that number the rows of a batch or remember them by place
    "PrefixConstrainedLogitsProcessor": "prefix_allowed_tokens_fn",
    "SynthIDTextWatermarkLogitsProcessor": "watermarking_config (SynthID)",
    "EncoderNoRepeatNGramLogitsProcessor": "encoder_no_repeat_ngram_size",
    "EncoderRepetitionPenaltyLogitsProcessor": "encoder_repetition_penalty",
}


def register() -> None:
    """Teach `generate` about draft heads; calling it again changes nothing."""
    if hasattr(GenerationMixin._assisted_decoding, "_eagle_hf"):
        return
    validate, decode = GenerationMixin._validate_generation_mode, GenerationMixin._assisted_decoding

    @functools.wraps(validate)
    def _validate_generation_mode(self, generation_mode, generation_config, generation_mode_kwargs):
        assistant = _ours(generation_mode_kwargs.get("assistant_model"))
        if assistant is not None:
            check_call(self, assistant, generation_config, generation_mode_kwargs)
            generation_mode_kwargs = {
                name: value
                for name, value in generation_mode_kwargs.items()
                if name != "assistant_model"
            }
        return validate(self, generation_mode, generation_config, generation_mode_kwargs)

    @functools.wraps(decode)
    def _assisted_decoding(self, input_ids, *args, **kwargs):
        assistant = _ours(kwargs.get("assistant_model"))
        if assistant is None:
            return decode(self, input_ids, *args, **kwargs)
        call = inspect.signature(decode).bind(self, input_ids, *args, **kwargs).arguments
        inputs = call.get("model_kwargs") or call.get("kwargs") or {}
        check_inputs(self, call, inputs)
        arguments = {
            name: call[name]
            for name in ("input_ids", "logits_processor", "stopping_criteria", "generation_config")
        }
        arguments["streamer"] = call.get("streamer")
        if getattr(assistant, "tree_by_machine", False):
            return automatic.decode(self, assistant, arguments, inputs)
        _, inputs = take_cache(inputs)
        return speculate(self, assistant, **arguments, **inputs)

    ALL_ATTENTION_FUNCTIONS.register("sdpa", around(ALL_ATTENTION_FUNCTIONS["sdpa"]))
    _assisted_decoding._eagle_hf = True
    GenerationMixin._validate_generation_mode = _validate_generation_mode
    GenerationMixin._assisted_decoding = _assisted_decoding


def _ours(assistant):
    """The assistant without its wrappers if it is one of ours, else None."""
    assistant = None if assistant is None else unwrap(assistant)
    return assistant if isinstance(assistant, OURS) else None


def check_call(target, assistant, generation_config, mode_kwargs) -> None:
    """Raise a ValueError for a call that our assistants cannot serve losslessly."""
    config = generation_config
    other_tokenizer = ""
    if isinstance(assistant, WindowedDraft):
        other_tokenizer = ", or, for a draft model with another tokenizer, pass the model itself: transformers' universal assisted generation"
    refused = [
        (config.num_beams > 1, f"num_beams={config.num_beams}", "use num_beams=1"),
        (
            config.num_return_sequences > 1,
            f"num_return_sequences={config.num_return_sequences}",
            "repeat the prompt in the batch",
        ),
        (
            config.use_cache is False,
            "use_cache=False",
            "speculation needs the cache; leave use_cache at True",
        ),
        (
            config.cache_implementation not in (None, "dynamic"),
            f"cache_implementation={config.cache_implementation!r}",
            "leave it unset",
        ),
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
        (
            getattr(config, "penalty_alpha", None),
            "penalty_alpha (contrastive search)",
            "leave it unset",
        ),
        (getattr(config, "dola_layers", None), "dola_layers", "leave it unset"),
        (
            getattr(config, "constraints", None) or getattr(config, "force_words_ids", None),
            "constrained search",
            "leave it unset",
        ),
        (
            config.guidance_scale not in (None, 1, 1.0),
            "guidance_scale",
            "its processor runs the target a second time; leave it unset",
        ),
        (
            config.prefill_chunk_size,
            f"prefill_chunk_size={config.prefill_chunk_size}",
            "the prompt is read in one pass; leave it unset",
        ),
        (config.token_healing, "token_healing", "heal the prompt before calling generate"),
        (
            config.output_attentions,
            "output_attentions",
            "trees have no per-token attentions; leave it False",
        ),
        (
            config.output_hidden_states,
            "output_hidden_states",
            "trees have no per-token states; leave it False",
        ),
        (mode_kwargs.get("synced_gpus"), "synced_gpus", "generate with the unsharded target"),
        (
            mode_kwargs.get("assistant_tokenizer"),
            "assistant_tokenizer",
            f"it shares the target's vocabulary; leave it out{other_tokenizer}",
        ),
    ]
    for is_set, what, remedy in refused:
        if is_set:
            raise ValueError(
                f"generate(assistant_model=<{type(assistant).__name__}>) does not support {what}: {remedy}"
            )
    check_target(target, assistant)


def check_target(target, assistant) -> None:
    """Raise a ValueError for a target that cannot verify trees, or not this assistant's."""
    model = unwrap(target)
    check_trees(model)
    owner = getattr(
        model.prepare_inputs_for_generation, "__self__", model
    )  # PEFT puts its own method there
    if getattr(getattr(owner, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(
            f"the target carries a prompt-learning adapter ({owner.active_peft_config.peft_type}), whose virtual tokens have "
            "no place in a tree; use an adapter that changes weights (LoRA), or generate without the head"
        )
    if isinstance(assistant, Eagle3DraftHead):
        check_head(target, assistant)
    else:
        assistant.check(target)
    if getattr(assistant, "tree_by_machine", False):
        return
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context and assistant.tree.nodes >= context:
        raise ValueError(
            f"the tree has {assistant.tree.nodes} nodes and the target's context is {context} tokens; take a smaller tree: assistant.tree = TreeConfig(...)"
        )
    if assistant.tree.needs_plan:
        check_plan(target, assistant)


def check_plan(target, assistant) -> None:
    """Find the plan that the assistant's policy needs, in its own folder where it was not set; a ValueError where it does not hold."""
    folder = Path(getattr(assistant, "name_or_path", "") or "")
    if assistant.plan is None and folder.name and (folder / PLAN).is_file():
        assistant.plan = Plan.load(folder)
    if assistant.plan is None:
        raise ValueError(
            f"the tree policy {assistant.tree.policy!r} needs a plan and there is none; make one (eagle-hf plan --target T with --head H, "
            "--draft MODEL or --self-speculation) and load the head from its folder, or set assistant.plan = eagle_hf.Plan.load(folder); or take another policy"
        )
    assistant.plan.costs.check(identity(target, assistant))


def check_head(target, head) -> None:
    """Raise a ValueError for a head that cannot draft for this target."""
    check_compatible(target, head.config)
    with capture_aux(target, aux_layer_ids(target, head.config)):
        pass  # raises where the target's layers cannot be read
    if unwrap(target).device != head.device:
        raise ValueError(
            f"the target is on {unwrap(target).device} and the head on {head.device}; move one: head.to(target.device)"
        )


def check_inputs(target, call: dict, inputs: dict) -> None:
    """Raise a ValueError for prepared inputs that the loop cannot take; the target has not run yet."""
    cache, _ = take_cache(inputs)
    input_ids = call["input_ids"]
    if isinstance(cache, StaticCache):
        raise ValueError(
            f"{GENERATE_CACHE} is a StaticCache, which cannot drop rejected drafts; leave {GENERATE_CACHE} out"
        )
    if cache is not None and (cache.get_seq_length() > 0 or is_user_defined(cache)):
        raise ValueError(
            f"{GENERATE_CACHE} was given and already holds {cache.get_seq_length()} tokens; the head must see the states of "
            "every token and the loop keeps its own cache: leave it out and pass the whole prompt as input_ids"
        )
    if inputs.get("inputs_embeds") is not None or input_ids.shape[1] == 0:
        raise ValueError(
            "the prompt came as inputs_embeds; the head reads token ids: pass input_ids"
        )
    if inputs.get("token_type_ids") is not None:
        raise ValueError("token_type_ids were given, but drafted tokens have none; leave them out")
    if input_ids.device != unwrap(target).device:
        raise ValueError(
            f"input_ids are on {input_ids.device} and the target on {unwrap(target).device}; move the inputs"
        )
    positions = inputs.get("position_ids")
    if positions is not None and positions.dim() != 2:
        raise ValueError(
            f"position_ids have {positions.dim()} dimensions; trees are placed on one axis: pass [batch, length]"
        )
    check_rope(unwrap(target).config.get_text_config(), call["generation_config"].max_length)
    check_mask(unwrap(target).config.get_text_config(), inputs.get("attention_mask"))
    if input_ids.shape[0] > 1:
        check_batch(call)


def check_rope(config, max_length: int) -> None:
    """Refuse RoPE whose frequencies depend on the longest position of a forward: a tree's deeper nodes would change them."""
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type")
    limit = rope.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    limit = limit or config.max_position_embeddings
    if kind in ("dynamic", "longrope") and max_length > limit:
        raise ValueError(
            f"the target's RoPE is {kind!r} and max_length is {max_length}, beyond its {limit} original positions, where its "
            f"frequencies change with the text's length; keep prompt and answer within {limit} tokens or generate without the head"
        )


def check_mask(config, attention_mask) -> None:
    """Refuse padding on the right, and a mask with holes for sliding windows: the library measures windows by slot, trees by position."""
    if attention_mask is not None and (attention_mask[:, -1] == 0).any():
        rows = (attention_mask[:, -1] == 0).nonzero()[:, 0].tolist()
        raise ValueError(
            f'attention_mask ends with zeros in rows {rows}: the batch is padded on the right; pad on the left: padding_side="left"'
        )
    if attention_mask is None or "sliding_attention" not in layer_kinds(config):
        return
    if (attention_mask.diff(dim=1) < 0).any():
        raise ValueError(
            "attention_mask has zeros after ones and the target has sliding windows; pad on the left only"
        )


def check_batch(call: dict) -> None:
    """Refuse what only makes sense for rows that advance together."""
    rows, criteria = call["input_ids"].shape[0], call["stopping_criteria"]
    if call.get("streamer") is not None:
        raise ValueError(
            f"a streamer was given with {rows} rows, which advance at different speeds; stream one row at a time"
        )
    for processor in call["logits_processor"]:
        name = ROW_BOUND.get(type(processor).__name__)
        if name:
            raise ValueError(
                f"{name} follows the rows of a batch by their place, but rows are decided one by one; pass one row"
            )
    others = [
        type(criterion).__name__
        for criterion in criteria
        if not isinstance(criterion, MaxLengthCriteria)
    ]
    if others and not any(hasattr(criterion, "eos_token_id") for criterion in criteria):
        raise ValueError(
            f"{', '.join(others)} may end {rows} rows at different times, and without an end-of-turn token generate does not pad "
            "them; set eos_token_id or pass one row"
        )
