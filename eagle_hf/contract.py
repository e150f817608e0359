"""What this package rests on in transformers, as sentences that can be checked without a model.

A new release that moves one of these things fails with one sentence that says what moved.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator

import transformers
from packaging.version import Version
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
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
from transformers.pipelines import base as pipelines
from transformers.utils import output_capturing

from eagle_hf.compat import CHECKPOINTING_FIELDS, GENERATE_CACHE, parameters

TESTED = ("5.17", "5.24")  # the oldest and the newest release that the tests run on
CALL = {"input_ids", "logits_processor", "stopping_criteria", "generation_config", "streamer"}
MISSING = object()
# What a look at something raises that is gone.
GONE = (AttributeError, KeyError, TypeError, OSError, StopIteration)

# A sentence that is true of a supported transformers, and a function that checks it.
CONTRACT: dict[str, Callable[[], bool]] = {}


def clause(sentence: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Put a sentence and its check into the contract."""

    def add(check: Callable[[], bool]) -> Callable[[], bool]:
        CONTRACT[sentence] = check
        return check

    return add


def source(function: Callable) -> str:
    """The source of a function, without its decorators' wrappers."""
    return inspect.getsource(inspect.unwrap(function))


@clause("assisted decoding is GenerationMixin._assisted_decoding")
def assisted_decoding_has_its_name() -> bool:
    return GENERATION_MODES_MAPPING[GenerationMode.ASSISTED_GENERATION] == "_assisted_decoding"


@clause(
    "_assisted_decoding takes input_ids, logits_processor, stopping_criteria, generation_config, "
    "streamer, assistant_model"
)
def assisted_decoding_has_its_arguments() -> bool:
    return CALL | {"assistant_model"} <= set(parameters(GenerationMixin._assisted_decoding))


@clause("plain decoding is GenerationMixin._sample, which takes the same arguments")
def plain_decoding_has_its_arguments() -> bool:
    names = parameters(GenerationMixin._sample)
    return set(names) >= CALL and names[-1] == "model_kwargs"


@clause("_assisted_decoding collects the model's arguments in model_kwargs")
def assisted_decoding_collects() -> bool:
    return parameters(GenerationMixin._assisted_decoding)[-1] == "model_kwargs"


@clause(
    "generate validates by _validate_generation_mode(self, generation_mode, generation_config, "
    "generation_mode_kwargs)"
)
def generate_validates() -> bool:
    names = parameters(GenerationMixin._validate_generation_mode)
    wanted = ["self", "generation_mode", "generation_config", "generation_mode_kwargs"]
    return names == wanted and "_validate_generation_mode" in source(GenerationMixin.generate)


@clause(
    "pipelines load an assistant by pipelines.base.load_assistant_model(model, assistant_model, "
    "assistant_tokenizer)"
)
def pipelines_load_assistants() -> bool:
    names = parameters(pipelines.load_assistant_model)
    wanted = ["model", "assistant_model", "assistant_tokenizer"]
    return names == wanted and "load_assistant_model(" in source(pipelines.Pipeline.__init__)


@clause("generate fills in what _get_default_generation_params() holds")
def defaults_are_known() -> bool:
    defaults = GenerationConfig._get_default_generation_params()
    return "_get_default_generation_params" in source(
        GenerationMixin._prepare_generation_config
    ) and set(defaults) >= {"num_assistant_tokens", "assistant_confidence_threshold"}


@clause("generate knows the source of remote code as its local variable custom_generate")
def generate_knows_remote_code() -> bool:
    variables = inspect.unwrap(GenerationMixin.generate).__code__.co_varnames
    return "custom_generate" in variables


@clause("generate hands what it has prepared to a function given as custom_generate")
def functions_generate() -> bool:
    text = source(GenerationMixin.generate)
    return "isinstance(custom_generate, Callable)" in text and "**model_kwargs" in text


@clause("prepare_inputs_for_generation takes a cache and is_first_iteration")
def inputs_are_prepared() -> bool:
    return "is_first_iteration" in parameters(GenerationMixin.prepare_inputs_for_generation)


@clause("forwards and generate call the cache by the same name")
def the_cache_has_one_name() -> bool:
    in_forward = GENERATE_CACHE in parameters(LlamaForCausalLM.forward)
    return in_forward and GENERATE_CACHE in GenerateDecoderOnlyOutput.__dataclass_fields__


