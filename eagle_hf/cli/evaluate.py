"""`eagle-hf evaluate`: tau, acceptance, speed and equality of a head in one setting."""

from dataclasses import dataclass, field
from pathlib import Path

from eagle_hf.cli.command import Command
from eagle_hf.data.prompts.suites import load_suite, with_template_variables
from eagle_hf.evaluation import (
    Answer,
    SettingArguments,
    by_category,
    evaluate,
    markdown_table,
    measured_setting,
    open_target,
    sampling_at,
    weights_fingerprint,
    write_report,
)
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.trees import TreeConfig
from eagle_hf.target.gguf import gguf_file


@dataclass(kw_only=True)
class EvaluateArguments(SettingArguments):
    """Which head, for whom, in which setting, on how much."""

    head: str = field(metadata={"help": "Folder or hub id of the draft head."})
    per_category: int = field(default=8, metadata={"help": "Prompts of each category."})
    tree: str | None = field(
        default=None,
        metadata={
            "help": "policy:depth:top_k:nodes, e.g. dynamic:4:4:16 or chain:4:1:4 "
            "(default: the head's own)."
        },
    )
    out: Path = field(
        default=Path("outputs/evaluation"),
        metadata={"help": "Folder of report.md, metrics.json and the plot."},
    )


def run(arguments: EvaluateArguments) -> None:
    """Measure a head, print the table, and write the report."""
    # 1) open everything; what is cheap to refuse comes first
    gguf_file(arguments.target)
    prompts = load_suite(arguments.categories, arguments.per_category)
    tree = TreeConfig.parse(arguments.tree) if arguments.tree else "auto"
    head = Eagle3DraftHead.from_pretrained(
        arguments.head, tree=tree, vocab_size=arguments.vocab_size
    )
    fingerprint = weights_fingerprint(head)
    target, tokenizer = open_target(
        arguments.target,
        arguments.adapter,
        tokenizer=arguments.tokenizer,
        dtype=arguments.dtype,
        compile=arguments.compile,
    )
    prompts = with_template_variables(prompts, tokenizer, arguments.chat_template_kwargs)
    head.to(target.device, target.dtype)

    # 2) answer every prompt with the head and without it
    answers = evaluate(
        target,
        tokenizer,
        head,
        prompts,
        max_new_tokens=arguments.max_new_tokens,
        **sampling_at(arguments.temperature),
    )

    # 3) report
    summaries = by_category(answers)
    setting = measured_setting(
        target,
        summaries,
        tree="by machine" if head.tree_by_machine else str(head.tree),
        temperature=arguments.temperature,
        max_new_tokens=arguments.max_new_tokens,
    )
    write_report(
        arguments.out,
        summaries,
        setting,
        head_fingerprint=fingerprint,
        target=arguments.target,
        head=arguments.head,
    )
    print(markdown_table(summaries))
    print_differences(answers)
    total = summaries["all"]
    print(
        f"a round costs {total.overhead_ms:.1f} ms, {total.overhead_share:.1%} of it, besides the "
        f"forwards of target and head; report in {arguments.out}"
    )


def print_differences(answers: list[Answer]) -> None:
    """One line for each answer that differs from the target's own."""
    for answer in answers:
        difference = answer.difference
        if difference is None:
            continue
        kind = "a tie" if difference.is_tie else "a difference"
        print(
            f"{answer.prompt['id']}: {kind} at token {difference.position}, "
            f"top-2 gap {difference.gap:.1e}"
        )


COMMAND = Command(
    name="evaluate",
    summary="tau, acceptance, speed and equality by category",
    arguments=EvaluateArguments,
    run=run,
)
