"""`eagle-hf evaluate`: tau, speed and equality, of a head or of methods side by side."""

from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from eagle_hf.cli.command import Command
from eagle_hf.cli.keys import KEY_HELP, KEY_METAVAR
from eagle_hf.data.answers.keys import ServerKeys
from eagle_hf.data.prompts.suites import check_suites
from eagle_hf.evaluation import (
    Answer,
    SettingArguments,
    by_category,
    evaluate,
    facts_of,
    load_asked,
    markdown_table,
    measured_setting,
    open_set_target,
    sampling_at,
    weights_fingerprint,
    write_metrics,
    write_report,
)
from eagle_hf.evaluation.side_by_side import (
    DEFINITIONS,
    Contest,
    KeptAnswers,
    Setting,
    named_methods,
    open_methods,
    overhead_of,
    predicted_speeds,
    summaries,
    table,
    tier_table,
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
            "(default: the head's own). With --methods: of those that name none."
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
            "assistant:MODEL, early-exit:LAYER, head, window:MODEL, itself, server:LABEL=URL; "
            "head, window and itself also with a tree behind an @."
        },
    )
    temperatures: list[float] | None = field(
        default=None,
        metadata={"help": "With --methods, in place of --temperature; 0 is greedy (default: 0)."},
    )
    batch_sizes: list[int] | None = field(
        default=None, metadata={"help": "With --methods: rows of a call (default: 1)."}
    )

    api_key_variable: list[str] = field(
        default_factory=list,
        metadata={
            "help": KEY_HELP,
            "action": "extend",
            "metavar": KEY_METAVAR,
            "unrecorded": True,
        },
    )

    def __post_init__(self) -> None:
        if not self.methods and self.head is None:
            raise ValueError("there is nothing to measure; give --head, or --methods")
        if self.api_key_variable and not any(text.startswith("server:") for text in self.methods):
            raise ValueError(
                f"--api-key-variable is {' '.join(self.api_key_variable)}, and no server is "
                "asked; name one with --methods server:LABEL=URL, or leave the key out"
            )
        if self.methods:
            self._check_beside_methods()
        elif self.temperatures is not None or self.batch_sizes is not None:
            raise ValueError(
                "--temperatures and --batch-sizes are settings of --methods; without it give "
                "--temperature, and one prompt is answered at a time"
            )

    def _check_beside_methods(self) -> None:
        """Refuse what means nothing beside --methods."""
        if self.temperature:
            raise ValueError(
                f"--temperature is {self.temperature:g}; beside --methods give --temperatures "
                f"{self.temperature:g}"
            )
        self.check_head(self.head)
        wrong_batches = [size for size in self.batch_sizes or () if size < 1]
        wrong_temperatures = [value for value in self.temperatures or () if value < 0]
        if wrong_batches or wrong_temperatures:
            raise ValueError(
                f"--batch-sizes {self.batch_sizes} and --temperatures {self.temperatures}; a call "
                "has one row at least, and temperatures are 0 or more"
            )

    @property
    def settings(self) -> list[Setting]:
        """Every combination of batch size and temperature."""
        found = []
        batches = self.batch_sizes or [1]
        for batch, temperature in product(batches, self.temperatures or [0.0]):
            found.append(Setting(temperature, batch))
        return list(dict.fromkeys(found))


def run(arguments: EvaluateArguments) -> None:
    """Measure a head, or methods side by side; print the table, and write the report."""
    if arguments.methods:
        run_methods(arguments)
    else:
        run_head(arguments)


def run_methods(arguments: EvaluateArguments) -> None:
    """Measure methods side by side; what an earlier run has measured is not measured again."""
    # 1) open everything; what is cheap to refuse comes first
    tree = TreeConfig.parse(arguments.tree) if arguments.tree else None
    methods = named_methods(arguments.methods, tree)
    labels = [method.label for method in methods.values() if method.label]
    keys = ServerKeys.read(arguments.api_key_variable, labels)
    gguf_file(arguments.target)
    check_suites(arguments.categories)
    target, tokenizer = open_set_target(arguments)
    prompts = load_asked(arguments, arguments.per_category, target, tokenizer)
    opened, unopened = open_methods(
        methods, target, tokenizer, arguments.head, arguments.vocab_size, keys
    )
    asked = asdict(arguments) | facts_of(target, prompts)
    del asked["api_key_variable"]  # another key asks the same
    kept = KeptAnswers(arguments.out / "answers.jsonl", asked)

    # 2) answer every prompt by every method
    contest = Contest(target, tokenizer, opened, arguments.max_new_tokens)
    predicted: dict[tuple[str, Setting], float] = {}
    try:
        contest.run(prompts, arguments.settings, kept)
        predicted = predicted_speeds(opened, target, kept.answers)
    finally:  # interrupted, too
        write_rows(arguments.out, kept, summaries(kept, unopened, predicted))


def write_rows(out: Path, kept: KeptAnswers, rows: list[dict[str, Any]]) -> None:
    """Write metrics.json with what was measured so far, and print its table."""
    metrics = {
        "schema": SCHEMA,
        "kind": "methods",
        "asked": kept.asked,
        "machine": kept.asked["machine"],
        "versions": kept.asked["versions"],
        "definitions": DEFINITIONS,
        "evaluation_overhead": overhead_of(kept.answers),
        "rows": rows,
    }
    write_metrics(out, metrics)
    print(table(rows))
    tiers = tier_table(rows)
    if tiers:
        print(f"\n{tiers}")


def run_head(arguments: EvaluateArguments) -> None:
    """Measure a head, print the table, and write the report."""
    assert arguments.head is not None, "checked where the arguments were read"
    # 1) open everything; what is cheap to refuse comes first
    gguf_file(arguments.target)
    check_suites(arguments.categories)
    tree = TreeConfig.parse(arguments.tree) if arguments.tree else "auto"
    head = Eagle3DraftHead.from_pretrained(
        arguments.head, tree=tree, vocab_size=arguments.vocab_size
    )
    fingerprint = weights_fingerprint(head)
    target, tokenizer = open_set_target(arguments)
    prompts = load_asked(arguments, arguments.per_category, target, tokenizer)
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
