"""What differs between transformers releases, and the patches of its classes.

Private names of transformers that the package calls are here. What it rests on besides is in
contract.py.

From 5.24 on the key-value cache is called `cache`; before, it was `past_key_values`. Where a call
gives both names, the old one is dropped with a warning. So nothing outside this file spells the
name: `cache_inputs`, `take_cache` and `decoder_only_output` do.

State: `patch_generate`, `patch_pipelines`, `patch_logs` and `wrap_attention` replace functions of
transformers, once a process.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from transformers.cache_utils import Cache
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pipelines import base as pipelines
from transformers.trainer_callback import CallbackHandler
from transformers.utils import logging

MARK = "_eagle_hf"  # the attribute of functions that took the place of transformers' own
CACHE_NAMES = ("cache", "past_key_values")  # the newest first
# the newest first
CHECKPOINTING_FIELDS = ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs")


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
    """Part the cache from the other arguments that generate prepared.

    Returns:
        The cache, None where there is none, and the others.
    """
    others = {name: value for name, value in inputs.items() if name not in CACHE_NAMES}
    for name in CACHE_NAMES:
        if inputs.get(name) is not None:
            return inputs[name], others
    return None, others


def prepare_inputs(model, input_ids, cache: Cache, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the model's forward takes for its first reading of a prompt, as the model says."""
    return model.prepare_inputs_for_generation(
        input_ids, is_first_iteration=True, **{GENERATE_CACHE: cache}, **inputs
    )


def decoder_only_output(sequences, scores, logits, cache: Cache) -> GenerateDecoderOnlyOutput:
    """What generate returns with return_dict_in_generate."""
    fields = GenerateDecoderOnlyOutput.__dataclass_fields__
    name = next(name for name in CACHE_NAMES if name in fields)
    return GenerateDecoderOnlyOutput(
        sequences=sequences, scores=scores, logits=logits, **{name: cache}
    )


def is_user_defined(cache: Cache) -> bool:
    """Whether generate was given this cache, and did not make it."""
    return getattr(cache, "_is_user_defined", False)


def is_recurrent(model) -> bool:
    """Whether a model says of itself that it keeps a state which cannot be rolled back."""
    return getattr(model, "_is_stateful", False)


def attention_implementation(config) -> str:
    """Which attention a model of this config computes: "sdpa", "eager", ..."""
    return config._attn_implementation


def layer_values(config, name: str) -> list[Any]:
    """The distinct values of a setting over the layers of a model; [] where it has none.

    A config whose layers differ refuses to be asked for one value.
    """
    known_as = getattr(config, "attribute_map", {}).get(name, name)
    if known_as in (getattr(config, "per_layer_attributes", None) or ()):
        values = [getattr(layer, name, None) for layer in config.per_layer_config]
    else:
        value = getattr(config, name, None)
        values = list(value) if isinstance(value, (list, tuple)) else [value]
    distinct = []
    for value in values:
        if value is not None and value not in distinct:
            distinct.append(value)
    return distinct


def padding_token(generation_config: GenerationConfig) -> torch.Tensor | None:
    """The token that a prepared call pads rows with."""
    return getattr(generation_config, "_pad_token_tensor", None)


def end_tokens(generation_config: GenerationConfig) -> torch.Tensor | None:
    """The tokens [n] that end a row of a prepared call."""
    return generation_config._eos_token_tensor


def given_setting(generation_config: GenerationConfig, name: str) -> Any | None:
    """What somebody set in a prepared call; None for what transformers fills in by itself."""
    value = getattr(generation_config, name, None)
    default = generation_config._get_default_generation_params().get(name)
    return None if value == default else value


def last_logits(model) -> dict[str, int]:
    """Arguments that spare a model the logits of all tokens but the last; none if it cannot."""
    return {"logits_to_keep": 1} if chooses_logits(model) else {}


