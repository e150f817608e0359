"""What was measured of drafters on a machine, parsed: pairs, profiles, plans and their speeds."""

from dataclasses import dataclass
from typing import Any

import numpy

from eagle_hf.evaluation.charts.chart import Interval
from eagle_hf.planning.cost import CostTable
from eagle_hf.planning.sequoia import best_tree_for
from eagle_hf.planning.static_tree import StaticTree

# of planned trees
NODES = 63
DEPTH = 6


@dataclass(frozen=True)
class PairRow:
    """A drafter for a target.

    Attributes:
        drafter: its name.
        predicted, measured, interval: its speed over plain decoding.
        verdict: one sentence.
        tau: tokens a round.
        accepted: share of its drafts; None in files of earlier versions.
    """

    drafter: str
    predicted: float
    measured: float
    interval: Interval
    verdict: str
    tau: float
    accepted: float | None


@dataclass(frozen=True)
class RoundTime:
    """Milliseconds of a round by phase, and what it emits."""

    tree: str
    phases: dict[str, float]
    tokens: float


@dataclass(frozen=True)
class SpeedRow:
    """A tree in one cell: measured over a plain loop, and predicted."""

    batch: int
    length: int
    method: str
    tau: float
    measured: float
    interval: Interval
    predicted: float


@dataclass(frozen=True)
class PlanCosts:
    """What a plan was made from.

    Attributes:
        costs: of forwards on the machine.
        shares: [D, W], acceptance by depth and rank.
    """

    costs: CostTable
    shares: numpy.ndarray

    def best_tree(self, batch: int, length: int, nodes: int = NODES) -> tuple[StaticTree, float]:
        """The fixed tree of a cell that emits most tokens a second, and its speed over plain.

        Args:
            batch, length: of the cell.
            nodes: the most that it may have, beside what the costs reach.
        """
        cell = self.costs.at(batch, length)
        most = min(nodes, self.costs.tokens[-1] - 1)
        tree, rate = best_tree_for(self.shares, cell.rounds, cell.draft_seconds, most, DEPTH)
        return tree, float(rate * cell.target[0])


def parse_pairs(content: dict[str, Any]) -> list[PairRow]:
    """The drafters of `eagle-hf pair`."""
    rows = []
    for pair in content["pairs"]:
        low, high = pair["interval"]
        row = PairRow(
            drafter=pair["drafter"],
            predicted=pair["predicted"],
            measured=pair["measured"],
            interval=(low, high),
            verdict=pair["verdict"],
            tau=pair["tau"],
            accepted=pair.get("accepted"),
        )
        rows.append(row)
    return rows


def parse_profile(content: dict[str, Any]) -> RoundTime:
    """The phases of `eagle-hf profile`."""
    tree = content["tree"]
    phases = {name: float(value) for name, value in content["phases_ms"].items()}
    return RoundTime(
        "plain decoding" if tree is None else tree, phases, content["tokens_per_round"]
    )


def parse_speeds(content: dict[str, Any]) -> list[SpeedRow]:
    """What `eagle-hf plan` measured in its cells."""
    rows = []
    for row in content["rows"]:
        low, high = row["interval"]
        speed = SpeedRow(
            batch=row["batch"],
            length=row["length"],
            method=row["method"],
            tau=row["tau"],
            measured=row["over_plain"],
            interval=(low, high),
            predicted=row["predicted"],
        )
        rows.append(speed)
    return rows


def parse_plan(content: dict[str, Any]) -> PlanCosts:
    """plan.json."""
    return PlanCosts(CostTable.from_saved(content["costs"]), numpy.asarray(content["shares"]))
