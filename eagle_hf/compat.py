"""What differs between transformers releases, and every private name of theirs that this package rests on.

From 5.24 on the key-value cache is called `cache`; before, it was `past_key_values`. Where a call gives both names, the old one is
dropped with a warning, so nothing outside this file spells the name: `cache_inputs`, `take_cache` and `decoder_only_output` do.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LlamaForCausalLM,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
    Trainer,
    TrainingArguments,
)
from transformers.cache_utils import Cache, DynamicLayer
from transformers.generation.utils import (
    GENERATION_MODES_MAPPING,
    GenerateDecoderOnlyOutput,
    GenerationMode,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils import logging, output_capturing

MARK = "_eagle_hf"  # the attribute of functions that took the place of transformers' own
TESTED = ("5.17", "5.24")  # the oldest and the newest release that the tests run on
CACHE_NAMES = ("cache", "past_key_values")  # the newest first
CHECKPOINTING_FIELDS = (
    "activation_checkpointing_kwargs",
    "gradient_checkpointing_kwargs",
)  # the newest first


def parameters(function: Callable) -> list[str]:
    """The names of a function's parameters, behind the decorators that keep its signature."""
    return list(inspect.signature(function).parameters)


def cache_name(function: Callable) -> str:
    """What a forward, or another function of transformers, calls its cache."""
    for name in CACHE_NAMES:
        if name in parameters(function):
            return name
    return GENERATE_CACHE  # a wrapper's (*args, **kwargs)


GENERATE_CACHE = next(
    name
    for name in CACHE_NAMES
    if name in parameters(GenerationMixin.prepare_inputs_for_generation)
)


def cache_inputs(model, cache: Cache) -> dict[str, Any]:
    """The arguments that let a model's forward read and write `cache`."""
    return {cache_name(model.forward): cache, "use_cache": True}


def take_cache(inputs: dict[str, Any]) -> tuple[Cache | None, dict[str, Any]]:
    """(the cache among arguments that generate prepared, None where there is none; the other arguments)."""
    found = [inputs[name] for name in CACHE_NAMES if inputs.get(name) is not None]
    others = {name: value for name, value in inputs.items() if name not in CACHE_NAMES}
    return (found[0] if found else None), others


