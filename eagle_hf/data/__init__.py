"""From user turns to training examples, and to the target's states on disk.

user turns      load_prompts, stream_prompts, read_prompts, gather_prompts, prompts_from_dataset,
                bundled_prompts, magpie_prompts
which of them   select_prompts and its rules, with_categories, estimate_mixture, mix_prompts
conversations   write_responses, write_served_responses, collect_answers, read_conversations,
                load_conversations
examples        prepare_examples, stream_examples, tokenize_conversations, show_mask
privacy         filter_prompts, filter_conversations
features        capture_features, join_features, Features; from vLLM: EngineStates, EngineServer
evaluation      load_suite
"""

from eagle_hf.data.answers import (
    AnswerReport,
    IdRecovery,
    ServedAnswerer,
    ServingSettings,
    TargetAnswerer,
    TurnStore,
    collect_answers,
    write_responses,
    write_served_responses,
)
from eagle_hf.data.examples.masking import eos_token_ids, tokenize_conversations
from eagle_hf.data.examples.preparing import prepare_examples, stream_examples
from eagle_hf.data.examples.reader import conversation_id
from eagle_hf.data.examples.viewer import show_mask
from eagle_hf.data.features.capture import capture_features
from eagle_hf.data.features.dataset import Features
from eagle_hf.data.features.engine_states import (
    EngineRequest,
    EngineServer,
    EngineStates,
    write_engine_request,
)
from eagle_hf.data.features.joining import join_features
from eagle_hf.data.features.state_sources import Choice, StateSource, TargetSource
from eagle_hf.data.manifest import write_run
from eagle_hf.data.privacy import (
    PrivacyFilter,
    PrivacyReport,
    PrivacySettings,
    filter_conversations,
    filter_prompts,
)
from eagle_hf.data.prompts.bundled_sets import bundled_prompts
from eagle_hf.data.prompts.gathering import (
    evenly_spread,
    gather_prompts,
    load_prompts,
    prompts_from_dataset,
    read_prompts,
    stream_prompts,
    write_prompts,
)
from eagle_hf.data.prompts.magpie import magpie_prompts
from eagle_hf.data.prompts.presets import PRESETS, Preset, describe_preset
from eagle_hf.data.prompts.suites import (
    first_turn_ids,
    load_suite,
    long_prompts,
    with_template_variables,
)
from eagle_hf.data.prompts.topics import TOPIC_SEEDS
from eagle_hf.data.reading.conversations import load_conversations, read_conversations
from eagle_hf.data.rows import (
    CapturedExample,
    Conversation,
    Example,
    Message,
    Prompt,
    SkippedLine,
    SkippedRow,
    TargetFeatures,
)
from eagle_hf.data.selection.categories import estimate_category, with_categories
from eagle_hf.data.selection.contamination import ContaminationRule
from eagle_hf.data.selection.languages import LanguageDetector, LanguageRule
from eagle_hf.data.selection.lengths import LengthRule, SpecialTokenRule
from eagle_hf.data.selection.mixtures import MixtureEstimate, estimate_mixture, mix_prompts
from eagle_hf.data.selection.near_duplicates import NearDuplicateRule
from eagle_hf.data.selection.selecting import PromptRule, Selection, select_prompts
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.data.templates.template import template_sha256

__all__ = [
    "PRESETS",
    "TOPIC_SEEDS",
    "AnswerReport",
    "CapturedExample",
    "Choice",
    "ContaminationRule",
    "Conversation",
    "EngineRequest",
    "EngineServer",
    "EngineStates",
    "Example",
    "Features",
    "IdRecovery",
    "LanguageDetector",
    "LanguageRule",
    "LengthRule",
    "Message",
    "MixtureEstimate",
    "NearDuplicateRule",
    "Preset",
    "PrivacyFilter",
    "PrivacyReport",
    "PrivacySettings",
    "Prompt",
    "PromptRule",
    "Selection",
    "ServedAnswerer",
    "ServingSettings",
    "SkippedLine",
    "SkippedRow",
    "SpecialTokenRule",
    "StateSource",
    "TargetAnswerer",
    "TargetFeatures",
    "TargetSource",
    "TemplateArguments",
    "TurnStore",
    "bundled_prompts",
    "capture_features",
    "collect_answers",
    "conversation_id",
    "describe_preset",
    "eos_token_ids",
    "estimate_category",
    "estimate_mixture",
    "evenly_spread",
    "filter_conversations",
    "filter_prompts",
    "first_turn_ids",
    "gather_prompts",
    "join_features",
    "load_conversations",
    "load_prompts",
    "load_suite",
    "long_prompts",
    "magpie_prompts",
    "mix_prompts",
    "prepare_examples",
    "prompts_from_dataset",
    "read_conversations",
    "read_prompts",
    "select_prompts",
    "show_mask",
    "stream_examples",
    "stream_prompts",
    "template_sha256",
    "tokenize_conversations",
    "with_categories",
    "with_template_variables",
    "write_engine_request",
    "write_prompts",
    "write_responses",
    "write_run",
    "write_served_responses",
]
