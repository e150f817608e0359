"""What was measured of methods in this process, parsed."""

import re
from dataclasses import dataclass, field
from typing import Any

from eagle_hf.evaluation.charts.chart import Interval

ALL = "all"
PLAIN = "plain"
PREFILL = "prefill"
LONG = re.compile(r"long-(\d+)")  # categories of prompts/long_texts.py


@dataclass(frozen=True)
class TreeNode:
    """A slot of a tree.

    Attributes:
        parent: index of its parent, -1 for the root.
        depth: 1 below the root.
        visited: rounds in which it was on trial.
        accepted: rounds in which it was accepted.
    """

    parent: int
    depth: int
    visited: int
    accepted: int


@dataclass(frozen=True)
class MethodRow:
    """One way of decoding in one setting on one category.

    Attributes:
        method: its name.
        settings: how answers were chosen, how many at a time, and in which dtype.
        category: of the prompts, "all" for all.
        tokens_s, speedup, tau: with their intervals; speedup is over plain decoding.
        alpha: by depth.
        identical: share of answers that equal plain decoding's; ties: of the others.
        prompts: how many.
        seconds: of a round, by phase.
        tree: with acceptance per slot.
        predicted: the speed over this package's loop without drafts that a plan predicts.
        over_loop: what was measured of that.
        batch: prompts of a call.
        prompt_tokens: of prompts of one length; None of others.
        drafted: drafts a round.
        failed: why nothing was measured.
    """

    method: str
    settings: tuple[str, str, str] = ("", "", "")
    category: str = ALL
    tokens_s: float | None = None
    tokens_s_interval: Interval | None = None
    speedup: float | None = None
    speedup_interval: Interval | None = None
    tau: float | None = None
    tau_interval: Interval | None = None
    alpha: tuple[float, ...] = ()
    identical: float | None = None
    ties: int = 0
    prompts: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    tree: tuple[TreeNode, ...] = ()
    predicted: float | None = None
    over_loop: float | None = None
    over_loop_interval: Interval | None = None
    batch: int | None = None
    prompt_tokens: int | None = None
    drafted: float | None = None
    failed: str | None = None

    @property
    def setting(self) -> str:
        """All settings that are known, in words."""
        return ", ".join(part for part in self.settings if part)


def parse_methods(content: dict[str, Any]) -> list[MethodRow]:
    """The rows of `eagle-hf evaluate --methods`."""
    rows = []
    seen = {(row["method"], row.get("category")) for row in content["rows"]}
    for row in content["rows"]:
        rows.append(_method_row(row))
        for category, values in (row.get("by_category") or {}).items():
            if (row["method"], category) not in seen:
                rows.append(_method_row(row | values | {"category": category}))
    return rows


def _method_row(row: dict[str, Any]) -> MethodRow:
    """One row of schema 2."""
    reason = row.get("failed") or row.get("failure")
    if reason:
        return MethodRow(row["method"], _settings(row), failed=str(reason))
    acceptance = row.get("acceptance") or {}
    tau = row.get("tau")
    return MethodRow(
        method=row["method"],
        settings=_settings(row),
        category=row["category"],
        tokens_s=row["tokens_s"],
        tokens_s_interval=_interval(row.get("tokens_s_interval")),
        speedup=row["speedup"],
        speedup_interval=_interval(row.get("speedup_interval")),
        tau=acceptance.get("tau_tokens") if tau is None else tau,
        tau_interval=_interval(row.get("tau_interval")),
        alpha=tuple(row.get("alpha") or acceptance.get("alpha") or ()),
        identical=row.get("identical"),
        ties=row.get("ties") or 0,
        prompts=row.get("prompts"),
        seconds=_phases(row.get("seconds")),
        tree=parse_tree(row.get("tree")),
        predicted=row.get("predicted_speed"),
        over_loop=row.get("over_loop"),
        over_loop_interval=_interval(row.get("over_loop_interval")),
        batch=row.get("batch"),
        prompt_tokens=_prompt_tokens(row["category"]),
        drafted=_drafted(row),
    )


def _prompt_tokens(category: str) -> int | None:
    """Of the prompts of a category that is named by their length."""
    found = LONG.fullmatch(category)
    return int(found[1]) if found else None


def _drafted(row: dict[str, Any]) -> float | None:
    """Drafts a round; None where they or the rounds were not counted."""
    counts = (row.get("acceptance") or {}).get("vllm") or {}
    drafts = counts.get("num_draft_tokens")
    rounds = row.get("rounds")
    return drafts / rounds if drafts and rounds else None


def _settings(row: dict[str, Any]) -> tuple[str, str, str]:
    """How a row was decoded; nothing of a method that could not even be opened."""
    if row.get("temperature") is None:
        return "", "", ""
    return _chosen(row["temperature"]), f"batch {row['batch']}", ""


def _chosen(temperature: float) -> str:
    """How tokens were chosen."""
    return "greedy" if temperature == 0 else f"temperature {temperature:g}"


def parse_tree(slots: list[dict[str, Any]] | None) -> tuple[TreeNode, ...]:
    """The slots of a tree without its root; parents precede their children."""
    if not slots:
        return ()
    # The root itself may be among them: parents of the others then count from it.
    has_root = slots[0]["parent"] == -1 and slots[0]["depth"] == 0
    nodes = []
    for index, slot in enumerate(slots[1:] if has_root else slots):
        parent = slot["parent"] - has_root
        if not -1 <= parent < index:
            raise ValueError(f"node {index} of a tree has the parent {slot['parent']}, not before")
        nodes.append(TreeNode(parent, slot["depth"], slot["visited"], slot["accepted"]))
    return tuple(nodes)


def parse_head(content: dict[str, Any]) -> list[MethodRow]:
    """The settings of one head, as `eagle-hf evaluate --head` measures them."""
    rows = []
    for setting in content["settings"]:
        how = (_chosen(setting["temperature"]), "batch 1", setting["dtype"])
        for category, result in setting["results"].items():
            plain = MethodRow(
                method=PLAIN,
                settings=how,
                category=category,
                tokens_s=result["plain_tokens_per_second"],
                speedup=1.0,
                prompts=result["prompts"],
            )
            own = MethodRow(
                method=f"head {setting['tree']}",
                settings=how,
                category=category,
                tokens_s=result["fast_tokens_per_second"],
                speedup=result["speedup"],
                tau=result["tau"],
                tau_interval=_interval(result["tau_interval"]),
                alpha=tuple(result["alpha"]),
                identical=result["identical"],
                ties=result["ties"],
                prompts=result["prompts"],
            )
            rows += [plain, own]
    return rows


def _interval(pair: Any) -> Interval | None:
    """(low, high), None where there is none."""
    if pair is None:
        return None
    low, high = pair
    return float(low), float(high)


def _phases(seconds: dict[str, float] | None) -> dict[str, float]:
    """Seconds of a round by phase; reading the prompt is in no round."""
    return {phase: value for phase, value in (seconds or {}).items() if phase != PREFILL}