def prepare_inputs(model, input_ids, cache: Cache, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the model's forward takes for its first reading of a prompt, by its own `prepare_inputs_for_generation`."""
    return model.prepare_inputs_for_generation(
        input_ids, is_first_iteration=True, **{GENERATE_CACHE: cache}, **inputs
    )


def decoder_only_output(sequences, scores, logits, cache: Cache) -> GenerateDecoderOnlyOutput:
    """What generate returns with return_dict_in_generate."""
    name = next(
        name for name in CACHE_NAMES if name in GenerateDecoderOnlyOutput.__dataclass_fields__
    )
    return GenerateDecoderOnlyOutput(
        sequences=sequences, scores=scores, logits=logits, **{name: cache}
    )


def is_user_defined(cache: Cache) -> bool:
    """Whether generate was given this cache, and did not make it."""
    return getattr(cache, "_is_user_defined", False)


def is_recurrent(model) -> bool:
    """Whether a model says of itself that it keeps a state which cannot be rolled back."""
    return getattr(model, "_is_stateful", False)


def last_logits(model) -> dict[str, int]:
    """What spares a model the logits of all tokens but the last, where it can be spared them."""
    return {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}


def captures_outputs(model) -> bool:
    """Whether transformers has laid its hooks for hidden states on the model's layers, which it does at the first call that asks."""
    return getattr(model, "_output_capturing_hooks_installed", False)


def checkpointing_field(arguments) -> str:
    """What these TrainingArguments call the keywords of gradient checkpointing; renamed after 5.17."""
    return next(name for name in CHECKPOINTING_FIELDS if hasattr(arguments, name))


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars, notes or warnings of transformers meanwhile; errors, and the bars of others, are shown."""
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class AssistedCall:
    """One call of generate, as transformers hands it to assisted decoding.

    model_inputs: what generate prepared for the model's forward, its cache among them.
    """

    input_ids: torch.Tensor
    logits_processor: LogitsProcessorList
    stopping_criteria: StoppingCriteriaList
    generation_config: GenerationConfig
    streamer: Any = None
    model_inputs: dict[str, Any] = field(default_factory=dict)


def patch_generate(
    recognise: Callable[[Any], Any | None],
    check: Callable[[Any, Any, GenerationConfig, dict[str, Any]], None],
    decode: Callable[[Any, Any, AssistedCall], Any],
) -> None:
    """Let generate ask us about assistants; a second call changes nothing.

    Args:
        recognise: what `assistant_model` is to us; None leaves the call to transformers.
        check: raises for (target, assistant, generation config, arguments of the mode) that cannot
            be served.
        decode: what generate returns for (target, assistant, call).
    """
    validate = GenerationMixin._validate_generation_mode
    assist = GenerationMixin._assisted_decoding
    if hasattr(assist, MARK):
        return

    @functools.wraps(validate)
    def _validate_generation_mode(self, generation_mode, generation_config, generation_mode_kwargs):
        assistant = recognise(generation_mode_kwargs.get("assistant_model"))
        if assistant is not None:
            check(self, assistant, generation_config, generation_mode_kwargs)
            # transformers would look for a model's attributes on it
            generation_mode_kwargs = dict(generation_mode_kwargs)
            del generation_mode_kwargs["assistant_model"]
        return validate(self, generation_mode, generation_config, generation_mode_kwargs)

    @functools.wraps(assist)
    def _assisted_decoding(self, input_ids, *args, **kwargs):
        assistant = recognise(kwargs.get("assistant_model"))
        if assistant is None:
            return assist(self, input_ids, *args, **kwargs)
        given = inspect.signature(assist).bind(self, input_ids, *args, **kwargs).arguments
        call = AssistedCall(
            input_ids=given["input_ids"],
            logits_processor=given["logits_processor"],
            stopping_criteria=given["stopping_criteria"],
            generation_config=given["generation_config"],
            streamer=given.get("streamer"),
            model_inputs=given.get("model_kwargs") or given.get("kwargs") or {},
        )
        return decode(self, assistant, call)

    setattr(_assisted_decoding, MARK, True)
    GenerationMixin._validate_generation_mode = _validate_generation_mode
    GenerationMixin._assisted_decoding = _assisted_decoding


def decode_plainly(model, call: AssistedCall):
    """What generate returns for this call without an assistant."""
    return model._sample(
        input_ids=call.input_ids,
        logits_processor=call.logits_processor,
        stopping_criteria=call.stopping_criteria,
        generation_config=call.generation_config,
        streamer=call.streamer,
        **call.model_inputs,
    )


def wrap_attention(name: str, wrap: Callable[[Callable], Callable]) -> None:
    """Replace a registered attention function by `wrap` of it; a second call changes nothing."""
    attention = ALL_ATTENTION_FUNCTIONS[name]
    if hasattr(attention, MARK):
        return
    wrapped = wrap(attention)
    setattr(wrapped, MARK, True)
    ALL_ATTENTION_FUNCTIONS.register(name, wrapped)


def _source(function: Callable) -> str:
    return inspect.getsource(inspect.unwrap(function))


def _calls_of_generate() -> list[str]:
    return list(inspect.unwrap(GenerationMixin.generate).__code__.co_varnames)


# A sentence that is true of a supported transformers, and how to see it.
CONTRACT: dict[str, Callable[[], bool]] = {
    "assisted decoding is GenerationMixin._assisted_decoding": lambda: (
        GENERATION_MODES_MAPPING[GenerationMode.ASSISTED_GENERATION] == "_assisted_decoding"
    ),
    "_assisted_decoding takes input_ids, logits_processor, stopping_criteria, generation_config, streamer, assistant_model": lambda: (
        {
            "input_ids",
            "logits_processor",
            "stopping_criteria",
            "generation_config",
            "streamer",
            "assistant_model",
        }
        <= set(parameters(GenerationMixin._assisted_decoding))
    ),
    "plain decoding is GenerationMixin._sample, which takes the same arguments": lambda: (
        {"input_ids", "logits_processor", "stopping_criteria", "generation_config", "streamer"}
        <= set(parameters(GenerationMixin._sample))
        and parameters(GenerationMixin._sample)[-1] == "model_kwargs"
    ),
    "_assisted_decoding collects the model's arguments in model_kwargs": lambda: (
        parameters(GenerationMixin._assisted_decoding)[-1] == "model_kwargs"
    ),
    "generate validates by _validate_generation_mode(self, generation_mode, generation_config, generation_mode_kwargs)": lambda: (
        parameters(GenerationMixin._validate_generation_mode)
        == ["self", "generation_mode", "generation_config", "generation_mode_kwargs"]
        and "_validate_generation_mode" in _source(GenerationMixin.generate)
    ),
    "generate knows the source of remote code as its local variable custom_generate": lambda: (
        "custom_generate" in _calls_of_generate()
    ),
    "prepare_inputs_for_generation takes a cache and is_first_iteration": lambda: (
        "is_first_iteration" in parameters(GenerationMixin.prepare_inputs_for_generation)
    ),
    "forwards and generate call the cache by the same name": lambda: (
        GENERATE_CACHE in parameters(LlamaForCausalLM.forward)
        and GENERATE_CACHE in GenerateDecoderOnlyOutput.__dataclass_fields__
    ),
    "generate marks a cache that it was given by _is_user_defined": lambda: (
        "_is_user_defined = True" in _source(GenerationMixin._prepare_cache_for_generation)
    ),
    "generate notes special tokens as _pad_token_tensor and _eos_token_tensor of the generation_config": lambda: (
        "_pad_token_tensor" in _source(GenerationMixin._prepare_special_tokens)
        and "_eos_token_tensor" in _source(GenerationMixin._prepare_special_tokens)
    ),
    "models say by _supports_logits_to_keep() whether one token's logits can be asked for": lambda: (
        callable(getattr(GenerationMixin, "_supports_logits_to_keep", None))
    ),
    "models with a recurrent state say so by _is_stateful": lambda: (
        PreTrainedModel.__dict__.get("_is_stateful") is False
    ),
    "a model whose hidden states were asked for is marked by _output_capturing_hooks_installed": lambda: (
        "_output_capturing_hooks_installed" in inspect.getsource(output_capturing)
    ),
    'attention is looked up in ALL_ATTENTION_FUNCTIONS["sdpa"], called with (module, query, key, value, attention_mask)': lambda: (
        parameters(ALL_ATTENTION_FUNCTIONS["sdpa"])[:5]
        == ["module", "query", "key", "value", "attention_mask"]
    ),
    "caches are made of layers that take (key_states, value_states) in lazy_initialization and update": lambda: (
        parameters(DynamicLayer.lazy_initialization)[1:3] == ["key_states", "value_states"]
        and parameters(DynamicLayer.update)[1:3] == ["key_states", "value_states"]
        and "layer_class_to_replicate" in parameters(Cache.__init__)
    ),
    "caches can be cropped, counted and cut to rows": lambda: all(
        callable(getattr(DynamicCache, name, None))
        for name in ("crop", "get_seq_length", "batch_select_indices")
    ),
    "Llama's rotary embedding takes (x, position_ids)": lambda: (
        parameters(LlamaRotaryEmbedding.forward)[1:] == ["x", "position_ids"]
    ),
    "Trainer asks _get_num_items_in_batch, _save_checkpoint, _load_from_checkpoint and _get_train_sampler": lambda: (
        parameters(Trainer._get_num_items_in_batch)[1:] == ["batch_samples", "device"]
        and parameters(Trainer._save_checkpoint)[1:] == ["model", "trial"]
        and parameters(Trainer._load_from_checkpoint)[1:] == ["resume_from_checkpoint", "model"]
        and parameters(Trainer._get_train_sampler)[1:] == ["train_dataset"]
    ),
    "TrainingArguments has keywords of gradient checkpointing": lambda: any(
        name in TrainingArguments.__dataclass_fields__ for name in CHECKPOINTING_FIELDS
    ),
}


def broken_contract() -> Iterator[str]:
    """The sentences of CONTRACT that are not true of the installed transformers."""
    for sentence, holds in CONTRACT.items():
        try:
            is_true = holds()
        except (
            AttributeError,
            KeyError,
            TypeError,
            OSError,
            StopIteration,
        ):  # what it looks at is gone
            is_true = False
        if not is_true:
            yield sentence


def warn_untested() -> None:
    """Say, once, that transformers is of a release that this package was not tested with, and what has moved there."""
    release = Version(transformers.__version__).release[:2]
    oldest, newest = (Version(name).release for name in TESTED)
    if oldest <= release <= newest:
        return
    moved = "; ".join(broken_contract())
    state = (
        f"it breaks what the package rests on: {moved}"
        if moved
        else "what the package rests on is in its place"
    )
    warnings.warn(
        f"eagle_hf is tested with transformers {TESTED[0]} to {TESTED[1]}, this is {transformers.__version__}: {state}",
        UserWarning,
        stacklevel=3,
    )
