"""What was measured: a row for each setting, category and method, as JSON holds it."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from eagle_hf.decoding.stats import DecodingStats
from eagle_hf.evaluation.side_by_side.acceptance import acceptance_of, tree_of
from eagle_hf.evaluation.side_by_side.kept import GroupAnswer, KeptAnswers, Setting
from eagle_hf.evaluation.side_by_side.names import LOOP, PLAIN
from eagle_hf.evaluation.side_by_side.tiers import entropy_tiers
from eagle_hf.measuring.intervals import median_interval, ratio_interval, tau_interval

ALL = "all"
PARTS = ("prompts", "tau", "tokens_s", "tokens_s_interval", "speedup", "speedup_interval")
DEFINITIONS = {
    "tokens_s": "new tokens per second of a whole call, the prompt's read included; median over "
    "calls, with the 95 % bootstrap interval",
    "speedup": "median tokens_s over plain decoding's (transformers' generate) on the same groups; "
    "the interval draws both together",
    "over_loop": "the same over this package's loop without drafts",
    "identical": "share of answered prompts whose answer equals plain decoding's: by token in this "
    "process, by text from a server",
    "ties": "answers that differ where the plain run's first two choices were within rounding",
    "tau": "tokens over rounds of all calls together, the bonus token included; the token of the "
    "prefill belongs to no round; null where nothing was drafted",
    "acceptance.tau_requests": "tau of every request; median over requests",
    "acceptance.tau_tokens": "all tokens over all rounds: requests weigh by their rounds",
    "acceptance.alpha": "acceptance at each depth, given that the drafts above were accepted",
    "acceptance.vllm": "the fields of vLLM's metrics.speculative_decoding over all requests; of "
    "trees, draft tokens are nodes and num_spec_tokens is the depth",
    "tree": "places by rank path; visited: in the tree while the walk reached the parent; "
    "accepted: the walk went on to it",
    "seconds": "of a round by phase; prefill: of a call",
    "by_entropy": "terciles of the calls of a setting, by the mean entropy of the target's "
    "next-token distribution at temperature 1 over plain decoding's answers, in nats a token",
    "predicted_speed": "over this package's loop, by the costs of the plan or of the quick "
    "measurement that chose the trees, for the rounds that were made; at batch 1",
    "evaluation_overhead": "seconds between the calls, in which prompts are rendered and answers "
    "compared, over the seconds of the calls",
}


def summaries(
    kept: KeptAnswers,
    unopened: Mapping[str, str] | None = None,
    predicted: Mapping[tuple[str, Setting], float] | None = None,
) -> list[dict[str, Any]]:
    """A row for each setting, category and method, as JSON holds it.

    Args:
        kept: answers of all methods, and where methods failed.
        unopened: why methods could not be opened.
        predicted: the speed over the loop that a plan predicts.

    Returns:
        Rows with method, temperature, batch, category, and either `failed`, why, or what
        DEFINITIONS lists. Rows of all categories also have `by_category` and `by_entropy`. A method
        that could not be opened has one row, without a setting.
    """
    rows = []
    by_setting: dict[Setting, list[GroupAnswer]] = {}
    for answer in kept.answers:
        by_setting.setdefault(answer.setting, []).append(answer)
    for setting, answers in by_setting.items():
        rows += _rows_of(setting, answers, kept.failures, predicted or {})
    for (method, setting), reason in kept.failures.items():
        rows.append({"method": method, **asdict(setting), "category": ALL, "failed": reason})
    for method, reason in (unopened or {}).items():
        empty = {"temperature": None, "batch": None, "category": ALL}
        rows.append({"method": method, **empty, "failed": reason})
    return rows


def _rows_of(
    setting: Setting,
    answers: Sequence[GroupAnswer],
    failures: Mapping[tuple[str, Setting], str],
    predicted: Mapping[tuple[str, Setting], float],
) -> list[dict[str, Any]]:
    """The rows of one setting: every category by every method, then all categories."""
    methods = []
    for method in dict.fromkeys(answer.method for answer in answers):
        if (method, setting) not in failures:
            methods.append(method)
    categories = list(dict.fromkeys(answer.category for answer in answers))
    tiers = entropy_tiers(answers)
    rows = []
    for category in [*categories, ALL]:
        group = [answer for answer in answers if category in (answer.category, ALL)]
        for method in methods:
            named = {"method": method, **asdict(setting), "category": category}
            row = named | summarise(method, group)
            if (method, setting) in predicted:
                row["predicted_speed"] = predicted[method, setting]
            if category == ALL:
                row["by_category"] = {}
                for name in categories:
                    own = [answer for answer in answers if answer.category == name]
                    row["by_category"][name] = _part(method, own)
                row["by_entropy"] = {}
                for name, tier in tiers.items():
                    own = [answer for answer in answers if answer.group in tier.groups]
                    entropy = {"entropy": [tier.low, tier.high]}
                    row["by_entropy"][name] = _part(method, own) | entropy
            rows.append(row)
    return rows


def _part(method: str, answers: Sequence[GroupAnswer]) -> dict[str, Any]:
    """The main measures of some of a row's answers."""
    whole = summarise(method, answers)
    return {name: whole[name] for name in (*PARTS, "identical")}


