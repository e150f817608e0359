"""`eagle-hf plan`: measure this machine and a drafter's acceptance; choose trees by cost."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from eagle_hf.cli.command import Command
from eagle_hf.data.templates.arguments import TemplateArguments
from eagle_hf.decoding.assistants import SelfSpeculation
from eagle_hf.decoding.checks import check_rope, check_target
from eagle_hf.evaluation import (
    SettingArguments,
    open_draft_model,
    open_head,
    open_set_target,
    sampling_at,
)
from eagle_hf.head.trees import TreeConfig
from eagle_hf.measuring.acceptance import DEPTH
from eagle_hf.measuring.costs import check_lengths
from eagle_hf.measuring.plans import describe, make_plan, measure_plan, questions, record_answers
from eagle_hf.measuring.speeds import draw_speeds, save_speeds


@dataclass(kw_only=True)
class PlanArguments(SettingArguments):
    """Which drafter, for whom, in which cells, and where the plan goes."""

    head: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the draft head; plan.json is written there unless --out says "
            "otherwise.",
            "one_of": "drafter",
        },
    )
    draft: str | None = field(
        default=None,
        metadata={
            "help": "Instead: a smaller model, hub id, folder or .gguf file.",
            "one_of": "drafter",
        },
    )
    self_speculation: bool = field(
        default=False,
        metadata={"help": "Instead: the target itself behind a window.", "one_of": "drafter"},
    )
    sinks: int = field(default=16, metadata={"help": "First tokens that such a window keeps."})
    window: int = field(
        default=496,
        metadata={"help": "Newest tokens that it keeps; 0: a draft model's whole cache."},
    )
    per_category: int = field(
        default=10,
        metadata={
            "help": "Prompts of each category that acceptance is measured on; behind a window, as "
            "many texts of the longest length."
        },
    )
    batches: list[int] = field(
        default_factory=lambda: [1, 4, 8], metadata={"help": "Batch sizes to measure."}
    )
    lengths: list[int] = field(
        default_factory=lambda: [256, 2048, 8000],
        metadata={"help": "Context lengths to measure, in tokens."},
    )
    trace: Path | None = field(
        default=None,
        metadata={
            "help": "Keep in this .npz what the head proposed along the answers, to replay "
            "policies on."
        },
    )
    repeats: int = field(
        default=3,
        metadata={
            "help": "Afterwards decode so many times in every cell, predicted against measured; "
            "0: do not."
        },
    )
    out: Path | None = field(
        default=None,
        metadata={
            "help": "Folder for plan.json, and for speeds.json and plan.png, what was measured of "
            "it (default: the head's; needed without one)."
        },
    )

    def __post_init__(self) -> None:
        is_beside_head = self.out is None and self.head is not None and Path(self.head).is_dir()
        is_own = self.out is not None and not self.out.is_file()
        if not (is_beside_head or is_own):
            raise ValueError(
                f"{self.out or self.head or 'nothing'} was given as a folder for plan.json and is "
                "none; give one with --out"
            )
        self.check_head(self.head)
        if self.repeats < 0:
            raise ValueError(
                f"repeats is {self.repeats}; give how often every cell is decoded, or 0 to leave "
                "that out"
            )
        # two rounds may emit so many tokens, and a timing needs more than those
        too_few = DEPTH + 2
        if self.repeats and self.max_new_tokens <= too_few:
            raise ValueError(
                f"max_new_tokens is {self.max_new_tokens}, which two rounds may emit: too few to "
                f"time; give {too_few + 1} or more, or --repeats 0"
            )

    @property
    def folder(self) -> Path:
        """Where plan.json goes."""
        return self.out or Path(self.head or "")


def run(arguments: PlanArguments) -> None:
    """Make a plan, and measure what it predicts."""
    # 1) open both models; refuse what no plan can be made for
    target, tokenizer = open_set_target(arguments)
    assistant = open_assistant(arguments, target, tokenizer)
    check_lengths(target, arguments.lengths)
    check_rope(target, max(arguments.lengths))
    check_target(target, assistant, TreeConfig())  # its own tree may need the plan

    # 2) how often the drafter is accepted, along the target's own answers
    starts = questions(
        tokenizer,
        assistant,
        arguments.categories,
        arguments.per_category,
        max(arguments.lengths),
        arguments.chat_template_kwargs,
    )
    trace = record_answers(
        target,
        tokenizer,
        assistant,
        starts,
        arguments.max_new_tokens,
        **sampling_at(arguments.temperature),
    )
    if arguments.trace:
        trace.save(arguments.trace)

    # 3) what forwards cost here, and the plan that follows
    arguments.folder.mkdir(parents=True, exist_ok=True)
    plan = make_plan(target, assistant, trace, arguments.batches, arguments.lengths, progress=print)
    plan.save(arguments.folder)
    print(f"\n{describe(plan)}\n", flush=True)

    # 4) the plan against measured speeds
    if arguments.repeats:
        speeds = measure_plan(
            target,
            tokenizer,
            assistant,
            plan,
            arguments.max_new_tokens,
            arguments.repeats,
            progress=print,
            template_arguments=TemplateArguments.read(arguments.chat_template_kwargs),
        )
        save_speeds(arguments.folder, speeds, plan.costs.facts)
        draw_speeds(arguments.folder / "plan.png", speeds)
    print_usage(arguments)


def open_assistant(
    arguments: PlanArguments, target: Any, tokenizer: PreTrainedTokenizerBase
) -> Any:
    """Open the drafter that the plan is for."""
    if arguments.head:
        return open_head(arguments.head, target, vocab_size=arguments.vocab_size)
    if arguments.draft:
        window = arguments.window or None
        return open_draft_model(
            arguments.draft, target, tokenizer, sinks=arguments.sinks, window=window
        )
    return SelfSpeculation(arguments.sinks, arguments.window)


def print_usage(arguments: PlanArguments) -> None:
    """How the plan is used; a head finds the one in its own folder."""
    folder = arguments.folder
    beside_head = arguments.head is not None and folder == Path(arguments.head)
    load = "" if beside_head else f"assistant.plan = eagle_hf.Plan.load({str(folder)!r}); "
    print(
        f"\nthe plan is in {folder}; use it: {load}"
        'assistant.tree = TreeConfig("adaptive", depth=6, top_k=8, nodes=63)'
    )


COMMAND = Command(
    name="plan",
    summary="measure this machine and a drafter's acceptance; choose trees by cost",
    arguments=PlanArguments,
    run=run,
)