def chooses_logits(model) -> bool:
    """Whether a model's forward can be told which tokens' logits to compute."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


@contextmanager
def wrapped_candidates(model, wrap: Callable[[Any], Any]) -> Generator[None]:
    """Let what proposes drafts in transformers' own assisted generation be wrapped in the block.

    Args:
        model: the target.
        wrap: takes a candidate generator, and returns what is used in its place.
    """
    make = model._get_candidate_generator

    def make_wrapped(*args, **kwargs):
        return wrap(make(*args, **kwargs))

    model._get_candidate_generator = make_wrapped
    try:
        yield
    finally:
        del model._get_candidate_generator


def captures_outputs(model) -> bool:
    """Whether transformers has hooked the model's layers, to collect their hidden states.

    It does so at the first call that asks for them.
    """
    return getattr(model, "_output_capturing_hooks_installed", False)


def checkpointing_field(arguments) -> str:
    """What these TrainingArguments call the keywords of gradient checkpointing.

    They were renamed after 5.17.
    """
    return next(name for name in CHECKPOINTING_FIELDS if hasattr(arguments, name))


@contextmanager
def quiet_libraries() -> Generator[None]:
    """Hide progress bars, notes and warnings of transformers inside the block.

    Errors, and the bars of other libraries, are shown.
    """
    verbosity = logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
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

    Attributes:
        model_inputs: what generate prepared for the model's forward, its cache among them.
        is_synced: whether the model is sharded over processes, which run its forward together.
        in_lockstep: whether rows must advance together, as they do where callbacks see all rows.
            Draws are then plain generate's own in batches too.
    """

    input_ids: torch.Tensor
    logits_processor: LogitsProcessorList
    stopping_criteria: StoppingCriteriaList
    generation_config: GenerationConfig
    streamer: Any = None
    model_inputs: dict[str, Any] = field(default_factory=dict)
    is_synced: bool = False
    in_lockstep: bool = False


def patch_generate(
    recognise: Callable[[Any], Any | None],
    check: Callable[[Any, Any, GenerationConfig, dict[str, Any]], None],
    decode: Callable[[Any, Any, AssistedCall], Any],
    decode_alone: Callable[[Any, AssistedCall], Any | None],
) -> None:
    """Let generate ask us about assistants, and compiled targets; a second call changes nothing.

    Args:
        recognise: what `assistant_model` is to us; None leaves the call to transformers.
        check: raises for (target, assistant, generation config, arguments of the mode) that cannot
            be served.
        decode: what generate returns for (target, assistant, call).
        decode_alone: what generate returns for (target, call) without an assistant; None leaves the
            call to transformers.
    """
    validate = GenerationMixin._validate_generation_mode
    assist = GenerationMixin._assisted_decoding
    sample = GenerationMixin._sample
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
        return decode(self, assistant, _as_call(assist, self, input_ids, *args, **kwargs))

    @functools.wraps(sample)
    def _sample(self, input_ids, *args, **kwargs):
        output = decode_alone(self, _as_call(sample, self, input_ids, *args, **kwargs))
        return sample(self, input_ids, *args, **kwargs) if output is None else output

    setattr(_assisted_decoding, MARK, True)
    GenerationMixin._validate_generation_mode = _validate_generation_mode
    GenerationMixin._assisted_decoding = _assisted_decoding
    GenerationMixin._sample = _sample


def _as_call(decoding: Callable, *args, **kwargs) -> AssistedCall:
    """The call that one of transformers' ways of decoding is given."""
    given = inspect.signature(decoding).bind(*args, **kwargs).arguments
    return AssistedCall(
        input_ids=given["input_ids"],
        logits_processor=given["logits_processor"],
        stopping_criteria=given["stopping_criteria"],
        generation_config=given["generation_config"],
        streamer=given.get("streamer"),
        model_inputs=given.get("model_kwargs") or given.get("kwargs") or {},
        is_synced=bool(given.get("synced_gpus")),
    )


def patch_pipelines(recognise: Callable[[Any], Any | None]) -> None:
    """Let pipelines take our assistants as they are; a second call changes nothing.

    Pipelines compare an assistant's config with their model's. Ours are checked by generate, and
    not all of them have a config.

    Args:
        recognise: what an `assistant_model` is to us; None leaves it to transformers.
    """
    load = pipelines.load_assistant_model
    if hasattr(load, MARK):
        return

    @functools.wraps(load)
    def load_assistant_model(model, assistant_model, assistant_tokenizer):
        if recognise(assistant_model) is None or not model.can_generate():
            return load(model, assistant_model, assistant_tokenizer)
        return assistant_model, assistant_tokenizer

    setattr(load_assistant_model, MARK, True)
    pipelines.load_assistant_model = load_assistant_model


def patch_logs() -> None:
    """Let callbacks add to a Trainer's logs before trackers see them; once a process.

    Trackers come before the callbacks of `add_callback`, and log what they are given. A callback
    with a method `add_to_logs(logs)` is asked first.
    """
    log = CallbackHandler.on_log
    if hasattr(log, MARK):
        return

    @functools.wraps(log)
    def on_log(self, args, state, control, logs, **kwargs):
        for callback in self.callbacks:
            if hasattr(callback, "add_to_logs"):
                callback.add_to_logs(logs)
                state.log_history[-1].update(logs)  # it holds a copy, made before
        return log(self, args, state, control, logs, **kwargs)

    setattr(on_log, MARK, True)
    CallbackHandler.on_log = on_log


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
