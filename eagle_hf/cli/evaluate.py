"""`eagle-hf evaluate`: tau, speed and equality, of a head or of methods side by side."""

from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

from eagle_hf.cli.command import Command
from eagle_hf.data.prompts.suites import load_suite, with_template_variables
from eagle_hf.evaluation import (
    Answer,
    SettingArguments,
    by_category,
    evaluate,
    machine,
    markdown_table,
    measured_setting,
    open_set_target,
    sampling_at,
    weights_fingerprint,
    write_metrics,
    write_report,
)
from eagle_hf.evaluation.side_by_side import (
    PLAIN,
    Contest,
    KeptAnswers,
    Method,
    Setting,
    open_methods,
    summaries,
    table,
)
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.trees import TreeConfig
from eagle_hf.target.gguf import gguf_file

SCHEMA = 2  # of metrics.json with methods side by side


@dataclass(kw_only=True)
class EvaluateArguments(SettingArguments):
    """Which head, for whom, in which setting, on how much."""

    head: str | None = field(default=None, metadata={"help": "Folder or hub id of the draft head."})
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
    methods: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Ways of decoding to measure side by side, plain decoding always: lookup, "
            "assistant:MODEL, early-exit:LAYER, head, window:MODEL, itself; the last three also "
            "with a tree behind an @."
        },
    )
    temperatures: list[float] = field(
        default_factory=lambda: [0.0], metadata={"help": "With --methods; 0 is greedy."}
    )
    batch_sizes: list[int] = field(
        default_factory=lambda: [1], metadata={"help": "With --methods: rows of a call."}
    )

    def __post_init__(self) -> None:
        if not self.methods and self.head is None:
            raise ValueError("there is nothing to measure; give --head, or --methods")


def run(arguments: EvaluateArguments) -> None:
    """Measure a head, or methods side by side; print the table, and write the report."""
    if arguments.methods:
        run_methods(arguments)
    else:
        run_head(arguments)


def run_methods(arguments: EvaluateArguments) -> None:
    """Measure methods side by side; what an earlier run has measured is not measured again."""
    # 1) open everything; what is cheap to refuse comes first
    methods = {}
    for name in [PLAIN, *arguments.methods]:
        method = Method.parse(name)
        methods[str(method)] = method
    gguf_file(arguments.target)
    prompts = load_suite(arguments.categories, arguments.per_category)
    target, tokenizer = open_set_target(arguments)
    prompts = with_template_variables(prompts, tokenizer, arguments.chat_template_kwargs)
    opened, failures = open_methods(methods, target, tokenizer, arguments.head)
    asked = asdict(arguments) | {"machine": machine(target)}
    kept = KeptAnswers(arguments.out / "answers.jsonl", asked)

    # 2) answer every prompt by every method
    contest = Contest(target, tokenizer, opened, arguments.max_new_tokens, failures=failures)
    settings = []
    for batch, temperature in product(arguments.batch_sizes, arguments.temperatures):
        settings.append(Setting(temperature, batch))
    try:
        contest.run(prompts, settings, kept)
    finally:  # interrupted, too
        rows = summaries(kept.answers, contest.failures)
        write_metrics(arguments.out, {"schema": SCHEMA, "asked": kept.asked, "rows": rows})
        print(table(rows))


def run_head(arguments: EvaluateArguments) -> None:
    """Measure a head, print the table, and write the report."""
    assert arguments.head is not None, "checked where the arguments were read"
    # 1) open everything; what is cheap to refuse comes first
    gguf_file(arguments.target)
    prompts = load_suite(arguments.categories, arguments.per_category)
    tree = TreeConfig.parse(arguments.tree) if arguments.tree else "auto"
    head = Eagle3DraftHead.from_pretrained(
        arguments.head, tree=tree, vocab_size=arguments.vocab_size
    )
    fingerprint = weights_fingerprint(head)
    target, tokenizer = open_set_target(arguments)
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
