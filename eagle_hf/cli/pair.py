"""`eagle-hf pair`: which drafter suits a target, ranked, with a sentence why."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from eagle_hf.cli.command import Command
from eagle_hf.data.prompts.suites import check_suites
from eagle_hf.evaluation import (
    SettingArguments,
    facts_of,
    load_asked,
    open_set_target,
    write_metrics,
)
from eagle_hf.evaluation.side_by_side import (
    PLAIN,
    Contest,
    KeptAnswers,
    Method,
    OpenMethod,
    Pair,
    Setting,
    judge,
    open_methods,
    pair_table,
)
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
        self.check_head(self.heads[0] if self.heads else None)
        if self.drafts < 1:
            raise ValueError(f"drafts is {self.drafts}; a round needs at least one")


def run(arguments: PairArguments) -> None:
    """Let the target answer alone and with every drafter, and rank them."""
    # 1) open everything; what is cheap to refuse comes first
    gguf_file(arguments.target)
    check_suites(arguments.categories)
    target, tokenizer = open_set_target(arguments)
    prompts = load_asked(arguments, arguments.per_category, target, tokenizer)
    methods, failures = open_methods(
        wanted_drafters(arguments), target, tokenizer, vocab_size=arguments.vocab_size
    )
    asked = asdict(arguments) | facts_of(target, prompts)
    kept = KeptAnswers(arguments.out / "answers.jsonl", asked)

    # 2) answer every prompt with every drafter
    plain = OpenMethod(PLAIN, {})
    setting = Setting(arguments.temperature)
    contest = Contest(target, tokenizer, [plain, *methods], arguments.max_new_tokens)
    contest.run(prompts, [setting], kept)

    # 3) judge
    for (name, _), reason in kept.failures.items():
        failures[name] = reason
    pairs: list[Pair] = []
    for method in methods:
        if method.name in failures:
            continue
        assert isinstance(method, OpenMethod), "no server was asked for"
        try:
            pairs.append(judge(method, target, tokenizer, kept.answers, arguments.drafts))
        except ValueError as error:
            failures[method.name] = str(error)
    print(pair_table(pairs, failures))
    metrics = {
        "schema": 1,
        "kind": "pairs",
        "asked": kept.asked,
        "pairs": [asdict(pair) for pair in pairs],
        "failures": failures,
    }
    write_metrics(arguments.out, metrics)


def wanted_drafters(arguments: PairArguments) -> dict[str, Method]:
    """Every drafter by its name, with the same chain."""
    tree = TreeConfig("chain", arguments.drafts, 1, arguments.drafts)
    wanted = {f"head {source}": Method("head", source, tree) for source in arguments.heads}
    for source in arguments.models:
        wanted[f"model {source}"] = Method("window", source, tree)
    if arguments.itself:
        wanted["itself"] = Method("itself", tree=tree)
    return wanted


COMMAND = Command(
    name="pair",
    summary="which drafter suits a target: fit, cost, acceptance and speed, ranked",
    arguments=PairArguments,
    run=run,
)