@clause("generate marks a cache that it was given by _is_user_defined")
def a_given_cache_is_marked() -> bool:
    return "_is_user_defined = True" in source(GenerationMixin._prepare_cache_for_generation)


@clause(
    "generate notes special tokens as _pad_token_tensor and _eos_token_tensor of the "
    "generation_config"
)
def special_tokens_are_noted() -> bool:
    text = source(GenerationMixin._prepare_special_tokens)
    return "_pad_token_tensor" in text and "_eos_token_tensor" in text


@clause("configs name their attention by _attn_implementation")
def attention_is_named() -> bool:
    return isinstance(getattr(LlamaConfig(), "_attn_implementation", MISSING), str | None)


@clause("configs name what differs between layers in per_layer_attributes, None where nothing does")
def differing_layers_are_named() -> bool:
    return getattr(LlamaConfig(), "per_layer_attributes", MISSING) is None


@clause("models say by _supports_logits_to_keep() whether one token's logits can be asked for")
def logits_to_keep_are_known() -> bool:
    return callable(getattr(GenerationMixin, "_supports_logits_to_keep", None))


@clause("models with a recurrent state say so by _is_stateful")
def recurrent_models_say_so() -> bool:
    return PreTrainedModel.__dict__.get("_is_stateful") is False


@clause("a model whose hidden states were asked for is marked by _output_capturing_hooks_installed")
def capturing_is_marked() -> bool:
    return "_output_capturing_hooks_installed" in inspect.getsource(output_capturing)


@clause(
    'attention is looked up in ALL_ATTENTION_FUNCTIONS["sdpa"], called with (module, query, key, '
    "value, attention_mask)"
)
def attention_is_looked_up() -> bool:
    names = parameters(ALL_ATTENTION_FUNCTIONS["sdpa"])
    return names[:5] == ["module", "query", "key", "value", "attention_mask"]


@clause(
    "caches are made of layers that take (key_states, value_states) in lazy_initialization and "
    "update"
)
def caches_are_made_of_layers() -> bool:
    states = ["key_states", "value_states"]
    begins = parameters(DynamicLayer.lazy_initialization)[1:3] == states
    updates = parameters(DynamicLayer.update)[1:3] == states
    return begins and updates and "layer_class_to_replicate" in parameters(Cache.__init__)


@clause("caches can be cropped, counted and cut to rows")
def caches_can_be_cut() -> bool:
    names = ("crop", "get_seq_length", "batch_select_indices")
    return all(callable(getattr(DynamicCache, name, None)) for name in names)


@clause("Llama's rotary embedding takes (x, position_ids)")
def rotary_embedding_has_its_arguments() -> bool:
    return parameters(LlamaRotaryEmbedding.forward)[1:] == ["x", "position_ids"]


@clause(
    "Trainer asks _get_num_items_in_batch, _save_checkpoint, _load_from_checkpoint and "
    "_get_train_sampler"
)
def the_trainer_asks() -> bool:
    wanted = {
        Trainer._get_num_items_in_batch: ["batch_samples", "device"],
        Trainer._save_checkpoint: ["model", "trial"],
        Trainer._load_from_checkpoint: ["resume_from_checkpoint", "model"],
        Trainer._get_train_sampler: ["train_dataset"],
    }
    return all(parameters(method)[1:] == names for method, names in wanted.items())


@clause("TrainingArguments has keywords of gradient checkpointing")
def checkpointing_has_keywords() -> bool:
    known = TrainingArguments.__dataclass_fields__
    return any(name in known for name in CHECKPOINTING_FIELDS)


def broken_contract() -> Iterator[str]:
    """The sentences of CONTRACT that are not true of the installed transformers."""
    for sentence, holds in CONTRACT.items():
        try:
            is_true = holds()
        except GONE:
            is_true = False
        if not is_true:
            yield sentence


def warn_untested() -> None:
    """Warn of a transformers release that this package was not tested with.

    The warning says what has moved there.
    """
    release = Version(transformers.__version__).release[:2]
    oldest, newest = (Version(name).release for name in TESTED)
    if oldest <= release <= newest:
        return
    moved = "; ".join(broken_contract())
    state = "what the package rests on is in its place"
    if moved:
        state = f"it breaks what the package rests on: {moved}"
    warnings.warn(
        f"eagle_hf is tested with transformers {TESTED[0]} to {TESTED[1]}, this is "
        f"{transformers.__version__}: {state}",
        UserWarning,
        stacklevel=3,
    )
