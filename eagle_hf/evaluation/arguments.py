"""What can be set about an evaluation: the fields that the command line and the recipes share.

`eagle-hf` makes flags of these fields, recipes read them with `TrlParser`. Every field's help
stands here once.
"""

from dataclasses import dataclass, field

DTYPES = ("auto", "bfloat16", "float16", "float32")


@dataclass(kw_only=True)
class TargetArguments:
    """Which target, with which adapter and tokenizer."""

    target: str = field(metadata={"help": "Hub id, folder, .gguf file, or smollm2."})
    adapter: str | None = field(
        default=None, metadata={"help": "PEFT adapter laid over the target."}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder of another tokenizer; default: the adapter's where it brings "
            "one, else the target's."
        },
    )


@dataclass(kw_only=True)
class VocabularyArguments:
    """The size of the vocabulary that a head is opened for."""

    vocab_size: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of the target, where its embeddings were resized after the head was "
            "trained."
        },
    )

    def check_head(self, head: str | None) -> None:
        """Raise a ValueError where a size was given without a head that it could be of."""
        if self.vocab_size is not None and not head:
            raise ValueError(
                f"vocab_size is {self.vocab_size}, but no --head was given that it could be of; "
                "leave it out"
            )


@dataclass(kw_only=True)
class AnswerArguments(TargetArguments, VocabularyArguments):
    """Who answers which prompts, and at what length."""

    categories: list[str] = field(
        default_factory=lambda: ["chat", "code", "math"],
        metadata={"help": "Bundled categories or .jsonl files."},
    )
    max_new_tokens: int = field(default=64, metadata={"help": "Tokens of each answer."})
    chat_template_kwargs: dict | str | None = field(
        default=None,
        metadata={
            "help": "Variables of the chat template, a JSON object such as "
            "'{\"enable_thinking\": false}'; a prompt's own win."
        },
    )


@dataclass(kw_only=True)
class DtypeArguments:
    """What the models compute in."""

    dtype: str = field(
        default="auto",
        metadata={
            "help": "Of the models; auto: what this machine is fastest in.",
            "choices": DTYPES,
        },
    )


@dataclass(kw_only=True)
class SettingArguments(AnswerArguments, DtypeArguments):
    """One way of answering: the fields of the commands that measure a single setting."""

    temperature: float = field(default=0.0, metadata={"help": "Of the answers; 0 is greedy."})
    compile: bool = field(
        default=False,
        metadata={"help": "Compile all forwards (CPU), those of plain decoding as well."},
    )


@dataclass(kw_only=True)
class EvaluationArguments(AnswerArguments):
    """Which head, for whom, in which settings, on how much."""

    head: str = field(metadata={"help": "Folder or hub id of the draft head."})
    output_dir: str = field(metadata={"help": "Folder for metrics.json."})
    per_category: dict = field(
        default_factory=lambda: {"auto": 20, "float32": 5},
        metadata={
            "help": "Prompts of each category, by the dtypes to measure in; auto: the fastest here."
        },
    )
    leave_out: int = field(
        default=0,
        metadata={
            "help": "First leave out so many of each, evenly spread: those the head was chosen on."
        },
    )
    trees: list[str] = field(
        default_factory=lambda: ["own", "chain:4:1:4"],
        metadata={"help": "policy:depth:top_k:nodes, or the head's own."},
    )
    temperatures: list[float] = field(
        default_factory=lambda: [0.0, 1.0], metadata={"help": "0 is greedy."}
    )
    max_steps: int = field(
        default=-1, metadata={"help": "Answer only this many prompts (smoke tests)."}
    )
