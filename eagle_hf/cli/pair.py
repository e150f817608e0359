"""`eagle-hf pair`: which drafter suits a target, ranked, with a sentence why."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eagle_hf.cli.command import Command
from eagle_hf.data.prompts.suites import load_suite, with_template_variables
from eagle_hf.evaluation import SettingArguments, machine, open_target
from eagle_hf.evaluation.metrics import METRICS
from eagle_hf.evaluation.side_by_side import (
    PLAIN,
    Contest,
    KeptAnswers,
    Method,
    OpenMethod,
    Pair,
    Setting,
    judge,
    open_method,
    pair_table,
)
from eagle_hf.evaluation.side_by_side.methods import first_line
from eagle_hf.head.trees import TreeConfig
from eagle_hf.target.gguf import gguf_file


@dataclass(kw_only=True)
class PairArguments(SettingArguments):
    """Which drafters, for whom, on how much."""

    heads: list[str] = field(
        default_factory=list, metadata={"help": "Folders or hub ids of draft heads."}
    )
    models: list[str] = field(
        default_factory=list, metadata={"help": "Smaller models that would draft."}
    )
    itself: bool = field(
        default=False, metadata={"help": "Also let the target draft, behind a window."}
    )
    drafts: int = field(default=4, metadata={"help": "Tokens drafted a round."})
    per_category: int = field(default=4, metadata={"help": "Prompts of each category."})
    out: Path = field(
        default=Path("outputs/pair"), metadata={"help": "Folder of the answers and metrics.json."}
    )

    def __post_init__(self) -> None:
        if not (self.heads or self.models or self.itself):
            raise ValueError("there is nothing to pair the target with; give --heads or --models")
        if self.drafts < 1:
            raise ValueError(f"drafts is {self.drafts}; a round needs at least one")


def run(arguments: PairArguments) -> None:
    """Let the target answer alone and with every drafter, and rank them."""
    # 1) open everything; what is cheap to refuse comes first
    gguf_file(arguments.target)
    prompts = load_suite(arguments.categories, arguments.per_category)
    target, tokenizer = open_target(
        arguments.target,
        arguments.adapter,
        tokenizer=arguments.tokenizer,
        dtype=arguments.dtype,
        compile=arguments.compile,
    )
    prompts = with_template_variables(prompts, tokenizer, arguments.chat_template_kwargs)
    methods, failures = open_drafters(arguments, target, tokenizer)
    asked = json.loads(json.dumps(asdict(arguments), default=str)) | {"machine": machine(target)}
    kept = KeptAnswers(arguments.out / "answers.jsonl", asked)

    # 2) answer every prompt with every drafter
    plain = OpenMethod(PLAIN, {})
    contest = Contest(
        target, tokenizer, [plain, *methods], arguments.max_new_tokens, failures=failures
    )
    contest.run(prompts, [Setting(arguments.temperature)], kept)

    # 3) judge
    pairs: list[Pair] = []
    for method in methods:
        if method.name not in contest.failures:
            pairs.append(judge(method, target, kept.answers, arguments.drafts))
    print(pair_table(pairs, contest.failures))
    metrics = {"asked": asked, "pairs": [asdict(pair) for pair in pairs], "failures": failures}
    (arguments.out / METRICS).write_text(json.dumps(metrics, indent=1) + "\n")


def open_drafters(
    arguments: PairArguments, target: Any, tokenizer: Any
) -> tuple[list[OpenMethod], dict[str, str]]:
    """Open every drafter with the same chain.

    Returns:
        (opened, why others do not fit the target by their names).
    """
    tree = TreeConfig("chain", arguments.drafts, 1, arguments.drafts)
    wanted: list[tuple[str, Method, str | None]] = []
    for source in arguments.heads:
        wanted.append((f"head {source}", Method("head", tree=tree), source))
    for source in arguments.models:
        wanted.append((f"model {source}", Method("window", source, tree), None))
    if arguments.itself:
        wanted.append(("itself", Method("itself", tree=tree), None))
    opened = []
    failures = {}
    for name, method, head in wanted:
        try:
            found = open_method(method, target, tokenizer, head)
            found.name = name
            opened.append(found)
        except (ValueError, OSError) as error:
            failures[name] = first_line(error)
    return opened, failures


COMMAND = Command(
    name="pair",
    summary="which drafter suits a target: fit, cost, acceptance and speed, ranked",
    arguments=PairArguments,
    run=run,
)