def summarise(method: str, answers: Sequence[GroupAnswer]) -> dict[str, Any]:
    """The measured part of a row.

    Groups that only one of two methods answered are left out where the two are compared.

    Args:
        method: whose row.
        answers: of all methods to some groups.

    Returns:
        What DEFINITIONS lists. Speeds are None where no request was answered.
    """
    own = [answer for answer in answers if answer.method == method]
    total = sum((answer.stats for answer in own), DecodingStats(rows=0))
    finished = sum(answer.finished for answer in own)
    speeds = [answer.speed for answer in own if answer.tokens]
    measured: dict[str, Any] = {
        "prompts": sum(len(answer.prompts) for answer in own),
        "tau": None,
        "alpha": total.alpha,
        "rounds": total.rounds,
        "trials": total.trials,
        "accepted": total.accepted,
        "tokens_s": statistics.median(speeds) if speeds else None,
        "tokens_s_interval": median_interval(speeds) if speeds else None,
        "identical": sum(answer.same for answer in own) / finished if finished else None,
        "ties": sum(answer.ties for answer in own),
        "errors": dict(Counter(error for answer in own for error in answer.errors)),
        "acceptance": acceptance_of([answer.stats for answer in own]),
        "tree": tree_of(total),
        "seconds": _seconds(total, len(own)),
    }
    measured["speedup"], measured["speedup_interval"] = _ratio(own, answers, PLAIN)
    measured["over_loop"], measured["over_loop_interval"] = _ratio(own, answers, LOOP)
    runs = [answer.stats for answer in own if answer.stats.rounds]
    if runs and total.drafted:
        measured["tau"] = total.tau
        measured["tau_interval"] = tau_interval(runs)
        measured["tau_by_call"] = statistics.mean(run.tau for run in runs)
    return measured


def _ratio(
    own: Sequence[GroupAnswer], answers: Sequence[GroupAnswer], base: str
) -> tuple[float | None, tuple[float, float] | None]:
    """Speed over another method's, with its 95 % interval; None without common groups."""
    theirs = {answer.group: answer for answer in answers if answer.method == base}
    pairs = []
    for answer in own:
        other = theirs.get(answer.group)
        if answer.tokens and other is not None:
            pairs.append((answer.speed, other.speed))
    if not pairs:
        return None, None
    ours, base_speeds = zip(*pairs, strict=True)
    ratio = statistics.median(ours) / statistics.median(base_speeds)
    return ratio, ratio_interval(ours, base_speeds)


def _seconds(total: DecodingStats, calls: int) -> dict[str, float]:
    """Seconds of a round by phase; of the prefill, those of a call."""
    seconds = {}
    if total.rounds and any(total.seconds.values()):
        for phase, spent in total.seconds.items():
            seconds[phase] = spent / (calls if phase == "prefill" else total.rounds)
    return seconds


def overhead_of(answers: Sequence[GroupAnswer]) -> float | None:
    """What evaluation itself took, as a share of the decoding; None without answers."""
    decoding = sum(answer.seconds for answer in answers)
    return sum(answer.between for answer in answers) / decoding if decoding else None
